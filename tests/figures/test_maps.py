import math

import pandas as pd
import pytest
import torch

from engram_interp.figures.maps import LETTERS, component_map, layer_maps, matrix_map
from engram_interp.figures.scale import Scale

GRID = torch.tensor([[0.1, 0.4], [0.2, math.nan]])
NONE = torch.zeros(2, 2, dtype=torch.bool)
SHARE, RATIO = Scale("share"), Scale("ratio", ratio=True)


def drawn(unembed=(0.5, False), scale=SHARE):
    return component_map(GRID, NONE, ["W_Q", "W_in"], unembed, scale, "t")


def test_a_share_is_drawn_from_zero_to_the_largest():
    figure = drawn()
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (0, 0.5)
    assert figure.layout.title.text == "t"
    assert figure.layout.xaxis.title.text == "layer"
    assert figure.layout.yaxis.title.text == "component"


def test_a_ratio_is_drawn_by_its_logarithm_around_one():
    # 0.1 is farther from 1 than 4 is: log2(0.1) = -3.32. A half and twice are equally far.
    figure = drawn(unembed=(4.0, True), scale=RATIO)
    axis = figure.layout.coloraxis
    assert (axis.cmin, axis.cmax) == (pytest.approx(-math.log2(10)), pytest.approx(math.log2(10)))
    assert figure.data[1].z[0][0] == 2.0
    assert figure.data[1].text[0][0] == "4*"
    assert axis.colorbar.ticktext[2] == "1"


def test_the_unembedding_has_a_row_of_its_own_only_where_there_is_one():
    assert len(drawn().data) == 2
    assert len(drawn(unembed=None).data) == 1
    assert drawn(unembed=(0.5, True)).data[1].text[0][0] == "0.5*"


def test_cells_are_labelled_while_they_are_wide_enough_and_starred_always():
    value, no = 0.123, torch.zeros(20, 1).bool()
    most = LETTERS // len("0.123 ")  # 96 // 6 = 16 cells
    one_more = torch.full((most + 1, 1), value)
    assert component_map(one_more, ~no[: most + 1], ["W_Q"], None, SHARE, "t").data[0].text[0][-1] == "*"
    assert set(component_map(one_more[1:], no[:most], ["W_Q"], None, SHARE, "t").data[0].text[0]) == {"0.123"}
    longer = torch.cat([one_more[2:], torch.tensor([[-0.000123]])])  # "-0.000123 " has 10 letters, and 160 > 96
    assert set(component_map(longer, no[:most], ["W_Q"], None, SHARE, "t").data[0].text[0]) == {""}


def test_a_cell_without_a_matrix_has_no_label():
    assert [list(row) for row in drawn().data[0].text] == [["0.1", "0.2"], ["0.4", ""]]


def test_a_table_is_drawn_in_the_order_of_components_and_experts_share_a_cell():
    rows = [("W_U", None, 0.5), ("W_out", 0, 0.1), ("W_out", 0, 0.3), ("W_Q", 0, 0.4), ("W_Q", 1, 0.6)]
    table = pd.DataFrame(rows, columns=["component", "layer", "x"]).astype({"layer": "Int64"})
    blocks, last = matrix_map(table, "x", ["W_Q", "W_K", "W_out"], 2, SHARE, "t").data
    assert list(blocks.y) == ["W_Q", "W_out"]
    assert [list(row) for row in blocks.text] == [["0.4", "0.6"], ["0.2", ""]]
    assert last.text[0][0] == "0.5"


def test_key_and_value_heads_are_named_so():
    grids = {"W_Q": torch.rand(2, 4), "W_K": torch.rand(2, 2)}
    figure = layer_maps(grids, {name: grid > 2 for name, grid in grids.items()}, "head", SHARE, "t")
    assert figure.layout.xaxis.title.text == "head"
    assert figure.layout.xaxis2.title.text == "key/value head"


@pytest.mark.parametrize(("larger", "apart"), [(2.0, False), (9.0, True)])
def test_maps_that_differ_by_much_have_a_colour_scale_each(larger, apart):
    grids = {"W_Q": torch.ones(2, 4), "W_O": larger * torch.ones(2, 4)}
    figure = layer_maps(grids, {name: grid > 99 for name, grid in grids.items()}, "head", SHARE, "t")
    axes = {name: axis["cmax"] for name, axis in figure.to_dict()["layout"].items() if name.startswith("coloraxis")}
    assert axes == ({"coloraxis": 1, "coloraxis2": larger} if apart else {"coloraxis": larger})
    assert ("a colour scale each" in figure.layout.title.text) is apart
