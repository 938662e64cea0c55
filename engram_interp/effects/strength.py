"""How strong an edit? The largest `alpha` that keeps `keep` of what its projector has not seen.

An edit's strength means nothing by itself: `W+` shrinks as its concept gets rarer, and alpha grows to match. What an
edit leaves of everything else can be compared between concepts and models. It is measured on examples that are held
out: on those that the projector was fitted to, an edit looks harmless, since `P+` was made to let them through.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, sqrt
from typing import TYPE_CHECKING, Any

import pandas as pd
from torch import nn

from engram_interp.common.arguments import Number, number
from engram_interp.common.progress import bar
from engram_interp.concepts.batches import Examples
from engram_interp.concepts.concept import REFERENCE, Concept, listed_examples, require_concept
from engram_interp.concepts.data import Data
from engram_interp.effects.held_out import N_FOLDS, Check, held_out, is_labelled, n_scored, require_enough
from engram_interp.effects.kept import ACCURACY, UserScore, fewest_tokens, measure_of
from engram_interp.effects.trials import Trials
from engram_interp.engrams.engram import Engram, require_engram
from engram_interp.models import Adapter, adapt
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
        alpha: the strongest edit tried that keeps enough. At the limits of the search it is 1024, if every edit keeps
            enough, or 0, if even the weakest does not. A warning is logged then.
        keep: the share of the measure that had to stay.
        curve: a row for each strength, from 0 up. `target_accuracy` and `target_loss`; `reference_accuracy` and
            `reference_loss`, on at most 32 examples that the projector was fitted to; `check_accuracy` and
            `check_loss`, on examples that it was not fitted to; `kept`, the share of the measure that stays of these,
            and its 90 % interval from `kept_low` to `kept_high`; and `check_share`, the share of these examples that
            were scored. It is 1 at 0 and at `alpha`; elsewhere a part may have been enough to tell. Examples, also of
            the target, of which a weaker and a stronger edit leave the same right are presumed to be as under the
            weaker one.
        name: the concept's name.
        measure: what is kept, `accuracy`, `loss`, or the name of a user's function.
        sure: whether the lower end of the interval had to reach `keep`. If there are too few examples for that, `kept`
            itself had to, and a warning is logged.
    """

    alpha: float
    keep: float | int
    curve: pd.DataFrame
    name: str | None = None
    measure: str = ACCURACY
    sure: bool = True

    def __repr__(self) -> str:
        before, after = self.curve["target_accuracy"].iloc[0], self.chosen["target_accuracy"]
        return (
            f"AlphaChoice({self.name!r}, alpha = {self.alpha:.3g}, target accuracy: {before:.1%} -> {after:.1%}, "
            f"held-out {self.measure} kept: {self._kept})"
        )

    def _repr_html_(self) -> str:
        from engram_interp.common.html import table_html
        from engram_interp.figures.small import lines

        lead = f"alpha = {self.alpha:.3g} keeps {self._kept} of the {self.measure} of held-out examples"
        rows = self.curve[self.curve["alpha"].isin([0.0, self.alpha])].set_index("alpha")
        tried = self.curve[self.curve["alpha"] <= 2 * self.alpha] if self.alpha else self.curve
        shown = {"target": tried["target_accuracy"].tolist(), "held out": tried["check_accuracy"].tolist()}
        picture = lines(tried["alpha"].tolist(), shown, "alpha", "accuracy", self.alpha)
        return table_html("Strength", self.name, lead, rows, picture)

    @property
    def _kept(self) -> str:
        """What is kept at `alpha`, with its interval."""
        share, low, high = (f"{self.chosen[name]:.1%}" for name in ("kept", "kept_low", "kept_high"))
        return f"{share} ({low} to {high})"

    @property
    def chosen(self) -> pd.Series:
        """The curve's row at `alpha`."""
        return self.curve[self.curve["alpha"] == self.alpha].iloc[0]

    @property
    def floor(self) -> float:
        """The smallest accuracy of held-out examples that keeps enough, if accuracy is what is kept."""
        return self.keep * float(self.curve["check_accuracy"].iloc[0])

    def plot(self) -> go.Figure:
        """Accuracy and loss by strength of the target, of what the projector was fitted to and of what it was not."""
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
    check: Sequence[Any] | None = None,
    measure: str | UserScore = ACCURACY,
    start: Number = 1.0,
    rel_tol: Number = 0.05,
    run: Run,
) -> AlphaChoice:
    """The strongest ablation that keeps what its projector has not seen.

    A third of the reference is held out: the engram is fitted again without it, and its cost is measured there. Where
    that third is too short to tell, each third is held out in turn. The strength is doubled (or halved), then
    quadrupled, and so on, until it is bracketed, then bisected on a logarithmic scale. It keeps enough if the lower end
    of a 90 % interval does. Every trial edits the model in place and restores it bit for bit.

    Args:
        model: the model that the engram is part of.
        engram: what to ablate, as `extract` makes it of this concept, or a part of that. Any other engram needs
            `check`.
        concept: its target and reference, as text or tokens. Statistics are not enough: the model runs on them.
        keep: the share of the measure that must stay, in (0, 1].
        check: ten examples or more that must be kept and that the engram was not made from. None holds out a part of
            the reference.
        measure: what is kept. `"accuracy"`: right answer tokens. `"loss"`: the loss before over the loss after, so that
            0.98 lets it rise by a fiftieth. Or a function of a model and a list of examples that returns a score for
            each; more is better. Of a plain module, it gets the model and a batch, with its `inputs` and `labels`; the
            first two need labels.
        start: the strength to try first.
        rel_tol: the search stops when the bracket is this narrow, as a share of alpha, or as narrow as floats allow.

    Raises:
        ValueError: if `keep`, `start` or `rel_tol` is out of range; if there are fewer than ten examples to measure the
            cost on, or the model gets nothing of them right; if the engram is not the one that `extract` makes of this
            concept and `check` is not given.

    Example:
        >>> import engram_interp as ei
        >>> model, corpus = ei.testbed.load("full"), ei.testbed.authors()
        >>> author, *others = corpus.forget10[:4]
        >>> concept = ei.Concept(author.examples, [example for other in others for example in other.examples])
        >>> choice = ei.choose_alpha(model, ei.extract(model, concept), concept, keep=0.9)
        >>> bool(choice.chosen["kept_low"] >= 0.9)
        True
    """
    keep, rel_tol = _share(keep), _width(rel_tol)
    require_concept(concept)
    require_engram(engram)
    adapter, kind = adapt(model), measure_of(measure)
    encoded = {side: list(examples) for side, examples in adapter.encode_concept(concept).items()}
    if kind.user is None and not all(is_labelled(one) for one in encoded[REFERENCE][:1]):
        raise ValueError(f"measure={kind.name!r} needs labels, and the batches have none: give a function, or labels")
    held = _check(adapter, engram, concept, encoded, check, keep, run)
    trials = Trials(adapter, engram, encoded, held, kind, keep, run)
    kept: dict[float, bool] = {}
    with bar(None, run.progress, "choosing alpha", "strength") as shown:
        trials.keeps_surely(0.0)
        if not trials.before:
            what = "no answer token of the reference is right" if kind.counts_tokens else f"{kind.name} sums to 0"
            raise ValueError(f"there is nothing to keep: without an edit {what}")
        _warn_of_few(trials, keep)

        def keeps(alpha: float) -> bool:
            if alpha not in kept:
                kept[alpha] = trials.keeps(alpha)
                shown.update()
            return kept[alpha]

        while not trials.is_whole(alpha := _strongest(keeps, rel_tol, _start(start))):
            kept[alpha] = trials.keeps_surely(alpha)
    choice = AlphaChoice(alpha, keep, pd.DataFrame(trials.rows()), concept.name, kind.name, trials.is_sure)
    _warn_of_limits(alpha)
    _warn_if_not_forgotten(choice)
    return choice


