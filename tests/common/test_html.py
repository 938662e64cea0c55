import re

import pandas as pd

from engram_interp import ablation_study, criteria, extract, localize
from engram_interp.common.html import concept_html, table_html, template
from engram_interp.effects.ablation import Only
from tests.conftest import token_concept


def test_results_are_short_in_a_terminal_and_tables_in_a_notebook(llama):
    concept = token_concept()
    engram = extract(llama, concept)
    study = ablation_study(llama, concept, {"gate": Only("gate")}, alpha=1.0)
    for result in (criteria(llama, engram, concept), study, localize(llama, concept)):
        assert len(repr(result)) < 250
        assert "\n" not in repr(result)
        shown = result._repr_html_()
        assert 2 < shown.count("<tr") < 12
        assert "odd" in shown


def test_names_are_escaped():
    shown = table_html("x", "<img src=x>", "<b>", pd.DataFrame({"<i>": ["<u>"]}))
    assert not re.search("<(img|b>|i>|u>)", shown.replace("<b>x:", "", 1))


def test_examples_are_cut_and_counted():
    shown = concept_html(None, {"target": ["a" * 200], "reference": [("q", "a"), *"bcde"]})
    assert "<b>Concept</b>" in shown
    assert f"<li>{'a' * 89}…</li>" in shown
    assert "1 target example<" in shown
    assert "5 reference examples<" in shown
    assert "<li>q → a</li>" in shown
    assert "... and 2 more" in shown


def test_a_template_escapes_what_is_put_into_it():
    assert "&lt;i&gt;" in template("report", "table").render(title="<i>")
