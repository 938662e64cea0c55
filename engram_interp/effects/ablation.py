"""Which layer types carry the memory? One engram ablated in parts: some matrices only, or all but these (Table 8)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from engram_interp.answers.scoring import example_scores
from engram_interp.common.arguments import Layers
from engram_interp.common.progress import bar
from engram_interp.concepts.concept import Concept
from engram_interp.engrams.engram import Engram
from engram_interp.engrams.extract import extract
from engram_interp.engrams.strengths import Alpha
from engram_interp.linalg.intervals import bootstrap_mean
from engram_interp.models import adapt
from engram_interp.models.exclusive import exclusive
from engram_interp.options import Run, Solve, Which, takes
from engram_interp.statistics.statistics import Statistics

if TYPE_CHECKING:
    import plotly.graph_objects as go

logger = logging.getLogger("engram_interp")

UNEDITED = "unedited"


@dataclass(frozen=True)
class Only:
    """The named matrices and no others. What is left None is not restricted. See `Engram.select`."""

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
        """The engram with zeros for the named matrices.

        Raises:
            ValueError: if nothing is named, which would leave nothing to ablate.
        """
        if (self.components, self.layers, self.heads, self.keys) == (None,) * 4:
            raise ValueError("AllBut must name what is not ablated, such as AllBut(['Q', 'K']); got nothing")
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
"""The same for a model without gates, whose non-linearity reads the output of `W_in`."""

ScoreFunction = Callable[[nn.Module, Concept | Statistics], Mapping[str, Sequence[float]]]
"""Takes a model and the concept, and returns a number for each example, by the name of the score."""


@dataclass(frozen=True)
class AblationStudy:
    """Scores of a model without parts of an engram.

    Attributes:
        table: a row for each subset (`unedited` first) and score: `subset`, `score`, `value` (the mean over examples;
            `engram_interp.score` pools their tokens instead), `low` and `high` (its 95 % bootstrap interval), and `n`,
            the number of examples.
        alpha: the strength of the whole edit.
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
        from engram_interp.common.html import table_html
        from engram_interp.figures.small import bars

        frame, lead = self.to_frame(), f"Mean scores of {self.model} without each subset."
        picture = bars(frame.iloc[:, 0].astype(float).to_dict(), f"{frame.columns[0]} without each subset")
        return table_html("Ablation", self.name, lead, frame, picture)

    def to_frame(self) -> pd.DataFrame:
        """Values: a row for each subset, a column for each score."""
        wide = self.table.pivot(index="subset", columns="score", values="value")
        return wide.reindex(index=self.table["subset"].unique(), columns=self.table["score"].unique())

    def plot(self) -> go.Figure:
        """A panel for each score: the value and interval of every subset, and the unedited model's as a line."""
        from engram_interp.figures.curves import ablation_panels

        concept = f" of {self.name!r}" if self.name else ""
        strength = self.alpha if isinstance(self.alpha, str) else "as given"
        strength = f"{self.alpha:.3g}" if isinstance(self.alpha, (int, float)) else strength
        title = f"The engram{concept} ablated in part, {self.model}, alpha = {strength}"
        return ablation_panels(self.table, UNEDITED, title)


def answers(model: nn.Module, concept: Concept | Statistics, **options: Any) -> dict[str, Sequence[float]]:
    """Answer accuracy and loss of every example of target and reference: the default score of `ablation_study`.

    Args:
        model: the model.
        concept: its target and reference.
        options: `batch_size` and `progress`, as in `score`.

    Raises:
        TypeError: if `concept` is statistics, which hold no examples.
    """
    if not isinstance(concept, Concept):
        raise TypeError("statistics hold no examples to score: give the Concept, or a score of your own")
    found = example_scores(model, concept.sides, eos=concept.eos, **{"progress": False, **options})
    return {
        f"{side} {measure}": getattr(scores, measure).tolist()
        for measure in ("accuracy", "loss")
        for side, scores in found.items()
    }