def _check(
    adapter: Adapter,
    engram: Engram,
    concept: Concept,
    encoded: Mapping[str, Examples],
    check: Sequence[Any] | None,
    keep: float,
    run: Run,
) -> Check:
    """What the cost is measured on: the given examples, or as much of the reference as it takes."""
    if check is not None:
        examples = check if isinstance(check, Data) else listed_examples(check, "check")
        require_enough(len(examples), "check")
        given = list(adapter.encode({"check": examples}, concept.read)["check"])
        return Check(examples, given, [engram], [0] * len(examples))
    n_tokens = sum(n_scored(one) for one in encoded[REFERENCE])
    is_short = n_tokens / N_FOLDS < fewest_tokens(keep)
    return held_out(adapter, engram, concept, encoded, N_FOLDS if is_short else 1, run)


def _share(keep: Number) -> float:
    if not 0 < (found := number(keep, "keep")) <= 1:
        raise ValueError(f"keep must be a share of the reference's accuracy, 0 < keep <= 1; got {keep}")
    return found


def _width(rel_tol: Number) -> float:
    if not (found := number(rel_tol, "rel_tol")) > 0:
        raise ValueError(f"rel_tol must be above 0, the relative width at which to stop; got {rel_tol}")
    return found


def _start(start: Number) -> float:
    if not MIN_ALPHA <= (found := number(start, "start")) <= MAX_ALPHA:
        raise ValueError(f"start must be a strength from {MIN_ALPHA:.3g} to {MAX_ALPHA:g}; got {start}")
    return found


