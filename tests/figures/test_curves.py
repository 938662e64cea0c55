import pandas as pd

from engram_interp.figures.curves import ablation_panels, alpha_curve, criteria_panels
from engram_interp.figures.style import MATRIX_COLOUR, REFERENCE_COLOUR, TARGET_COLOUR


def test_the_alpha_curve_keeps_its_colours_and_marks_the_choice():
    points = pd.DataFrame(
        {"alpha": [0.0, 2.0], "target_accuracy": [1.0, 0.2], "target_loss": [0.1, 3.0],
         "reference_accuracy": [1.0, 0.99], "reference_loss": [0.1, 0.2], "check_accuracy": [1.0, 0.98],
         "check_loss": [0.1, 0.3]}
    )  # fmt: skip
    figure = alpha_curve(points, alpha=2.0, floor=0.97, title="t")
    lines = {trace.name: trace for trace in figure.data if trace.showlegend is not False}
    assert list(lines["target"].y) == [1.0, 0.2]
    assert lines["target"].line.color == TARGET_COLOUR
    assert list(lines["reference, held out"].y) == [1.0, 0.98]
    assert list(lines["reference, fitted"].y) == [1.0, 0.99]
    assert {lines[f"reference, {part}"].line.color for part in ("held out", "fitted")} == {REFERENCE_COLOUR}
    assert set(lines["chosen: alpha = 2"].x) == {2.0}
    assert set(lines["least held-out accuracy allowed"].y) == {0.97}
    assert figure.layout.yaxis.title.text == "answer accuracy (share of tokens)"


def test_criteria_are_boxes_of_matrices_and_a_diamond_for_the_edit():
    matrices = pd.DataFrame({"key": ["a", "b"], "kept": [0.1, 0.2], "gone": [0.3, 0.4]})
    behaviour = pd.DataFrame({"target_accuracy": [0.9], "reference_accuracy": [0.8]}, index=["unedited"])
    figure = criteria_panels(matrices, {"kept": 0.05, "gone": 0.5}, behaviour, "t")
    boxes = [trace for trace in figure.data if trace.type == "box"]
    assert [list(trace.y) for trace in boxes] == [[0.1, 0.2], [0.3, 0.4]]
    assert [trace.showlegend for trace in boxes] == [True, False]
    (edit,) = [trace for trace in figure.data if trace.type == "scatter"]
    assert dict(zip(edit.x, edit.y)) == {"kept": 0.05, "gone": 0.5}
    assert {trace.name: trace.y[0] for trace in figure.data if trace.type == "bar"} == {"target": 0.9, "reference": 0.8}


def test_subsets_are_drawn_with_their_intervals_and_the_colour_of_their_side():
    rows = [("unedited", "target loss", 1.0, 0.5, 1.5), ("heads", "target loss", 3.0, 2.0, 5.0),
            ("unedited", "speed", 9.0, 9.0, 9.0), ("heads", "speed", 8.0, 8.0, 8.0)]  # fmt: skip
    table = pd.DataFrame(rows, columns=["subset", "score", "value", "low", "high"])
    figure = ablation_panels(table, "unedited", "t")
    loss, speed = figure.data
    assert (list(loss.y), list(loss.x)) == (["heads"], [3.0])
    assert (loss.error_x.array[0], loss.error_x.arrayminus[0]) == (2.0, 1.0)
    assert (loss.marker.color, speed.marker.color) == (TARGET_COLOUR, MATRIX_COLOUR)
    assert [line.x0 for line in figure.layout.shapes] == [1.0, 9.0]
