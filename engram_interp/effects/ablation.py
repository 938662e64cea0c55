"""Which layer types carry the memory? One engram ablated in parts: some matrices only, or all but these (Table 8)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from torch import nn

from engram_interp.answers.scoring import example_scores
from engram_interp.common.arguments import Layers
from engram_interp.common.progress import bar
from engram_interp.concepts.concept import BATCH_SIZE, Concept
from engram_interp.engrams.engram import Alpha, Engram
from engram_interp.engrams.extract import extract
from engram_interp.figures import plots
from engram_interp.models import adapt
from engram_interp.models.exclusive import exclusive
from engram_interp.statistics.statistics import Statistics

logger = logging.getLogger("engram_interp")

UNEDITED = "unedited"
N_RESAMPLES = 1000
LEVEL = 0.95


@dataclass(frozen=True)
class Only:
    """The named matrices and no others; all that is not named is all there is. See `Engram.select`."""

    components: str | Collection[str] | None = None
    layers: Layers = None
    heads: Layers = None
    keys: str | Collection[str] | None = None

    def of(self, engram: Engram) -> Engram:
        """That part of an engram."""
        return engram.select(self.components, self.layers, self.heads, self.keys)


@dataclass(frozen=True)
class AllBut(Only):
    """All matrices but the named ones."""

    def of(self, engram: Engram) -> Engram:
        """That part of an engram: what selecting takes out is zero in it.

        Raises:
            ValueError: nothing is named, so that nothing would be left to ablate.
        """
        if (self.components, self.layers, self.heads, self.keys) == (None,) * 4:
            raise ValueError("AllBut names what is not ablated, as AllBut(['Q', 'K']); got nothing")
        return engram - super().of(engram)


PAPER: Mapping[str, Only] = {
    "all linear projections": Only(),
    "Q/K only": Only(["Q", "K"]),
    "Q/K + gate": Only(["Q", "K", "gate"]),
    "no Q/K/gate": AllBut(["Q", "K", "gate"]),
}
"""The four subsets of the paper's Table 8."""
PAPER_UNGATED: Mapping[str, Only] = {
    "all linear projections": Only(),
    "Q/K only": Only(["Q", "K"]),
    "Q/K + in": Only(["Q", "K", "in"]),
    "no Q/K/in": AllBut(["Q", "K", "in"]),
}
"""The same for a model without gates, where `W_in` is what the non-linearity reads."""

ScoreFunction = Callable[[nn.Module, Concept | Statistics], Mapping[str, Sequence[float]]]
"""From a model and the concept: by name of the score, a number an example."""


@dataclass(frozen=True)
class AblationStudy:
    """Scores of a model without parts of an engram.

    Attributes:
        table: a row a subset and score: `subset` (first, `unedited`), `score`, `value` (the mean over examples, where
            `engram_interp.score` pools their tokens), `low` and `high` (its 95 % bootstrap interval), `n` examples.
        alpha: strength of the whole edit.
        name: the concept's name.
        model: the model's name.
    """

    table: pd.DataFrame
    alpha: Alpha = "w-norm"
    name: str | None = None
    model: str = ""

    def __repr__(self) -> str:
        frame = self.to_frame()
        scores = ", ".join(map(str, frame))
        return f"AblationStudy({self.name!r} in {self.model!r}, {len(frame) - 1} subsets, scores: {scores})"

    def _repr_html_(self) -> str:
        from engram_interp.common.notebook import table_html

        return table_html("Ablation", self.name, f"Mean scores of {self.model} without each subset.", self.to_frame())

    def to_frame(self) -> pd.DataFrame:
        """Values, a row a subset and a column a score."""
        wide = self.table.pivot(index="subset", columns="score", values="value")
        return wide.reindex(index=self.table["subset"].unique(), columns=self.table["score"].unique())

    def plot(self) -> go.Figure:
        """A panel a score: every subset's value and interval, the unedited model's as a line."""
        concept = f" of {self.name!r}" if self.name else ""
        strength = self.alpha if isinstance(self.alpha, str) else "as given"
        strength = f"{self.alpha:.3g}" if isinstance(self.alpha, (int, float)) else strength
        title = f"The engram{concept} ablated in part, {self.model}, alpha = {strength}"
        return plots.ablation_study(self.table, UNEDITED, title)


def answers(model: nn.Module, concept: Concept | Statistics) -> dict[str, Sequence[float]]:
    """Answer accuracy and loss of every example of target and reference: the default score of `ablation_study`.

    Raises:
        TypeError: statistics, which hold no examples.
    """
    if not isinstance(concept, Concept):
        raise TypeError("statistics hold no examples to score: give the Concept, or a score of your own")
    found = example_scores(model, concept.sides, progress=False)
    return {
        f"{side} {measure}": getattr(scores, measure).tolist()
        for measure in ("accuracy", "loss")
        for side, scores in found.items()
    }


