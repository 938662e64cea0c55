"""How strong an edit? The largest `alpha` with `accuracy(reference, alpha) >= keep * accuracy(reference, 0)`.

An edit's strength means nothing by itself: `W+` shrinks as its concept gets rarer, and alpha grows to match. What an
edit leaves of everything else can be compared between concepts and models.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd
from torch import nn

from engram_interp.answers.scoring import Score, side_by_side
from engram_interp.common.arguments import Number, number
from engram_interp.common.progress import bar
from engram_interp.concepts.batches import encode_groups
from engram_interp.concepts.concept import REFERENCE, TARGET, Concept, require_concept
from engram_interp.effects.trials import Trials
from engram_interp.engrams.engram import Engram, require_engram
from engram_interp.models import adapt
from engram_interp.models.exclusive import exclusive
from engram_interp.options import Run, takes

if TYPE_CHECKING:
    import plotly.graph_objects as go

logger = logging.getLogger("engram_interp")

MAX_ALPHA = 1024.0
MIN_ALPHA = 2.0**-10


@dataclass(frozen=True)
class AlphaChoice:
    """An edit strength, and what every strength that was tried did.

    Attributes:
        alpha: the strongest edit tried that keeps enough of the reference. At the limits of the search it is 1024, if
            every edit keeps enough, or 0, if even the weakest does not. A warning is logged then.
        keep: the share of the reference's answer accuracy that had to stay.
        curve: a row for each strength, from 0 up: `alpha`, `target_accuracy`, `target_loss`, `reference_accuracy`,
            `reference_loss`, and `reference_share`, the share of the reference's examples that were scored. It is 1 at
            0 and at `alpha`; elsewhere a part may have been enough to tell.
        name: the concept's name.
    """

    alpha: float
    keep: float | int
    curve: pd.DataFrame
    name: str | None = None

    def __repr__(self) -> str:
        before, after = self.curve.iloc[0], self.chosen
        moved = [
            f"{side} {before[f'{side}_accuracy']:.1%} -> {after[f'{side}_accuracy']:.1%}"
            for side in (TARGET, REFERENCE)
        ]
        return f"AlphaChoice({self.name!r}, alpha = {self.alpha:.3g}, answer accuracy: {', '.join(moved)})"

    def _repr_html_(self) -> str:
        from engram_interp.common.html import table_html

        lead = f"alpha = {self.alpha:.3g} keeps {self.keep:.1%} of the reference's answer accuracy"
        rows = self.curve[self.curve["alpha"].isin([0.0, self.alpha])].set_index("alpha")
        return table_html("Strength", self.name, lead, rows)

    @property
    def chosen(self) -> pd.Series:
        """The curve's row at `alpha`."""
        return self.curve[self.curve["alpha"] == self.alpha].iloc[0]

    @property
    def floor(self) -> float:
        """The smallest reference accuracy that was allowed."""
        return self.keep * float(self.curve["reference_accuracy"].iloc[0])

    def plot(self) -> go.Figure:
        """Accuracy and loss of target and reference by strength, and the strength chosen."""
        from engram_interp.figures.curves import alpha_curve

        concept = f" of {self.name!r}" if self.name else ""
        title = f"Ablating the engram{concept}: what is forgotten and what stays"
        return alpha_curve(self.curve, self.alpha, self.floor, title)


