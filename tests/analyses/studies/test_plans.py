import pandas as pd

from analyses import results
from analyses.studies import plans


def test_what_is_recorded_is_what_a_plan_says():
    recorded = results.read(plans.RESULTS)["plans"]
    first, *_ = recorded.to_dict("records")
    found = plans.planned("1B", None, 1, 1)
    assert first["sums"] == found.inputs["sums"].sum()
    assert first["passes"] == len(found.passes) == 1
    assert set(recorded["model"]) == set(plans.MODELS)


def test_the_table_has_units():
    row = {
        "model": "8B", "budget": "", "processes": 1, "passes": 2, "weights": 16_000_000_000, "sums": 38_000_000_000,
        "store": 21_600_000_000, "map": 14_600_000_000, "engrams": 1, "rows": 1, "each": 21_300_000_000,
        "seconds": 180.0,
    }  # fmt: skip
    line = plans.of_plans({"plans": pd.DataFrame([row])}).splitlines()[2]
    assert line == "| 8B | 16.0 GB | 38.0 GB | 21.6 GB | none | 1 | 2 | 21.3 GB | 14.6 GB | 3 min |"