@exclusive
@takes(Which, Solve, Run)
def ablation_study(
    model: nn.Module,
    concept: Concept | Statistics,
    subsets: Mapping[str, Only] = PAPER,
    *,
    alpha: Alpha = "w-norm",
    score: ScoreFunction = answers,
    seed: int = 0,
    which: Which,
    solve: Solve,
    run: Run,
) -> AblationStudy:
    """Ablate parts of a concept's engram, one after the other, and score the model each time (paper, Table 8).

    The engram is extracted once, whatever the number of subsets. The model is restored bit for bit.

    Args:
        model: the model.
        concept: what to look for, or its statistics.
        subsets: `Only(...)` and `AllBut(...)` by name: component types, layers, heads, single matrices. The default is
            the paper's. A model without gates has `W_in` in the gate's place there, and the names say so. Of a plain
            module it is each of its modules by itself.
        alpha: the strength of the whole edit, of which every subset is a part; see `Engram.ablate`. `"w-norm"` is over
            all matrices of the engram, whichever are in a subset.
        score: takes a model and the concept, and returns lists by name, with a number for each example. It is called
            without gradients. The default is `answers`, in batches of `batch_size`.
        seed: of the bootstrap over examples.

    Raises:
        ValueError: if a subset names what the engram lacks, or is called `unedited`, or a score is not a finite number
            for each example; see also `extract`.
        TypeError: if a subset is anything but `Only` or `AllBut`.

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
    _require_subsets(subsets)
    components = dict.fromkeys(site.component for site in adapt(model).all_sites())
    if subsets is PAPER and adapt(model).info.is_plain:
        subsets = {"all modules": Only(), **{f"{name} only": Only(name) for name in components}}
    elif "W_gate" not in components:
        subsets = _without_gates(subsets)
    if score is answers:
        score = partial(answers, batch_size=run.batch_size)
    engram = extract(model, concept, **vars(which), **vars(solve), **vars(run))
    parts = {name: subset.of(engram) for name, subset in subsets.items()}
    strengths = engram.alphas(alpha)
    with torch.no_grad():
        rows = _rows(UNEDITED, score(model, concept), seed)
    for name, part in bar(parts.items(), run.progress, "ablating", "subset"):
        with part.ablated(model, {key: strengths[key] for key in part.weight_norms}), torch.no_grad():
            rows += _rows(name, score(model, concept), seed)
    table = pd.DataFrame(rows)
    _warn_if_nothing_moved(table, alpha)
    return AblationStudy(table, alpha, engram.name, adapt(model).info.name)


def _require_subsets(subsets: object) -> None:
    if not isinstance(subsets, Mapping):
        raise TypeError(f"subsets must be Only(...) or AllBut(...) by name; got a {type(subsets).__name__}")
    if UNEDITED in subsets or not subsets:
        raise ValueError(f"subsets must be one or more by name, and {UNEDITED!r} is the model's; got {list(subsets)}")
    if wrong := [name for name, subset in subsets.items() if not isinstance(subset, Only)]:
        raise TypeError(f"a subset must be Only(...) or AllBut(...); {wrong[0]!r} is {subsets[wrong[0]]!r}")


def _without_gates(subsets: Mapping[str, Only]) -> dict[str, Only]:
    """The subsets with those of the paper replaced by theirs for a model without gates."""
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
        raise ValueError(f"score must return lists by name, with a number for each example; got {scores!r}")
    rows = []
    for name, values in scores.items():
        numbers = np.asarray(values.cpu() if isinstance(values, torch.Tensor) else values, dtype=float)
        if numbers.ndim != 1 or not numbers.size or not np.isfinite(numbers).all():
            raise ValueError(
                f"the score {name!r} of {subset!r} must be a finite number for each example: got {values!r}"
            )
        rows.append({"subset": subset, "score": name, **bootstrap_mean(numbers, seed)})
    return rows
