import math

import pandas as pd
import pytest
import torch

from engram_interp.figures import plots

GRID = torch.tensor([[0.1, 0.4], [0.2, math.nan]])
NONE = torch.zeros(2, 2, dtype=torch.bool)
SHARE, RATIO = plots.Scale("share"), plots.Scale("ratio", ratio=True)


def component_map(unembed=(0.5, False), scale=SHARE):
    return plots.component_map(GRID, NONE, ["W_Q", "W_in"], unembed, scale, "t")


def test_a_share_is_drawn_from_zero_to_the_largest():
    figure = component_map()
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (0, 0.5)
    assert figure.layout.title.text == "t"
    assert figure.layout.xaxis.title.text == "layer"
    assert figure.layout.yaxis.title.text == "component"


def test_a_ratio_is_drawn_by_its_logarithm_around_one():
    # 0.1 is farther from 1 than 4 is: log2(0.1) = -3.32. A half and twice are equally far.
    figure = component_map(unembed=(4.0, True), scale=RATIO)
    axis = figure.layout.coloraxis
    assert (axis.cmin, axis.cmax) == (pytest.approx(-math.log2(10)), pytest.approx(math.log2(10)))
    assert figure.data[1].z[0][0] == 2.0
    assert figure.data[1].text[0][0] == "4*"
    assert axis.colorbar.ticktext[2] == "1"
    assert RATIO.axis([1.0])["cmax"] == 1
    assert RATIO.colours(torch.tensor([0.0])).tolist() == [-6.0]


def test_the_unembedding_has_a_row_of_its_own_only_where_there_is_one():
    assert len(component_map().data) == 2
    assert len(component_map(unembed=None).data) == 1
    assert component_map(unembed=(0.5, True)).data[1].text[0][0] == "0.5*"


def test_cells_are_labelled_while_they_are_wide_enough_and_starred_always():
    wide, stars = torch.rand(plots.MAX_LABELLED_COLUMNS + 1, 1), torch.ones(plots.MAX_LABELLED_COLUMNS + 1, 1).bool()
    assert plots.component_map(wide, stars, ["W_Q"], None, SHARE, "t").data[0].text[0][-1] == "*"
    narrow = plots.component_map(wide[:-1], ~stars[:-1], ["W_Q"], None, SHARE, "t").data[0]
    assert list(narrow.text[0]) == [f"{value:.3g}" for value in wide[:-1, 0].tolist()]


def test_a_cell_without_a_matrix_has_no_label():
    assert [list(row) for row in component_map().data[0].text] == [["0.1", "0.2"], ["0.4", ""]]


def test_key_and_value_heads_are_named_so():
    grids = {"W_Q": torch.rand(2, 4), "W_K": torch.rand(2, 2)}
    figure = plots.layer_maps(grids, {name: grid > 2 for name, grid in grids.items()}, "head", SHARE, "t")
    assert figure.layout.xaxis.title.text == "head"
    assert figure.layout.xaxis2.title.text == "key/value head"


def test_the_alpha_curve_keeps_its_colours_and_marks_the_choice():
    points = pd.DataFrame(
        {"alpha": [0.0, 2.0], "target_accuracy": [1.0, 0.2], "target_loss": [0.1, 3.0],
         "reference_accuracy": [1.0, 0.98], "reference_loss": [0.1, 0.2]}
    )  # fmt: skip
    figure = plots.alpha_curve(points, alpha=2.0, floor=0.97, title="t")
    lines = {trace.name: trace for trace in figure.data if trace.showlegend is not False}
    assert list(lines["target"].y) == [1.0, 0.2]
    assert lines["target"].line.color == plots.TARGET_COLOUR
    assert lines["reference"].line.color == plots.REFERENCE_COLOUR
    assert set(lines["chosen: alpha = 2"].x) == {2.0}
    assert set(lines["least reference allowed"].y) == {0.97}
    assert figure.layout.yaxis.title.text == "answer accuracy (share of tokens)"
