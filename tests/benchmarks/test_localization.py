import math

import pytest
from torch import nn

from engram_interp import Concept
from engram_interp.benchmarks import Case, Place, Ranking, localization

MODEL = nn.Linear(1, 1)
CONCEPT = Concept(["a"], ["b"])


def case(kind="planted", keys=("x", "y"), elsewhere=(), target_set=0):
    place = Place("there", frozenset(keys)) if keys else None
    decoy = Place("elsewhere", frozenset(elsewhere)) if elsewhere else None
    return Case(kind, target_set, CONCEPT, lambda: MODEL, MODEL, place, decoy)


def said(scores, p_values=()):
    names = "xyzuv"
    return lambda *_: Ranking(dict(zip(names, scores, strict=True)), dict(zip(names, p_values)))


def test_measures_by_hand():
    # x and y hold it. Of the six pairs of one that does and one that does not, five are in order.
    method = said([9.0, 2.0, 3.0, 1.0, 0.0], [0.01, 0.2, 0.05, 0.5, 1.0])
    row = localization({"one": method}, [case()], progress=False).table.iloc[0]
    assert row["auroc"] == pytest.approx(5 / 6)
    assert row["first"] == 1
    assert row["detected"] == pytest.approx(1 / 2)  # x
    assert row["false_alarms"] == pytest.approx(1 / 3)  # z
    assert row["any_false_alarm"] == 1
    assert math.isnan(row["decoy_alarms"])


def test_a_decoys_place_and_a_model_without_a_memory_have_alarms_alone():
    method = said([9.0, 2.0, 3.0, 1.0, 0.0], [0.01, 0.2, 0.05, 0.5, 1.0])
    cases = [case("decoy", elsewhere=("z", "u")), case("before", keys=())]
    decoy, before = localization({"one": method}, cases, progress=False).table.to_dict("records")
    assert decoy["decoy_alarms"] == pytest.approx(1 / 2)
    assert math.isnan(before["auroc"])
    assert before["any_false_alarm"] == 1
    assert before["false_alarms"] == pytest.approx(2 / 5)


def test_a_method_without_p_values_has_no_alarms():
    row = localization(
        {"one": lambda *_: dict(zip("xyzuv", [5.0, 4.0, 3.0, 2.0, 1.0]))}, [case()], progress=False
    ).table.iloc[0]
    assert row["auroc"] == 1
    assert math.isnan(row["false_alarms"])


def test_the_interval_is_over_targets():
    # Two targets with a mean AUROC of 1 and 0.5: t(0.975, 1) = 12.706, and sd / sqrt(2) = 0.25.
    def method(model, target, reference):
        return {"x": float(target[0] == "a"), "z": 0.0}

    other = Case("planted", 1, Concept(["c"], ["b"]), lambda: MODEL, MODEL, Place("there", frozenset("x")))
    found = localization({"one": method}, [case(keys=("x",)), case(keys=("x",)), other], progress=False).to_frame()
    assert found.loc["one", "auroc"] == pytest.approx(0.75)
    assert found.loc["one", "auroc_low"] == pytest.approx(0.75 - 12.706 * 0.25, rel=1e-3)


def test_a_method_that_leaves_out_the_place_is_refused():
    with pytest.raises(ValueError, match="one gives no score to y"):
        localization({"one": lambda *_: {"x": 1.0}}, [case()], progress=False)


def test_a_leaderboard_draws_itself():
    board = localization(
        {"one": said([9.0, 2.0, 3.0, 1.0, 0.0], [0.01, 0.2, 0.05, 0.5, 1.0])}, [case()], progress=False
    )
    assert "1 memories of 1 targets" in board.plot().layout.title.text
    assert "one" in board._repr_html_()
    assert repr(board) == "Leaderboard(1 methods, 1 cases)"