@exclusive
def ablation_study(
    model: nn.Module,
    concept: Concept | Statistics,
    subsets: Mapping[str, Only] = PAPER,
    *,
    alpha: Alpha = "w-norm",
    score: ScoreFunction = answers,
    batch_size: int = BATCH_SIZE,
    rtol: float | int | None = None,
    absorb_bias: bool = True,
    delta_from: nn.Module | None = None,
    seed: int = 0,
    progress: bool | None = None,
) -> AblationStudy:
    """Ablate parts of a concept's engram, one after the other, and score the model each time (paper, Table 8).

    The engram is extracted once, whatever the number of subsets; the model is restored bit for bit.

    Args:
        model: the model.
        concept: what to look for, or its statistics.
        subsets: `Only(...)` and `AllBut(...)` by name: component types, layers, heads, single matrices. The default is
            the paper's; of these, a model without gates has `W_in` in the gate's place, and the names say so.
        alpha: strength of the whole edit, of which every subset is a part; see `Engram.ablate`. `"w-norm"` is over all
            matrices, whichever are in a subset.
        score: from a model and the concept to lists, one number an example, by name; called without gradients. See
            `answers`, the default.
        batch_size: examples in a batch of the statistics.
        rtol: the spectral cut; see `extract`.
        absorb_bias: see `extract`.
        delta_from: see `extract`.
        seed: of the bootstrap over examples.
        progress: True or False shows or hides the bar; None shows it in a terminal and in a notebook.

    Raises:
        ValueError: a subset that names what the model lacks, or one that is called `unedited`; scores that are not a
            finite number an example; see also `extract`.
        TypeError: a subset of another kind.

    Example:
        >>> import engram_interp as ei
        >>> model, corpus = ei.testbed.load("full"), ei.testbed.authors()
        >>> author, *others = corpus.forget10[:4]
        >>> concept = ei.Concept(author.examples, [example for other in others for example in other.examples])
        >>> layers = {f"layer {i}": ei.Only(layers=i) for i in range(4)}
        >>> study = ei.ablation_study(model, concept, layers | {"all but heads 0": ei.AllBut("Q", heads=0)}, alpha=2.0)
        >>> list(study.to_frame())
        ['target accuracy', 'reference accuracy', 'target loss', 'reference loss']
    """
    if not isinstance(subsets, Mapping):
        raise TypeError(f"subsets are Only(...) or AllBut(...) by name, got a {type(subsets).__name__}")
    if UNEDITED in subsets or not subsets:
        raise ValueError(f"subsets are one or more by name, {UNEDITED!r} is the model itself; got {list(subsets)}")
    if wrong := [name for name, subset in subsets.items() if not isinstance(subset, Only)]:
        raise TypeError(f"a subset is Only(...) or AllBut(...); {wrong[0]!r} is {subsets[wrong[0]]!r}")
    if not any(site.component == "W_gate" for site in adapt(model).all_sites()):
        subsets = _without_gates(subsets)
    engram = extract(
        model, concept, batch_size=batch_size, rtol=rtol, absorb_bias=absorb_bias, delta_from=delta_from,
        progress=progress,
    )  # fmt: skip
    parts = {name: subset.of(engram) for name, subset in subsets.items()}
    strengths = engram.alphas(alpha)
    with torch.no_grad():
        rows = _rows(UNEDITED, score(model, concept), seed)
    for name, part in bar(parts.items(), progress, "ablating", "subset"):
        with part.ablated(model, {key: strengths[key] for key in part.weight_norms}), torch.no_grad():
            rows += _rows(name, score(model, concept), seed)
    table = pd.DataFrame(rows)
    _warn_if_nothing_moved(table, alpha)
    return AblationStudy(table, alpha, engram.name, adapt(model).info.name)


def _without_gates(subsets: Mapping[str, Only]) -> dict[str, Only]:
    """The paper's subsets, where they are among these, as they are in a model without gates."""
    others = dict(zip(PAPER, PAPER_UNGATED.items(), strict=True))
    return dict(others[name] if PAPER.get(name) == subset else (name, subset) for name, subset in subsets.items())


def _warn_if_nothing_moved(table: pd.DataFrame, alpha: Alpha) -> None:
    before = table[table["subset"] == UNEDITED].set_index("score")
    low, high = (table["score"].map(before[end]) for end in ("low", "high"))
    if table["value"].between(low, high).all():
        logger.warning(
            "no subset moves a score out of the unedited model's interval at alpha = %s: choose_alpha finds the "
            "strongest edit that keeps the reference", alpha,
        )  # fmt: skip


def _rows(subset: str, scores: Any, seed: int) -> list[dict[str, object]]:
    if not isinstance(scores, Mapping) or not scores:
        raise ValueError(f"a score returns lists, one number an example, by name; got {scores!r}")
    rows = []
    for name, values in scores.items():
        numbers = np.asarray(values.cpu() if isinstance(values, torch.Tensor) else values, dtype=float)
        if numbers.ndim != 1 or not numbers.size or not np.isfinite(numbers).all():
            raise ValueError(
                f"the score {name!r} of {subset!r} is not a list of finite numbers, one an example: got {values!r}"
            )
        rows.append({"subset": subset, "score": name, **_mean(numbers, seed)})
    return rows


def _mean(values: np.ndarray, seed: int) -> dict[str, float]:
    """The mean over examples, and its bootstrap interval where there are two or more."""
    from scipy.stats import bootstrap

    low = high = float("nan")
    if len(values) > 1:
        resampled = bootstrap(
            (values,), np.mean, n_resamples=N_RESAMPLES, confidence_level=LEVEL, method="percentile", batch=64,
            rng=np.random.default_rng(seed),
        )  # fmt: skip
        low, high = resampled.confidence_interval
    return {"value": float(values.mean()), "low": float(low), "high": float(high), "n": len(values)}
