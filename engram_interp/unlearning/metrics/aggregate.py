"""`H(s) = n / sum_i 1/s_i`: from scores to one number, after rescaling them by two other models (paper, App. E.2).

Memorization is the harmonic mean of `1 - rescaled` over EM, ES, PP and TR. Utility is that of MU and FF, Privacy that
of the four attacks' scores, and Overall that of these three.
"""

from __future__ import annotations

from collections.abc import Iterable

EPSILON = 1e-10


class NoScaleError(ValueError):
    """There is nothing to rescale by: the `full` and the `retain` model score the same, or `full` scores 0."""


def harmonic_mean(scores: Iterable[float]) -> float:
    """`n / sum_i 1 / max(s_i, 1e-10)` (paper, Eq. 26).

    Raises:
        ValueError: if there are no scores.

    Example:
        >>> round(harmonic_mean([0.5, 1.0]), 6), harmonic_mean([0.0, 1.0]) < 1e-9
        (0.666667, True)
    """
    floored = [max(score, EPSILON) for score in scores]
    if not floored:
        raise ValueError("scores must hold one or more numbers; got none")
    return len(floored) / sum(1 / score for score in floored)


def rescaled(unlearned: float, full: float, retain: float) -> float:
    """`clip(|E(unl) - E(ret)| / |E(full) - E(ret)|, 0, 1)`: 0 if the score is that of `retain` (paper, Eq. 27).

    Args:
        unlearned: a score of the unlearned model.
        full: the score of the model that was trained on everything.
        retain: the score of the model that never saw what is to be forgotten.

    Raises:
        NoScaleError: if `full` and `retain` are equal, a `ValueError`.

    Example:
        >>> rescaled(0.75, full=1.0, retain=0.5), rescaled(0.25, full=1.0, retain=0.5)
        (0.5, 0.5)
    """
    if full == retain:
        raise NoScaleError(f"full and retain must have different scores, to rescale by; both have {full}")
    return min(abs(unlearned - retain) / abs(full - retain), 1.0)


def relative(unlearned: float, full: float) -> float:
    """`clip(A(unl) / A(full), 0, 1)` (paper, Eq. 29).

    Raises:
        NoScaleError: if `full` is not above 0, a `ValueError`.

    Example:
        >>> relative(0.45, 0.9), relative(0.95, 0.9)
        (0.5, 1.0)
    """
    if full <= 0:
        raise NoScaleError(f"full must have a score above 0, to compare with; got {full}")
    return min(max(unlearned / full, 0.0), 1.0)
