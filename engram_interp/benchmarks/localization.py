"""Which method finds where a memory was planted, and what does it call significant that is not?

A method is a function of a model, a target and a reference that gives every matrix (or head, or weight) a score, and a
p-value if it has one. For each memory, the AUROC of those that hold it, and whether the first is one of them; at 5 %,
the share of them that is significant (detection) and the share of all others (false alarms). Memories of one target are
not independent, so intervals are over targets.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from engram_interp.answers.scoring import score
from engram_interp.benchmarks.cases import DECOY, PLANTED, Case
from engram_interp.benchmarks.places import Place
from engram_interp.benchmarks.ranking import auroc
from engram_interp.common.progress import bar
from engram_interp.concepts.concept import TARGET, Example
from engram_interp.options import Show, takes

if TYPE_CHECKING:
    import plotly.graph_objects as go

LEVEL = 0.05
MEASURES = ("auroc", "first", "detected", "false_alarms", "any_false_alarm", "decoy_alarms")


Scores: TypeAlias = Mapping[str, float | Float[Tensor, "..."]]


@dataclass(frozen=True)
class Ranking:
    """What a method says of a model's matrices.

    Attributes:
        score: by key; more means more of the memory. A number, or one for each head or weight. If a memory lies in
            heads or weights, a number stands for all of its matrix.
        p_value: likewise; empty if the method has none.
    """

    score: Scores
    p_value: Scores = field(default_factory=dict)


Method: TypeAlias = Callable[[nn.Module, Sequence[Example], Sequence[Example]], Ranking | Scores]


@dataclass(frozen=True)
class Leaderboard:
    """How well every method found every memory.

    Attributes:
        table: a row for each method and case: `method`, `kind`, `target_set`, `place`, `elsewhere`, `known` (the share
            of the target's answer tokens that the model gets right), `auroc`, `first`, `detected`, `false_alarms`,
            `any_false_alarm`, `decoy_alarms`, `seconds`. NaN where a case or a method has none.
    """

    table: pd.DataFrame

    def to_frame(self) -> pd.DataFrame:
        """A row for each method: means over planted memories, and of false alarms by kind, with 95 % intervals."""
        return pd.DataFrame({name: _summary(rows) for name, rows in self.table.groupby("method", sort=False)}).T

    def plot(self) -> go.Figure:
        """Every method's AUROC, detection and false alarms, a point for each target."""
        from engram_interp.figures.leaderboard import leaderboard_figure

        planted = self.table[self.table["kind"] == PLANTED]
        n_cases, n_targets = len(planted) // planted["method"].nunique(), planted["target_set"].nunique()
        title = f"Which method finds a planted memory? {n_cases} memories of {n_targets} targets"
        return leaderboard_figure(planted, title)

    def plot_places(self, method: str) -> go.Figure:
        """A method's AUROC, detection and false alarms by the place where memories were planted.

        Raises:
            ValueError: if the method is none of the leaderboard's.
        """
        from engram_interp.figures.leaderboard import leaderboard_figure

        mine = self.table[(self.table["kind"] == PLANTED) & (self.table["method"] == method)]
        if not len(mine):
            raise ValueError(f"method must be one of {', '.join(self.table['method'].unique())}; got {method!r}")
        title = f"Where does {method} find a planted memory? {mine['target_set'].nunique()} targets"
        return leaderboard_figure(mine, title, of="place")

    def __repr__(self) -> str:
        methods, cases = self.table["method"].nunique(), len(self.table) // max(1, self.table["method"].nunique())
        return f"Leaderboard({methods} methods, {cases} cases)"

    def _repr_html_(self) -> str:
        from engram_interp.common.html import table_html

        return table_html("Localization benchmark", None, "Means over planted memories:", self.to_frame().round(3))


@takes(Show)
def localization(methods: Mapping[str, Method], cases: Iterable[Case] | None = None, *, show: Show) -> Leaderboard:
    """Rank methods that say where a memory is, by memories whose place is known.

    Args:
        methods: by name. A method is called as `method(model, target, reference)`, and returns scores by key, or a
            `Ranking`, which has p-values too.
        cases: what to find. None takes the testbed's memories: five targets of four authors, each in every module, and
            the cases beside them. That trains sixty models, some 3 s each; methods take what they take.

    Raises:
        ValueError: if a method leaves out a matrix that holds the memory, or its scores have another shape or are NaN.

    Example:
        >>> import engram_interp as ei
        >>> model, corpus = ei.testbed.load("full"), ei.testbed.authors()
        >>> places = ei.benchmarks.modules_of(model)[:1]
        >>> cases = ei.benchmarks.planted(model, [corpus.holdout[0].examples], corpus.examples[:200], places)
        >>> def largest(model, target, reference):
        ...     return ei.localize(model, ei.Concept(target, reference))
        >>> ei.benchmarks.localization({"W-Norm": largest}, cases)
        Leaderboard(1 methods, 1 cases)
    """
    if cases is None:
        from engram_interp.benchmarks.standard import standard_cases

        cases = standard_cases()
    rows = []
    for case in bar(list(cases), show.progress, "finding memories", "case"):
        model = case.make()
        known = score(model, {TARGET: case.concept.target}, progress=False)[TARGET].accuracy
        for name, method in methods.items():
            began = time.perf_counter()
            found = method(model, case.concept.target, case.concept.reference)
            seconds = time.perf_counter() - began
            judged = _judged(name, _ranking(found), case)
            rows.append({"method": name, **_described(case), "known": known, **judged, "seconds": seconds})
    return Leaderboard(pd.DataFrame(rows))


def _ranking(found: Ranking | Scores) -> Ranking:
    return found if isinstance(found, Ranking) else Ranking(found)


def _described(case: Case) -> dict[str, object]:
    place, elsewhere = (None if one is None else one.name for one in (case.place, case.elsewhere))
    return {"kind": case.kind, "target_set": case.target_set, "place": place, "elsewhere": elsewhere}


def _judged(name: str, found: Ranking, case: Case) -> dict[str, float]:
    true = _truth(found.score, case.place)
    scores, holds = _flat(name, found.score, true), np.concatenate([true[key].numpy().ravel() for key in true])
    row: dict[str, float] = dict.fromkeys(MEASURES, float("nan"))
    if case.place:
        row |= {"auroc": auroc(scores, holds), "first": float(holds[scores.argmax()])}
    if found.p_value:
        starred = _flat(name, found.p_value, true) <= LEVEL
        row |= {"false_alarms": starred[~holds].mean(), "any_false_alarm": float(starred[~holds].any())}
        if case.place:
            row["detected"] = starred[holds].mean()
        if case.elsewhere:
            decoy = (_flat(name, {key: key in case.elsewhere.keys for key in true}, true) > 0) & ~holds
            row["decoy_alarms"] = starred[decoy].mean()
    return row


def _truth(scores: Scores, place: Place | None) -> Mapping[str, Bool[Tensor, "..."]]:
    """What holds the memory, for every key that is ranked or holds it."""
    if place is not None and place.parts:
        return place.parts
    wanted = frozenset[str]() if place is None else place.keys
    return {key: torch.tensor(key in wanted) for key in dict.fromkeys([*scores, *sorted(wanted)])}


def _flat(name: str, values: Mapping[str, Any], true: Mapping[str, Bool[Tensor, "..."]]) -> np.ndarray:
    """All values in a row, in the order of `true`; a number stands for all of its matrix."""
    found = []
    for key, mask in true.items():
        if key not in values:
            raise ValueError(f"{name} gives no number to {key}, which may hold the memory; it has {len(values)} keys")
        value = torch.as_tensor(values[key], dtype=torch.float64).detach().cpu()
        if value.shape not in (torch.Size(), mask.shape):
            raise ValueError(
                f"{name} gives {key} numbers of shape {list(value.shape)}; here it must be one number"
                f"{f' or have the shape {list(mask.shape)}' if mask.ndim else ''}"
            )
        if value.isnan().any():
            raise ValueError(f"{name} gives {key} NaN; it must be a number, and -inf is the lowest")
        found.append(value.expand(mask.shape).numpy().ravel())
    return np.concatenate(found)


def _summary(rows: pd.DataFrame) -> dict[str, float]:
    """Means over planted memories and over the others, with intervals."""
    found: dict[str, float] = {}
    planted, decoys = rows[rows["kind"] == PLANTED], rows[rows["kind"] == DECOY]
    for column in ("auroc", "first", "detected", "false_alarms"):
        found |= _with_interval(column, planted, column)
    found |= _with_interval("decoy_alarms", decoys, "decoy_alarms")
    for kind in rows["kind"].unique():
        if kind not in (PLANTED, DECOY):
            found |= _with_interval(f"{kind}_any_alarm", rows[rows["kind"] == kind], "any_false_alarm")
    return {**found, "seconds": rows["seconds"].mean()}


def _with_interval(name: str, rows: pd.DataFrame, column: str) -> dict[str, float]:
    """The mean over targets, and its 95 % interval by Student's t over their own means."""
    from scipy.stats import t

    means = rows.groupby("target_set")[column].mean().dropna().to_numpy()
    mean = means.mean() if len(means) else float("nan")
    half = t.ppf(0.975, len(means) - 1) * means.std(ddof=1) / len(means) ** 0.5 if len(means) > 1 else float("nan")
    return {name: mean, f"{name}_low": mean - half, f"{name}_high": mean + half}