def _strongest(keeps: Callable[[float], bool], rel_tol: float, start: float) -> float:
    """The strongest edit tried that keeps enough: bracketed, then bisected on a logarithmic scale."""
    low, high = _bracket(keeps, start)
    while high - low > rel_tol * high:
        middle = sqrt(low * high)
        if not low < middle < high:
            break
        low, high = (middle, high) if keeps(middle) else (low, middle)
    return low


def _warn_of_limits(alpha: float) -> None:
    if alpha in (0.0, MAX_ALPHA):
        logger.warning(
            "alpha = %g is a limit of the search, not a choice: %s", alpha,
            "every edit tried keeps enough" if alpha else "no edit tried keeps enough",
        )  # fmt: skip


def _warn_of_few(trials: Trials, keep: float) -> None:
    if not trials.is_sure and keep < 1:
        logger.warning(
            "%d tokens that are right are too few to tell whether %.4g %% are kept: one of them is %.2g %%, and it "
            "takes %d for an interval without a loss to reach that. The share itself decides; give more reference "
            "examples, or check=[...]", trials.n_right, 100 * keep, 100 / trials.n_right, ceil(fewest_tokens(keep)),
        )  # fmt: skip


def _warn_if_not_forgotten(choice: AlphaChoice) -> None:
    before, after = choice.curve["target_accuracy"].iloc[0], choice.chosen["target_accuracy"]
    if 0 < choice.alpha < MAX_ALPHA and after >= choice.keep * before:
        logger.warning(
            "alpha = %.3g keeps enough of the reference, but of the target too: %.1f %% of its answer tokens are "
            "right, %.1f %% before", choice.alpha, 100 * after, 100 * before,
        )  # fmt: skip


def _bracket(keeps: Callable[[float], bool], start: float = 1.0) -> tuple[float, float]:
    """A strength that keeps enough and one that does not; at a limit, the same one twice. Each step is twice the last.

    Strengths that suit a model may be far from 1, and a trial takes longer than a step of a bisection saves.
    """
    alpha, factor, kept = start, 2.0, keeps(start)
    limit = MAX_ALPHA if kept else MIN_ALPHA
    while alpha != limit:
        before, alpha = alpha, min(alpha * factor, limit) if kept else max(alpha / factor, limit)
        if keeps(alpha) != kept:
            return (before, alpha) if kept else (alpha, before)
        factor *= 2
    return (limit, limit) if kept else (0.0, 0.0)
