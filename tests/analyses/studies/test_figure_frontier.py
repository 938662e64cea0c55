"""Scores beside costs: made by hand, every method in its place."""

from typing import Any

import pandas as pd
import pytest

from analyses.studies.figure_frontier import figure, frontier, spread, unbeaten

SCORES = pd.DataFrame(
    [
        {"method": method, "score": score, "value": value, "low": value - 0.1, "high": value + 0.05}
        for method, value in {"full": 0.0, "retain": 1.0, "NPO": 0.8, "UCE": 0.5}.items()
        for score in ("overall", "utility")
    ]
)
COSTS = pd.DataFrame(
    [
        {"method": "UCE", "seconds": 2.0, "bytes": 10, "flops": 100},
        {"method": "NPO", "seconds": 60.0, "bytes": 30, "flops": 5000},
    ]
)


def test_every_method_has_its_score_and_its_cost():
    table = frontier(SCORES, COSTS)
    assert table["value"].to_dict() == {"UCE": 0.5, "NPO": 0.8}
    assert table["flops"].to_dict() == {"UCE": 100, "NPO": 5000}
    assert table["kind"].to_dict() == {"UCE": "closed form", "NPO": "gradient methods"}


def test_a_method_that_one_table_lacks_is_named():
    with pytest.raises(ValueError, match="NPO has either no Overall or no cost"):
        frontier(SCORES, COSTS[:1])


def test_the_figure_has_both_costs_with_the_intervals_of_overall():
    plot: Any = figure(frontier(SCORES, COSTS))
    assert {axis.type for axis in plot.select_xaxes()} == {"log"}
    points = {(trace.xaxis, trace.hovertext[0]): trace for trace in plot.data if trace.hovertext}
    assert points["x", "NPO"].x[0] == 60
    assert points["x2", "UCE"].x[0] == 100
    assert points["x2", "NPO"].error_y.arrayminus[0] == pytest.approx(0.1)


def test_what_fails_is_named_below_and_what_is_beaten_is_off_the_line():
    more = pd.DataFrame([{"method": name, "seconds": 70.0, "bytes": 1, "flops": 6000} for name in ("RMU", "AltPO")])
    scored = [
        {"method": name, "score": "overall", "value": value, "low": value, "high": value}
        for name, value in (("RMU", 0.01), ("AltPO", 0.7))
    ]
    table = frontier(pd.concat([SCORES, pd.DataFrame(scored)]), pd.concat([COSTS, more]))
    assert list(unbeaten(table, "seconds").index) == ["UCE", "NPO"]
    plot: Any = figure(table)
    assert plot.layout.annotations[-1].text == "below 0.05: RMU"
    assert {note.text for note in plot.layout.annotations[:-1]} == {"UCE", "NPO", "AltPO"}


def test_names_stand_at_their_values_or_below_the_last():
    # A line is 0.035: 0.79 would be 0.01 below 0.8, so it goes to 0.765, and 0.78 below that.
    assert spread([0.8, 0.79, 0.78, 0.2]) == pytest.approx([0.8, 0.765, 0.73, 0.2])
