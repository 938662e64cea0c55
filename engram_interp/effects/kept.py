"""`kept = R(alpha) / R(0)`: what share of something measured stays under an edit, and how sure is that?

`R` is a sum over examples: of right tokens (`accuracy`), of losses (`loss`, where the ratio is turned round, so that 1
is "as before" and less is worse), or of a user's scores. The interval treats the examples as drawn at random.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from scipy.stats import norm
from torch import Tensor, nn

from engram_interp.concepts.concept import Example
from engram_interp.concepts.data import DataBatch
from engram_interp.linalg.intervals import wilson

UserScore: TypeAlias = Callable[[nn.Module, Any], Sequence[float] | Float[Tensor, "n"]]
"""From a model and examples to a score of each; more is better."""
ACCURACY, LOSS = "accuracy", "loss"
RIGHT, LOST, OWN = 0, 1, 3
"""Columns of what is measured of each example: right tokens, their losses, how many they are, and a user's score."""
LEVEL = 0.9
"""The level of the interval. An edit keeps enough if its lower end does, so it is wrong once in twenty times."""
Z = float(norm.ppf((1 + LEVEL) / 2))


@dataclass(frozen=True)
class Kept:
    """What stays, and its interval.

    Attributes:
        share: `R(alpha) / R(0)`; above 1 if the edit improves it.
        low: the lower end of the 90 % interval.
        high: its upper end.
    """

    share: float
    low: float
    high: float


def kept_accuracy(right: Float[Tensor, "n"], right_before: Float[Tensor, "n"]) -> Kept:
    """The share of right tokens that stays.

    It is the interval of Wilson for as many tokens as would vary as much: the tokens of an example are lost together.

    Args:
        right: right tokens of each example under the edit.
        right_before: the same without it.

    Example:
        >>> before = torch.ones(200).double()
        >>> after = before.clone()
        >>> after[:4] = 0
        >>> found = kept_accuracy(after, before)
        >>> found.share, round(found.low, 3), round(found.high, 3)
        (0.98, 0.956, 0.991)
    """
    total = float(right_before.sum())
    if not total:
        return Kept(0.0, 0.0, 1.0)
    share = float(right.sum()) / total
    p = min(share, 1.0)
    n = total
    if 0 < p < 1 and (spread := _variance(right - share * right_before, total)) > 0:
        n = min(total, p * (1 - p) / spread)
    low, high = (float(end) for end in wilson(torch.tensor([p * n]).double(), n, Z))
    return Kept(share, low, max(high, share))


def kept_sum(score: Float[Tensor, "n"], score_before: Float[Tensor, "n"]) -> Kept:
    """The share of a sum of scores that stays, with the interval of a ratio of means.

    Example:
        >>> found = kept_sum(torch.tensor([1.0, 3.0]), torch.tensor([2.0, 6.0]))
        >>> found.share, found.low == found.high
        (0.5, True)
    """
    total = float(score_before.sum())
    share = float(score.sum()) / total
    error = Z * _variance(score - share * score_before, total) ** 0.5
    return Kept(share, share - error, share + error)


def kept_loss(loss: Float[Tensor, "n"], loss_before: Float[Tensor, "n"]) -> Kept:
    """`L(0) / L(alpha)`: below 1 if the loss rises.

    Example:
        >>> kept_loss(torch.tensor([2.0, 2.0]), torch.tensor([1.0, 1.0])).share
        0.5
    """
    return kept_sum(loss_before, loss)


def _variance(residuals: Float[Tensor, "n"], total: float) -> float:
    """The variance of a ratio of sums, from the residuals of its numerator (linearised)."""
    n = len(residuals)
    return float(residuals.square().sum()) * n / max(n - 1, 1) / total**2


def fewest_tokens(keep: float) -> float:
    """How many right tokens it takes for an interval without a loss to reach `keep`: `z^2 keep / (1 - keep)`.

    Example:
        >>> round(fewest_tokens(0.98)), round(fewest_tokens(0.9))
        (133, 24)
    """
    return float("inf") if keep == 1 else Z**2 * keep / (1 - keep)


@dataclass(frozen=True)
class Measure:
    """What is kept: `accuracy`, `loss`, or the sum of a user's scores.

    Attributes:
        name: which; a user's score has the name of its function.
        user: the user's score, if it is one.
    """

    name: str
    user: UserScore | None = None

    @property
    def counts_tokens(self) -> bool:
        """Whether it is a number of right tokens."""
        return self.name == ACCURACY and self.user is None

    def value(self, table: Float[Tensor, "n 4"]) -> Float[Tensor, "n"]:
        """What is summed, for each example; more is better."""
        if self.user is not None:
            return table[:, OWN]
        return table[:, RIGHT] if self.counts_tokens else -table[:, LOST]

    def needed(self, before: float, keep: float) -> float:
        """The smallest sum that keeps enough of what it was."""
        return before * keep if before >= 0 else before / keep

    def kept(self, table: Float[Tensor, "n 4"], before: Float[Tensor, "n 4"]) -> Kept:
        """What stays, from what was measured of each example under the edit and without it."""
        if self.counts_tokens:
            return kept_accuracy(table[:, RIGHT], before[:, RIGHT])
        if self.user is None:
            return kept_loss(table[:, LOST], before[:, LOST])
        return kept_sum(table[:, OWN], before[:, OWN])

    def own(self, model: nn.Module, examples: Sequence[Example] | DataBatch) -> Float[Tensor, "n"]:
        """The user's score of each example; zeros if there is none.

        Raises:
            ValueError: if it does not return one finite number for each example.
        """
        n = len(examples.numbers) if isinstance(examples, DataBatch) else len(examples)
        if self.user is None:
            return torch.zeros(n, dtype=torch.float64)
        found = torch.as_tensor(self.user(model, examples), dtype=torch.float64).detach().cpu()
        if found.shape != (n,) or not found.isfinite().all():
            got = f"{list(found.shape)}, {'finite' if found.isfinite().all() else 'not all finite'}"
            raise ValueError(f"measure must return a finite number for each of {n} examples; got {got}")
        return found


def measure_of(given: str | UserScore) -> Measure:
    """The measure that a name or a function means.

    Raises:
        ValueError: if the name is neither `accuracy` nor `loss`.
    """
    if callable(given):
        return Measure(getattr(given, "__name__", type(given).__name__), given)
    if given not in (ACCURACY, LOSS):
        raise ValueError(f"measure must be {ACCURACY}, {LOSS}, or a function of a model and examples; got {given!r}")
    return Measure(given)
