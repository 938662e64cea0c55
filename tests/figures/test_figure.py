"""What a notebook shows of figures, and what is left of them in the page that nbconvert makes."""

import json
import re

import plotly.graph_objects as go
import pytest
import torch
from nbconvert import HTMLExporter

from engram_interp.figures.figure import MIMETYPE
from engram_interp.figures.maps import component_map
from engram_interp.figures.scale import Scale
from tests.notebooks import executed

CELLS = [
    "import torch\nfrom engram_interp.figures.maps import component_map\n"
    "from engram_interp.figures.scale import Scale\nscale = Scale('size')\n"
    "draw = lambda title: component_map(torch.ones(2, 1), torch.zeros(2, 1).bool(), ['W_Q'], None, scale, title)",
    "draw('the first')",
    "draw('one of two'), draw('two of two')",
    "[draw(f'number {i}') for i in range(2)]",
]


@pytest.fixture(scope="module")
def notebook():
    return executed(CELLS)


def figures_of(cell) -> list[str]:
    return [output["data"]["text/html"] for output in cell.outputs if MIMETYPE in output.get("data", {})]


def test_every_figure_of_a_cell_is_shown_also_in_a_tuple_or_a_list(notebook):
    assert [len(figures_of(cell)) for cell in notebook.cells] == [0, 1, 2, 2]
    assert "one of two" in figures_of(notebook.cells[2])[0]
    assert "two of two" in figures_of(notebook.cells[2])[1]


def test_the_script_is_in_the_page_once_and_every_figure_is_drawn(notebook):
    page, _ = HTMLExporter().from_notebook_node(notebook)
    assert page.count("window._define = window.define") == 1
    assert page.count("window.Plotly.newPlot(") == 5
    assert all(title in page for title in ("the first", "one of two", "two of two", "number 0", "number 1"))


def test_a_figure_is_data_html_and_a_short_name():
    figure = component_map(torch.ones(1, 1), torch.zeros(1, 1).bool(), ["W_Q"], None, Scale("s"), "</script> x")
    bundle = figure._repr_mimebundle_()
    assert isinstance(figure, go.Figure)
    assert repr(figure) == "Figure('</script> x')"
    assert bundle[MIMETYPE]["layout"]["title"]["text"] == "</script> x"
    assert json.dumps(bundle[MIMETYPE])
    drawn = bundle["text/html"].rpartition("<script>")[2]
    assert drawn.count("</script>") == 1  # what stands in a title does not end it
    assert len(re.findall(r'<div id="(figure-[0-9a-f-]+)"', bundle["text/html"])) == 1
