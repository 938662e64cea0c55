import pandas as pd
import pytest

from engram_interp.figures.learning import (
    answer_lines,
    component_lines,
    continual_lines,
    graft_curves,
    layer_shares,
    map_film,
    step_maps,
)
from engram_interp.figures.scale import Scale
from engram_interp.figures.style import REFERENCE_COLOUR, TARGET_COLOUR

MAPS = pd.DataFrame(
    [
        {"step": step, "component": name, "layer": layer, "size": 10 * step + layer, "low": 0.0, "high": 5.0}
        for step in (0, 5)
        for name in ("W_Q", "W_in")
        for layer in (0, 1)
    ]
).astype({"layer": "Int64"})
ANSWERS = pd.DataFrame(
    [
        {"step": step, "concept": "c", "side": side, "accuracy": 0.1 * step, "loss": 1.0}
        for step in (0, 5)
        for side in ("target", "reference")
    ]
)


def test_one_curve_of_grafts_has_the_colours_of_its_sides_and_marks_the_choice():
    curve = pd.DataFrame(
        {"share": [0.0, 0.1, 1.0], "target_accuracy": [0.2, 0.5, 0.9], "reference_accuracy": [0.3] * 3}
    )
    figure = graft_curves({"low rank": curve}, 0.1, "t")
    lines = [trace for trace in figure.data if trace.name == "low rank"]
    assert [trace.line.color for trace in lines] == [TARGET_COLOUR, REFERENCE_COLOUR]
    assert list(lines[0].x) == [0.1, 1.0]  # a logarithmic axis has no 0
    assert list(lines[0].y) == [0.5, 0.9]
    assert figure.layout.shapes[0].y0 == 0.2
    assert {trace.name for trace in figure.data} == {"low rank", "chosen: 0.1"}
    both = graft_curves({"a": curve, "b": curve}, None, "t")
    assert len({trace.line.color for trace in both.data}) == 2


def test_lines_by_component_are_means_over_layers_within_the_band():
    figure = component_lines(MAPS, ANSWERS, "size", ("low", "high"), ["W_Q", "W_in"], "t")
    engram = [trace for trace in figure.data if trace.name == "the engram"]
    assert [list(trace.y) for trace in engram] == [[0.5, 50.5]] * 2
    bands = [trace for trace in figure.data if trace.name == "the null's band"]
    assert [list(trace.y) for trace in bands] == [[5.0, 5.0]] * 2
    assert [trace.showlegend for trace in bands] == [True, False]
    without = component_lines(MAPS, ANSWERS[:0], "size", (), ["W_Q"], "t")
    assert [trace.name for trace in without.data] == ["the engram"]


def test_a_film_has_a_frame_for_each_step_with_the_places_of_a_map():
    figure = map_film(MAPS, "size", ["W_Q", "W_in"], Scale("size"), {0: 0.5}, "t")
    assert [frame.name for frame in figure.frames] == ["0", "5"]
    assert list(figure.frames[1].data[0].y) == ["W_Q", "W_in"]
    assert figure.frames[1].data[0].z.tolist() == [[50.0, 51.0], [50.0, 51.0]]
    assert figure.data[0].z.tolist() == [[0.0, 1.0], [0.0, 1.0]]
    assert [one.label for one in figure.layout.sliders[0].steps] == ["step 0, 50% right", "step 5"]
    assert figure.layout.coloraxis.cmax == 51


def test_maps_over_steps_have_a_panel_for_each_component():
    figure = step_maps(MAPS, "size", ["W_Q", "W_in"], Scale("size"), "t")
    assert [list(trace.x) for trace in figure.data] == [["0", "5"]] * 2
    assert figure.data[0].z.tolist() == [[0.0, 50.0], [1.0, 51.0]]


def test_answers_are_lines_with_dashes_for_references():
    figure = answer_lines(ANSWERS, "t")
    assert [trace.line.dash for trace in figure.data] == ["solid", "solid", "dot", "dot"]
    assert list(figure.data[0].y) == [0.0, 0.5]


def test_sets_and_layers_are_means_over_runs():
    accuracies = pd.DataFrame(
        [{"way": "a", "on": "x", "after": after, "accuracy": one} for after in ("x", "y") for one in (0.2, 0.4)]
    )
    figure = continual_lines(accuracies, ["a"], ["x"], ["x", "y"], "t")
    assert list(figure.data[0].y) == pytest.approx([0.3, 0.3])
    shares = pd.DataFrame([{"arm": "a", "step": 0, "layer": 0, "share": one} for one in (0.2, 0.4)])
    drawn = layer_shares(shares, 7, "t")
    assert list(drawn.data[0].y) == pytest.approx([0.3])
    assert drawn.layout.shapes[0].x0 == 7
