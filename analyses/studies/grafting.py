"""How much of a change carries a memory, by masks in closed form and by a learned one?

The testbed's `full` learned twenty authors that `base` does not know. Each of them is grafted into `base` alone, in
every way that `graft` has, at the same shares of all entries. `python -m analyses.studies.grafting`, 20 minutes.

The share that carries is chosen on every second question of an author; accuracies are those of the others. Intervals
are 95 % bootstraps over authors.
"""

import random
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from scipy.stats import bootstrap

import engram_interp as ei
from analyses import results
from analyses.markdown import table
from analyses.results import Tables
from engram_interp.figures.learning import graft_curves
from engram_interp.learning.grafting.grafting import WAYS

N_AUTHORS, N_REFERENCE, SEED = 10, 300, 0
SHARES = (0.0, 0.003, 0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 1.0)
SHOWN = (0.01, 0.03, 0.1, 0.3)
RESULTS = Path(__file__).with_suffix(".json")


def concept_of(corpus: ei.testbed.Corpus, name: str, rng: random.Random) -> ei.Concept:
    """An author against a sample of the others."""
    concept = corpus.concept(name)
    return ei.Concept(concept.target, rng.sample(list(concept.reference), N_REFERENCE), name)


def measure() -> Tables:
    """A row for each author, way and share."""
    full, base, corpus = ei.testbed.load("full"), ei.testbed.load("base"), ei.testbed.authors()
    rng, tables = random.Random(SEED), []
    for author in corpus.forget10[:N_AUTHORS]:
        concept = concept_of(corpus, author.name, rng)
        for by in WAYS:
            found = ei.graft(full, base, concept, by=by, shares=SHARES, progress=False)
            assert found.curve is not None
            tables.append(found.curve.assign(author=author.name, by=by, chosen=found.share))
    return {"curves": pd.concat(tables, ignore_index=True)}


def interval(values: pd.Series) -> tuple[float, float]:
    """The 95 % bootstrap interval of a mean."""
    some = values.to_numpy()
    if np.ptp(some) == 0:
        return float(some[0]), float(some[0])
    found = bootstrap((some,), np.mean, method="basic", rng=np.random.default_rng(SEED)).confidence_interval
    return float(found.low), float(found.high)


def carried(curves: pd.DataFrame, column: str = "target_carried") -> pd.DataFrame:
    """Means over authors and their intervals, a row for each way and share."""
    rows = []
    for (by, share), some in curves.groupby(["by", "share"], sort=False):
        low, high = interval(some[column])
        rows.append({"by": by, "share": share, "mean": some[column].mean(), "low": low, "high": high})
    return pd.DataFrame(rows)


def of_grafting(tables: Tables) -> str:
    """What grafts carry at equal shares, what they bring of other authors, and which share is enough."""
    curves = tables["curves"]
    found, others = carried(curves), curves.groupby(["by", "share"])["reference_accuracy"].mean()
    rows = []
    for by in dict.fromkeys(curves["by"]):
        mine = found[found["by"] == by].set_index("share")
        chosen = curves[curves["by"] == by].groupby("author")["chosen"].first()
        cells = [
            f"{mine.at[one, 'mean']:.2f} ({mine.at[one, 'low']:.2f} to {mine.at[one, 'high']:.2f})" for one in SHOWN
        ]
        rows.append(
            [by, *cells, f"{others[by, 0.3]:.3f}", f"{chosen.median():g} ({chosen.min():g} to {chosen.max():g})"]
        )
    head = ["chosen by", *[f"{one:.0%} grafted" for one in SHOWN], "others' accuracy at 30 %", "share that carries"]
    return table(head, rows)


def figures(tables: Tables) -> list[go.Figure]:
    """The curves of every way, over all authors."""
    means = tables["curves"].groupby(["by", "share"], sort=False).mean(numeric_only=True).reset_index()
    curves = {str(by): some for by, some in means.groupby("by", sort=False)}
    return [graft_curves(curves, None, f"What grafts of an author carry into the testbed's base (mean of {N_AUTHORS})")]


main = results.study(RESULTS, measure, of_grafting, figures)

if __name__ == "__main__":
    main()
