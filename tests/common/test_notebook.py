"""What a notebook shows, and what is left of it in the page that nbconvert makes."""

import json
import re

import nbformat
import pandas as pd
import plotly.graph_objects as go
import pytest
import torch
from nbconvert import HTMLExporter
from nbconvert.preprocessors import ExecutePreprocessor

from engram_interp import ablation_study, criteria, extract, localize
from engram_interp.common.notebook import table_html
from engram_interp.effects.ablation import Only
from engram_interp.figures import plots
from engram_interp.figures.figure import MIMETYPE
from tests.conftest import token_concept

CELLS = [
    "import sys, pandas as pd, torch\nfrom engram_interp.figures import plots\n"
    "scale = plots.Scale('size')\n"
    "draw = lambda title: plots.component_map(torch.ones(2, 1), torch.zeros(2, 1).bool(), ['W_Q'], None, scale, title)",
    "draw('the first')",
    "draw('one of two'), draw('two of two')",
    "[draw(f'number {i}') for i in range(2)]",
    "from engram_interp.common.progress import bar\nlist(bar(range(300), None, 'the bar'))[-1]",
    "for i in bar(range(3), None, 'stopped'):\n    break\nprint('after')",
]


@pytest.fixture(scope="module")
def executed():
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    ExecutePreprocessor(timeout=120, kernel_name="python3").preprocess(notebook)
    return notebook


def figures_of(cell) -> list[str]:
    return [output["data"]["text/html"] for output in cell.outputs if MIMETYPE in output.get("data", {})]


def test_every_figure_of_a_cell_is_shown_also_in_a_tuple_or_a_list(executed):
    assert [len(figures_of(cell)) for cell in executed.cells] == [0, 1, 2, 2, 0, 0]
    assert "one of two" in figures_of(executed.cells[2])[0]
    assert "two of two" in figures_of(executed.cells[2])[1]


def test_the_script_is_in_the_page_once_and_every_figure_is_drawn(executed):
    page, _ = HTMLExporter().from_notebook_node(executed)
    assert page.count("window._define = window.define") == 1
    assert page.count("window.Plotly.newPlot(") == 5
    assert all(title in page for title in ("the first", "one of two", "two of two", "number 0", "number 1"))


def test_a_figure_is_data_html_and_a_short_name():
    figure = plots.component_map(
        torch.ones(1, 1), torch.zeros(1, 1).bool(), ["W_Q"], None, plots.Scale("s"), "</script> x"
    )
    bundle = figure._repr_mimebundle_()
    assert isinstance(figure, go.Figure)
    assert repr(figure) == "Figure('</script> x')"
    assert bundle[MIMETYPE]["layout"]["title"]["text"] == "</script> x"
    assert json.dumps(bundle[MIMETYPE])
    drawn = bundle["text/html"].rpartition("<script>")[2]
    assert drawn.count("</script>") == 1  # what stands in a title does not end it
    assert len(re.findall(r'<div id="(figure-[0-9a-f-]+)"', bundle["text/html"])) == 1


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


def test_a_bar_is_an_output_of_its_own_and_nothing_of_it_is_left(executed):
    page, _ = HTMLExporter().from_notebook_node(executed)
    shown = executed.cells[4].outputs
    assert [output.output_type for output in shown] == ["display_data", "execute_result"]
    assert "%" not in str(shown)
    assert "stderr" not in str(executed.cells[4:])
    assert page.count("the bar:") == 0
