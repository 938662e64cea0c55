"""Which filter forgets most at the same cost to everything else?

Random sets of 1, 5 and 20 of the testbed's 200 authors are forgotten, with all others and the world facts as the
reference. Each filter of the soft projectors, UCE's ridge, and coarser cuts are made stronger until a tenth of what the
model knew of the others is gone. What is left of the target's answers is then read off where 99, 98 and 95 % of the
others' are left. Differences from the paper's estimator are paired by set. `python -m
analyses.studies.filter_frontier`.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots
from scipy.stats import t as student
from torch import nn
from tqdm.auto import tqdm

import engram_interp as ei
from analyses import results
from engram_interp.answers.scoring import score_encoded
from engram_interp.concepts.batches import encode_groups
from engram_interp.concepts.concept import TokenExample
from engram_interp.linalg.filters import Filter, clip, hard, over, power, soft
from engram_interp.models import LanguageAdapter, adapt_language
from engram_interp.options import Run

SIZES, SEEDS = (1, 5, 20), range(6)
KEEP = (0.99, 0.98, 0.95)
SHOWN = 0.98
N_OTHERS = 300
STRONGEST, N_POINTS = 2.0**14, 6
PAPER = "soft (the paper)"
RESULTS = Path(__file__).with_suffix(".json")


@dataclass(frozen=True)
class Method:
    """How an edit gets stronger: by its filter, or by how often it is subtracted.

    Attributes:
        filter: gives the filter for a strength and `n/N`, the target's share of the tokens.
        alpha: gives the alpha for a strength.
        options: options of `extract`.
    """

    filter: Callable[[float, float], Filter]
    alpha: Callable[[float], float] = lambda strength: strength
    options: dict[str, Any] = field(default_factory=dict)


METHODS = {
    PAPER: Method(lambda _, __: soft),
    "power(1.5)": Method(lambda _, __: power(1.5)),
    "power(2)": Method(lambda _, __: power(2)),
    "power(3)": Method(lambda _, __: power(3)),
    "over(n/N)": Method(lambda _, share: over(share)),
    "hard(n/N)": Method(lambda _, share: hard(share)),
    "hard(2 n/N)": Method(lambda _, share: hard(2 * share)),
    "hard(4 n/N)": Method(lambda _, share: hard(4 * share)),
    "hard, tau lowered at alpha = 1": Method(lambda strength, _: hard(1 / (1 + strength)), lambda _: 1.0),
    "clip, gain raised at alpha = 1": Method(lambda strength, _: clip(strength), lambda _: 1.0),
    "UCE, ridge 1": Method(lambda _, __: soft, options={"ridge": 1.0}),
    "UCE, ridge 1e3": Method(lambda _, __: soft, options={"ridge": 1e3}),
    "UCE, ridge 1e4": Method(lambda _, __: soft, options={"ridge": 1e4}),
    "soft, rtol 2e-3": Method(lambda _, __: soft, options={"rtol": 2e-3}),
    "soft, rtol 1e-2": Method(lambda _, __: soft, options={"rtol": 1e-2}),
    "power(2), rtol 2e-3": Method(lambda _, __: power(2), options={"rtol": 2e-3}),
    "power(2), rtol 1e-2": Method(lambda _, __: power(2), options={"rtol": 1e-2}),
}


def concept_of(size: int, seed: int) -> ei.Concept:
    """A random set of authors, with all others and the world facts as the reference."""
    corpus = ei.testbed.authors()
    people = random.Random(f"{size} {seed}").sample(corpus.full, len(corpus.full))
    target, others = (
        [example for author in some for example in author.examples] for some in (people[:size], people[size:])
    )
    return ei.Concept(target, others + corpus.world_examples, name=f"{size} authors, set {seed}", positions="answer")


def scored(concept: ei.Concept, seed: int, adapter: LanguageAdapter) -> dict[str, list[TokenExample]]:
    """The target, and a sample of the others with all world facts."""
    n_world = len(ei.testbed.authors().world_examples)
    others, world = list(concept.reference[:-n_world]), list(concept.reference[-n_world:])
    sample = random.Random(seed).sample(others, N_OTHERS)
    return encode_groups({"target": concept.target, "others": sample + world}, adapter.encoder)


def curve(before: tuple[float, float], after: Callable[[float], tuple[float, float]]) -> pd.DataFrame:
    """What is kept of the others and left of the target, until a tenth is lost: one row for each strength."""
    points = {0.0: before}

    def kept(strength: float) -> float:
        points[strength] = after(strength)
        return points[strength][0] / before[0]

    strength = low = 1.0
    while kept(strength) >= 0.9 and strength < STRONGEST:
        low, strength = strength, 2 * strength
    high = strength
    while kept(low) < 0.995 and low > 1 / STRONGEST:
        low /= 2
    for strength in np.geomspace(low, high, N_POINTS + 2)[1:-1]:
        kept(float(strength))
    rows = [(strength, k / before[0], left) for strength, (k, left) in sorted(points.items())]
    return pd.DataFrame(rows, columns=["strength", "kept", "target"])


def read_off(points: pd.DataFrame, keep: float) -> float:
    """What is left of the target where `keep` of the others is kept, interpolated between the nearest points."""
    lost = points["kept"] < keep
    if not lost.any():
        return float(points["target"].iloc[-1])
    after = int(np.argmax(lost.to_numpy()))
    pair = points.iloc[[after, after - 1]]
    return float(np.interp(keep, pair["kept"], pair["target"]))


def run(model: nn.Module, size: int, seed: int) -> list[dict[str, Any]]:
    adapter, concept = adapt_language(model), concept_of(size, seed)
    statistics = ei.collect(model, concept, progress=False)
    encoded = scored(concept, seed, adapter)
    share = statistics.token_share()

    def kept_and_left() -> tuple[float, float]:
        scores = score_encoded(adapter, encoded, Run(batch_size=128, progress=False))
        return scores["others"].accuracy, scores["target"].accuracy

    def of(method: Method) -> Callable[[float], tuple[float, float]]:
        made: dict[str, ei.Engram] = {}

        def after(strength: float) -> tuple[float, float]:
            g = method.filter(strength, share)
            if repr(g) not in made:
                made[repr(g)] = ei.extract(model, statistics, filter=g, **method.options)
            with made[repr(g)].ablated(model, method.alpha(strength)):
                return kept_and_left()

        return after

    before = kept_and_left()
    rows: list[dict[str, Any]] = []
    for name, method in METHODS.items():
        points = curve(before, of(method))
        left = {f"left_at_{keep:g}": read_off(points, keep) for keep in KEEP}
        measured = {column: points[column].round(5).tolist() for column in points.columns}
        rows.append({"size": size, "set": seed, "method": name, **left, **measured})
    return rows


def measure() -> results.Tables:
    """All frontiers, and their summary."""
    model = ei.testbed.load("full")
    sets = [(size, seed) for size in SIZES for seed in SEEDS]
    rows = pd.DataFrame([row for one in tqdm(sets) for row in run(model, *one)])
    return {"summary": summary(rows), "frontiers": rows}


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Means over sets, and paired differences from the paper's estimator with 95 % intervals (Student's t)."""
    found = []
    for size in SIZES:
        for keep in KEEP:
            left = rows[rows["size"] == size].pivot(index="set", columns="method", values=f"left_at_{keep:g}")
            difference = left.sub(left[PAPER], axis=0)
            reach = difference.sem() * student.ppf(0.975, len(left) - 1)
            table = pd.DataFrame(
                {
                    "left": left.mean(),
                    "difference": difference.mean(),
                    "low": difference.mean() - reach,
                    "high": difference.mean() + reach,
                    "better_in": (difference < 0).sum(),
                }
            ).loc[list(METHODS)]
            found.append(table.round(4).rename_axis("method").reset_index().assign(size=size, keep=keep))
    return pd.concat(found, ignore_index=True)


