import pandas as pd
import torch

import engram_interp as ei
from analyses.studies import continual
from analyses.training.fit import Schedule
from engram_interp import filters


def accuracies() -> pd.DataFrame:
    rows = []
    for seed in continual.SEEDS:
        for way, kept in (("nothing", 0.6), ("rehearsal", 0.9), ("protect, soft", 0.8), ("frozen graft", 0.7)):
            for after in continual.SETS:
                for on in ("before", *continual.SETS):
                    rows.append({"seed": seed, "way": way, "after": after, "on": on, "accuracy": kept, "loss": 0.1})
    return pd.DataFrame(rows)


def test_the_table_leaves_out_the_seed_of_the_choice():
    found = accuracies()
    found.loc[found["seed"] == continual.SEEDS[0], "accuracy"] = 0.0
    lines = continual.of_continual(
        {"accuracies": found, "chosen": pd.DataFrame({"way": ["protect, soft"]})}
    ).splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == [
        "| nothing", "| rehearsal", "| protect, soft", "| frozen graft",
    ]  # fmt: skip
    assert lines[2].count("0.60 (0.60 to 0.60)") == 6


def test_filters_are_compared_on_that_seed():
    text = continual.of_kept_by_filters({"accuracies": accuracies()})
    assert text.splitlines()[2] == "| protect, soft | 0.80 | 0.80 | 0.80 | 0.80 |"


def test_sets_are_parts_of_one_order():
    before, *sets = continual.sets_of(0)
    every = [pair for some in (before, *sets) for pair in some]
    assert len(set(every)) == len(every)
    assert [len(some) for some in sets] == [800, 800, 800]
    assert continual.sets_of(1)[1] != sets[0]


def test_a_run_learns_every_set_and_goes_back_to_grafts(monkeypatch):
    corpus = ei.testbed.authors()
    known = continual.pairs_of(corpus.retain90[:10])
    sets = [known, *(corpus.retain90[i].examples for i in (11, 12, 13))]
    monkeypatch.setattr(continual, "SET", Schedule(2, learning_rate=1e-3, batch_size=20))
    monkeypatch.setattr(continual, "STEPS", 1)
    start = ei.testbed.load("base")
    ways = {"nothing": None, "rehearsal": None, "protect, soft": continual.protecting(filters.soft, "every")}
    for way, guard in ways.items():
        found = continual.run(start, sets, 0, way, guard)
        assert len(found) == 12
        assert found["way"].unique().tolist() == [way]
    found = continual.run(start, sets, 0, "frozen graft", None)
    assert len(found) == 12
    assert all(torch.equal(p, q) for p, q in zip(start.parameters(), ei.testbed.load("base").parameters(), strict=True))