@exclusive
@takes(Run)
def choose_alpha(
    model: nn.Module,
    engram: Engram,
    concept: Concept,
    keep: Number = 0.98,
    *,
    rel_tol: Number = 0.05,
    run: Run,
) -> AlphaChoice:
    """The strongest ablation that keeps the reference's answer accuracy at `keep` of what it was.

    The strength is doubled (or halved) from 1 until it is bracketed, then bisected. Every trial edits the model in
    place and scores the target, and as much of the reference as it takes to tell; the strength that is returned keeps
    enough of all of it. The model is restored bit for bit.

    Args:
        model: the model that the engram is part of.
        engram: what to ablate.
        concept: its target and reference, as text or tokens. Statistics are not enough: the model runs on them.
        keep: the share of the reference's answer accuracy (see `score`) that must stay, in (0, 1].
        rel_tol: the search stops when the bracket is this narrow, as a share of alpha, or as narrow as floats allow.

    Raises:
        ValueError: if `keep` or `rel_tol` is out of range, or the model gets nothing of the reference right.

    Example:
        >>> import engram_interp as ei
        >>> model, corpus = ei.testbed.load("full"), ei.testbed.authors()
        >>> author, *others = corpus.forget10[:4]
        >>> concept = ei.Concept(author.examples, [example for other in others for example in other.examples])
        >>> choice = ei.choose_alpha(model, ei.extract(model, concept), concept)
        >>> bool(choice.chosen["reference_accuracy"] >= choice.floor)
        True
    """
    keep, rel_tol = _share(keep), _width(rel_tol)
    require_concept(concept)
    require_engram(engram)
    adapter = adapt(model)
    encoded = encode_groups(concept.sides, adapter.encoder)
    trials = Trials(adapter, encoded, keep, run)
    kept: dict[float, bool] = {}
    with engram.editing(model) as ablate, bar(None, run.progress, "choosing alpha", "strength") as shown:
        trials.keeps_surely(0.0)
        if not trials.scores()[0.0][REFERENCE].accuracy:
            raise ValueError("the model gets no answer token of the reference right, so there is nothing to keep")

        def keeps(alpha: float) -> bool:
            if alpha not in kept:
                ablate(alpha)
                kept[alpha] = trials.keeps(alpha)
                shown.update()
            return kept[alpha]

        while not trials.is_whole(alpha := _strongest(keeps, rel_tol)):
            ablate(alpha)
            kept[alpha] = trials.keeps_surely(alpha)
    tried = trials.scores()
    _warn_of_limits(alpha)
    _warn_if_not_forgotten(tried, alpha, keep)
    return AlphaChoice(alpha, keep, _curve(tried, trials.shares()), concept.name)


def _share(keep: Number) -> float:
    if not 0 < (found := number(keep, "keep")) <= 1:
        raise ValueError(f"keep must be a share of the reference's accuracy, 0 < keep <= 1; got {keep}")
    return found


def _width(rel_tol: Number) -> float:
    if not (found := number(rel_tol, "rel_tol")) > 0:
        raise ValueError(f"rel_tol must be above 0, the relative width at which to stop; got {rel_tol}")
    return found


def _strongest(keeps: Callable[[float], bool], rel_tol: float) -> float:
    """The strongest edit tried that keeps enough: bracketed, then bisected."""
    low, high = _bracket(keeps)
    while high - low > rel_tol * high:
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if keeps(middle) else (low, middle)
    return low


def _warn_of_limits(alpha: float) -> None:
    if alpha in (0.0, MAX_ALPHA):
        logger.warning(
            "alpha = %g is a limit of the search, not a choice: %s", alpha,
            "every edit tried keeps enough" if alpha else "no edit tried keeps enough",
        )  # fmt: skip


def _warn_if_not_forgotten(tried: dict[float, dict[str, Score]], alpha: float, keep: float) -> None:
    before, after = tried[0.0][TARGET].accuracy, tried[alpha][TARGET].accuracy
    if 0 < alpha < MAX_ALPHA and after >= keep * before:
        logger.warning(
            "alpha = %.3g keeps enough of the reference, but of the target too: %.1f %% of its answer tokens are "
            "right, %.1f %% before", alpha, 100 * after, 100 * before,
        )  # fmt: skip


def _bracket(keeps: Callable[[float], bool]) -> tuple[float, float]:
    """A strength that keeps enough and one that does not, a factor of two apart; at a limit, the same one twice."""
    alpha = 1.0
    if keeps(alpha):
        while alpha < MAX_ALPHA and keeps(2 * alpha):
            alpha *= 2
        return (alpha, alpha) if alpha == MAX_ALPHA else (alpha, 2 * alpha)
    while alpha > MIN_ALPHA:
        alpha /= 2
        if keeps(alpha):
            return alpha, 2 * alpha
    return 0.0, 0.0


def _curve(tried: dict[float, dict[str, Score]], shares: dict[float, float]) -> pd.DataFrame:
    return pd.DataFrame(
        {"alpha": alpha, **side_by_side(scores), "reference_share": shares[alpha]} for alpha, scores in tried.items()
    )