def figure(rows: pd.DataFrame, table: pd.DataFrame) -> go.Figure:
    """The differences from the paper's estimator, and below them the frontiers."""
    titles = [f"{size} author{'s' if size > 1 else ''} forgotten" for size in SIZES]
    plot = make_subplots(
        rows=2, cols=3, shared_yaxes=True, horizontal_spacing=0.04, vertical_spacing=0.12, row_heights=[0.5, 0.5],
        subplot_titles=titles,
    )  # fmt: skip
    for column, size in enumerate(SIZES, start=1):
        mine = table[(table["size"] == size) & (table["keep"] == SHOWN) & (table["method"] != PAPER)]
        plot.add_trace(
            go.Scatter(
                x=100 * mine["difference"], y=mine["method"], mode="markers", showlegend=False,
                marker={"color": "#d1495b", "size": 8},
                error_x={
                    "type": "data", "symmetric": False, "array": 100 * (mine["high"] - mine["difference"]),
                    "arrayminus": 100 * (mine["difference"] - mine["low"]), "color": "#d1495b",
                },
            ), 1, column,
        )  # fmt: skip
        place: dict[str, Any] = {"row": 1, "col": column}
        plot.add_vline(x=0, line={"color": "#444444", "dash": "dash"}, **place)
        plot.update_xaxes(title_text="left of the target, minus the paper's (points)", row=1, col=column)
        for name, colour in FRONTIERS.items():
            curves = rows[(rows["size"] == size) & (rows["method"] == name)]
            plot.add_trace(
                go.Scatter(
                    x=100 * GRID, y=100 * mean_frontier(curves), mode="lines", name=name, legendgroup=name,
                    showlegend=column == 1, line={"color": colour, "width": 3 if name == PAPER else 2},
                ), 2, column,
            )  # fmt: skip
        plot.update_xaxes(title_text="kept of the others (%)", autorange="reversed", row=2, col=column)
    plot.update_yaxes(autorange="reversed", row=1)
    plot.update_yaxes(title_text="target answered (%)", row=2, col=1)
    title = f"Filters: what is left of the target where {SHOWN:.0%} of the others is kept (further left forgets more)"
    return plot.update_layout(title=title, template="plotly_white", height=1000)


GRID = np.linspace(0.91, 0.999, 30)
FRONTIERS = {
    PAPER: "#444444",
    "power(2)": "#d1495b",
    "hard(2 n/N)": "#2e6f95",
    "over(n/N)": "#3a7d44",
    "UCE, ridge 1e4": "#b08900",
}


def mean_frontier(curves: pd.DataFrame) -> np.ndarray:
    """The target's accuracy by what is kept, mean over sets."""
    frames = [pd.DataFrame({"kept": row["kept"], "target": row["target"]}) for _, row in curves.iterrows()]
    return np.mean([[read_off(frame, keep) for keep in GRID] for frame in frames], axis=0)


def text(tables: results.Tables) -> str:
    """What is left of targets where most is kept of the others."""
    table = tables["summary"]
    return table[table["keep"] == SHOWN].to_string(index=False)


main = results.study(RESULTS, measure, text, lambda tables: [figure(tables["frontiers"], tables["summary"])])


if __name__ == "__main__":
    main()
