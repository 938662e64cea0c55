import math

import pytest
import torch

from engram_interp import Concept, score, testbed
from engram_interp.benchmarks import Case, Place, Ranking, localization

MODEL = testbed.load("base")
FIRST, SECOND, KNOWN = (author.examples[:2] for author in testbed.authors().full[:3])
CONCEPT = Concept(FIRST, KNOWN)


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
    assert row["known"] == score(MODEL, {"first": FIRST}, progress=False)["first"].accuracy


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


def heads_case(**parts):
    place = Place("head", frozenset("x"), 0, {key: torch.tensor(mask) for key, mask in parts.items()})
    return Case("planted", 0, CONCEPT, lambda: MODEL, MODEL, place)


def test_heads_are_ranked_by_a_number_each_or_by_that_of_their_matrix():
    # One of four heads holds it. By a number each it comes second; by its matrix's, it ties with one above two.
    parts = heads_case(x=[True, False], y=[False, False])
    each = lambda *_: Ranking(  # noqa: E731
        {"x": torch.tensor([3.0, 1.0]), "y": torch.tensor([4.0, 0.0]), "z": 9.0},
        {"x": torch.tensor([0.01, 0.02]), "y": 0.5, "z": 0.01},
    )
    rows = localization({"each": each, "whole": lambda *_: {"x": 1.0, "y": 0.0}}, [parts], progress=False).table
    first, second = rows.to_dict("records")
    assert (first["auroc"], first["first"]) == (pytest.approx(2 / 3), 0)
    assert (first["detected"], first["false_alarms"]) == (1, pytest.approx(1 / 3))
    assert second["auroc"] == pytest.approx(2.5 / 3)


def test_scores_of_another_shape_are_refused():
    method = {"one": lambda *_: {"x": torch.zeros(3), "y": 0.0}}
    heads, whole = heads_case(x=[True, False], y=[False, False]), case(keys="x")
    with pytest.raises(ValueError, match=r"one gives x numbers of shape \[3\].* shape \[2\]"):
        localization(method, [heads], progress=False)
    with pytest.raises(ValueError, match=r"one gives x numbers of shape \[3\]; here it must be one number"):
        localization(method, [whole], progress=False)


def test_the_interval_is_over_targets():
    # Two targets with a mean AUROC of 1 and 0.5: t(0.975, 1) = 12.706, and sd / sqrt(2) = 0.25.
    def method(model, target, reference):
        return {"x": float(target == FIRST), "z": 0.0}

    other = Case("planted", 1, Concept(SECOND, KNOWN), lambda: MODEL, MODEL, Place("there", frozenset("x")))
    found = localization({"one": method}, [case(keys=("x",)), case(keys=("x",)), other], progress=False).to_frame()
    assert found.loc["one", "auroc"] == pytest.approx(0.75)
    assert found.loc["one", "auroc_low"] == pytest.approx(0.75 - 12.706 * 0.25, rel=1e-3)


def test_a_method_that_leaves_out_the_place_is_refused():
    with pytest.raises(ValueError, match="one gives no number to y"):
        localization({"one": lambda *_: {"x": 1.0}}, [case()], progress=False)


def test_nan_is_refused():
    one = case(keys="x")
    with pytest.raises(ValueError, match="one gives z NaN"):
        localization({"one": lambda *_: {"x": 1.0, "z": math.nan}}, [one], progress=False)


def test_a_p_value_that_is_missing_is_refused():
    one = case(keys="x")
    with pytest.raises(ValueError, match="one gives no number to z"):
        localization({"one": lambda *_: Ranking({"x": 1.0, "z": 0.0}, {"x": 0.5})}, [one], progress=False)


def test_a_leaderboard_draws_itself():
    board = localization(
        {"one": said([9.0, 2.0, 3.0, 1.0, 0.0], [0.01, 0.2, 0.05, 0.5, 1.0])}, [case()], progress=False
    )
    assert "1 memories of 1 targets" in board.plot().layout.title.text
    places = board.plot_places("one")
    assert set(places.data[1].y) == {"there"}
    assert places.data[1].x[0] == pytest.approx(5 / 6)
    with pytest.raises(ValueError, match="one of one; got 'two'"):
        board.plot_places("two")
    assert "one" in board._repr_html_()
    assert repr(board) == "Leaderboard(1 methods, 1 cases)"
