import re

import pytest

from engram_interp import Concept, testbed
from engram_interp.report.report import investigate, render, write_report


@pytest.fixture(scope="module")
def concept() -> Concept:
    corpus = testbed.authors()
    author, *others = corpus.forget10[:4]
    reference = [example for other in others for example in other.examples] + corpus.world_examples[:20]
    return Concept(author.examples, reference, name="A <b>name</b>")


def test_the_page_says_what_was_found_and_needs_nothing_else(full, concept, tmp_path):
    findings = investigate(full, concept, gold=testbed.load("retain"))
    write_report(findings, "made by a test", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert page == render(findings, "made by a test")
    assert page.count("plotly-graph-div") >= 6
    assert not re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="http', page)
    assert "A &lt;b&gt;name&lt;/b&gt;" in page
    assert f"alpha = {findings.choice.alpha:.3g}" in page
    assert "made by a test" in page
    assert page.count("family-wise)") >= 3
    rows = findings.criteria.to_frame()
    assert all(name in page and row.condition in page for name, row in rows.iterrows())
    assert f"{100 * rows.loc['necessity', 'behavioural']:.1f} %" in page
    first = findings.wmap.top(1, by="fisher_excess").iloc[0]
    assert f"most of all in {first['key']}: {first['fisher_excess']:.2f} times" in page


def test_the_tables_compare_before_and_after(full, concept):
    findings = investigate(full, concept, keep=0.97)
    target, reference = findings.answers["target"], findings.answers["reference"]
    assert [row.truth for row in target] == [answer for _, answer in concept.target]
    assert len(reference) == 20
    assert reference[-1].question.startswith("What is the capital of")
    changed = [sum(row.before != row.after for row in rows) / len(rows) for rows in (target, reference)]
    assert changed[0] > changed[1]
    assert findings.scores.loc["everything else (reference)", "after the ablation"] >= 0.97 * 0.97


def test_examples_without_a_question_have_no_table(full):
    question = "What is the capital of Norway?"
    findings = investigate(full, Concept([f"{question} Oslo"], [f"{question} Oslo", "the letters Al"]))
    assert findings.answers == {}
    assert "Other questions" not in render(findings, "")
