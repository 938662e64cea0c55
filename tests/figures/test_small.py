"""Small pictures: what they draw, what a name may hold, and that each is SVG."""

import math
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engram_interp.figures.scale import Scale
from engram_interp.figures.small import bars, cells, lines

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = "<script>\"&'"
numbers = st.sampled_from([math.nan, math.inf, -math.inf]) | st.floats(-1e6, 1e6, width=32)


def parsed(picture):
    return ElementTree.fromstring(picture.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1))


def test_a_map_has_a_cell_for_each_number_in_its_colour():
    # 1 is the largest, the end of the scale; NaN has no cell.
    root = parsed(cells([[1.0, math.nan], [0.0, 0.5]], ["W_Q", "W_O"], ["layer 0", "layer 1"], Scale("share"), "x"))
    drawn = [one for one in root.iter(f"{SVG}rect") if one.find(f"{SVG}title") is not None]
    assert [one.find(f"{SVG}title").text for one in drawn] == [
        "W_Q, layer 0: 1",
        "W_O, layer 0: 0",
        "W_O, layer 1: 0.5",
    ]
    assert [one.get("fill") for one in drawn][:2] == ["rgb(253, 231, 37)", "rgb(68, 1, 84)"]
    assert drawn[0].get("y") != drawn[1].get("y")
    assert drawn[1].get("x") != drawn[2].get("x")


def test_bars_are_as_long_as_their_numbers():
    root = parsed(bars({"a": 1.0, "b": 0.25, "c": math.nan}, "x"))
    widths = [float(one.get("width")) for one in root.iter(f"{SVG}rect")]
    assert widths == [140.0, 35.0, 1.0]  # 140 pixels for the largest; 1 for nothing
    assert [one.text for one in root.iter(f"{SVG}text")] == ["a", "1", "b", "0.25", "c", "-"]


def test_lines_run_from_left_to_right_and_up():
    root = parsed(lines([2.0, 0.0, 1.0], {"target": [0.0, 1.0, math.nan]}, "alpha", "accuracy", marked=2.0))
    (line,) = root.iter(f"{SVG}polyline")
    (x_0, y_0), (x_2, y_2) = [tuple(map(float, one.split(","))) for one in line.get("points").split()]
    assert x_0 < x_2
    assert y_0 < y_2  # 1 stands above 0


@pytest.mark.parametrize(
    "picture",
    [
        cells([[1.0]], [HOSTILE], [HOSTILE], Scale(HOSTILE), HOSTILE),
        bars({HOSTILE: 1.0}, HOSTILE),
        lines([0.0, 1.0], {HOSTILE: [0.0, 1.0]}, HOSTILE, HOSTILE),
    ],
)
def test_a_name_is_no_markup(picture):
    assert not any(one.tag == f"{SVG}script" for one in parsed(picture).iter())
    assert parsed(picture).get("role") == "img"


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(numbers, min_size=2, max_size=2), min_size=1, max_size=4))
def test_any_numbers_can_be_drawn(values):
    names = [str(i) for i in range(len(values))]
    for scale in (Scale("x"), Scale("x", ratio=True), Scale("x", signed=True)):
        parsed(cells(values, names, ["a", "b"], scale, "x"))
    parsed(bars({name: row[0] for name, row in zip(names, values)}, "x"))
    parsed(lines([0.0, 1.0], dict(zip(names, values)), "x", "y"))


def test_nothing_can_be_drawn_too():
    for picture in (bars({}, "x"), lines([], {}, "x", "y"), cells([], [], [], Scale("x"), "x")):
        parsed(picture)
