"""Tables of the studies, from results made by hand."""

import math

import pandas as pd

from analyses.studies.tables import (
    FILTERS,
    of_authors,
    of_calibration,
    of_filters,
    of_forgetting,
    of_levels,
    of_localization,
    of_overlap,
)


def lines(text):
    return text.splitlines()[2:]


def test_methods_are_ranked_by_auroc_and_intervals_end_at_zero_and_one():
    of_score = {"auroc": 0.98, "auroc_low": 0.9, "auroc_high": 1.06, "first": 1.0, "first_low": 1.0, "first_high": 1.0}
    nothing = {"detected": math.nan, "false_alarms": math.nan, "decoy_alarms": math.nan}
    rows = [{"method": "chance", "auroc": 0.5, **nothing}, {"method": "score", **of_score, **nothing}]
    found = lines(of_localization({"summary": pd.DataFrame(rows)}))
    assert found == ["| **score** | 0.98 [0.90, 1.00] | 1.00 |", "| chance | 0.50 | - |"]


def test_filters_are_differences_in_points_from_what_the_papers_leaves():
    rows = [
        {"method": name, "size": size, "keep": keep, "left": 0.5 + size / 100, "difference": -0.031, "low": -0.05,
         "high": 0.0125}
        for name in ("soft (the paper)", *FILTERS) for size in (1, 5, 20) for keep in (0.98, 0.95)
    ]  # fmt: skip
    first, second, *_ = lines(of_filters({"summary": pd.DataFrame(rows)}))
    assert first.endswith("| 51.0 % | 55.0 % | 70.0 % |")
    assert second == "| `power(1.5)` |" + " -3.1 [-5.0, 1.2] |" * 3


def test_related_concepts_stand_beside_the_others():
    values = {"over_chance": 1.5, "smallest_angle": 10.0, "mean_angle": 66.6}
    rows = [
        {"family": family, "ablated": "A", "scored": scored, "related": related, "accuracy_lost": lost}
        # The more overlap, the more answers lost, and the less loss gained.
        | {"overlap": 0.1 + lost, "loss_gained": -lost, **values}
        for family in ("authors", "attributes")
        for scored, related, lost in (("A", True, 0.5), ("B", True, 0.08), ("C", False, 0.02), ("D", False, 0.04))
    ]
    assert lines(of_overlap({"pairs": pd.DataFrame(rows)})) == [
        "| authors, related | 1 | 0.180 | 1.50 | 67° | 8.0% | 50.0% |",
        "| authors, others | 2 | 0.130 | 1.50 | 67° | 3.0% |  |",
        "| questions, related | 1 | 0.180 | 1.50 | 67° | 8.0% | 50.0% |",
        "| questions, others | 2 | 0.130 | 1.50 | 67° | 3.0% |  |",
        "",
        "| rank correlation of overlap with | answers lost | loss gained |",
        "| --- | --- | --- |",
        "| authors | 1.00 | -1.00 |",
        "| questions | 1.00 | -1.00 |",
    ]


def test_authors_found_by_features_are_counted_from_four_fifths_on():
    found = {
        "own_target_lost": 0.4, "sae_target_lost": 0.3, "own_target_lost_at_12": 0.5, "own_reference_lost_at_12": 0.02,
        "sae_target_lost_at_12": 0.6, "sae_reference_lost_at_12": 0.1, "recall": 1.0, "precision": 0.5,
        "cosine_median": 0.75, "map_correlation": 0.9,
    }  # fmt: skip
    authors = pd.DataFrame([{"author": name, "share_of_forgetting": share, **found}
                            for name, share in (("A", 0.8), ("B", 0.79), ("C", 0.9))])  # fmt: skip
    text = lines(of_authors({"authors": authors}))
    assert text[0].endswith("mean of 3 | 40.0% | 30.0% |")
    assert text[1].endswith("|  | 2 of 3 (median 80%) |")
    assert text[2].endswith("| 50.0%; 2.0% | 60.0%; 10.0% |")
    assert text[3].endswith("|  | 100%; 50% |")


def test_levels_stand_side_by_side_and_say_what_was_learnt():
    summary = [
        {"level": "head", "method": "score", "auroc": 0.9, "auroc_low": 0.8, "auroc_high": 1.1},
        {"level": "weights", "method": "|W+|", "auroc": 0.5, "auroc_low": 0.5, "auroc_high": 0.5},
        {"level": "head", "method": "learned mask", "auroc": 0.95, "auroc_low": math.nan, "auroc_high": math.nan},
        {"level": "weights", "method": "learned mask", "auroc": 0.51, "auroc_low": math.nan, "auroc_high": math.nan},
    ]
    cases = [{"level": "head", "known": 0.9}, {"level": "head", "known": 1.0}, {"level": "weights", "known": 0.984}]
    assert lines(of_levels({"summary": pd.DataFrame(summary), "cases": pd.DataFrame(cases)})) == [
        "| learned mask | 0.95 | 0.51 |",
        "| score | 0.90 [0.80, 1.00] | - |",
        "| \\|W+\\| | - | 0.50 |",
        "| *known after planting* | 95 % | 98 % |",
    ]


def test_calibration_has_a_row_for_each_model_and_size():
    rows = [
        {"world": "gpt2", "memories": 4, "of": of, "targets": 200, "any": share, "units": 0.001}
        for of, share in (("matrices", 0.05), ("heads", 0.045), ("either", 0.08))
    ]
    assert lines(of_calibration({"summary": pd.DataFrame(rows)})) == [
        "| GPT-2's architecture | 4 | 200 | 5.0 % | 4.5 % | 8.0 % |"
    ]


def test_forgetting_has_a_row_for_each_place():
    found = {"share": 0.12, "in_place": 0.75, "left": 0.544, "kept": 0.98, "relearned": 0.6, "came_back": 0.0}
    rows = [
        {"kind": "planted", "place": "score", **found},
        {"kind": "ordinary", "place": "score", **found, "in_place": math.nan},
        {"kind": "planted", "place": "where it was planted", **found, "in_place": 1.0},
    ]
    assert lines(of_forgetting({"summary": pd.DataFrame(rows)})) == [
        "| score | 75 % | 54 % | 98 % | 60 % | 54 % | 98 % | 60 % |",
        "| where it was planted | 100 % | 54 % | 98 % | 60 % | - | - | - |",
    ]
