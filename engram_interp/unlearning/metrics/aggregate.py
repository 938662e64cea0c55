"""`H(s) = n / sum_i 1/s_i`: from scores to one number, after rescaling them by two other models (paper, App. E.2).

Memorization is the harmonic mean of `1 - rescaled` of EM, ES, PP and TR; Utility of MU and FF; Privacy of the four
attacks' scores; Overall of these three.
"""

from __future__ import annotations

from collections.abc import Iterable

EPSILON = 1e-10


class NoScaleError(ValueError):
    """There is nothing to rescale by: the models at either end score the same, or nothing."""


def harmonic_mean(scores: Iterable[float]) -> float:
    """`n / sum_i 1 / max(s_i, 1e-10)` (paper, Eq. 26).

    Raises:
        ValueError: no scores at all.

    Example:
        >>> round(harmonic_mean([0.5, 1.0]), 6), harmonic_mean([0.0, 1.0]) < 1e-9
        (0.666667, True)
    """
    floored = [max(score, EPSILON) for score in scores]
    if not floored:
        raise ValueError("a harmonic mean is of one or more scores, got none")
    return len(floored) / sum(1 / score for score in floored)


def rescaled(unlearned: float, full: float, retain: float) -> float:
    """`clip(|E(unl) - E(ret)| / |E(full) - E(ret)|, 0, 1)`: 0 where it is as in `retain` (paper, Eq. 27).

    Args:
        unlearned: a score of the unlearned model.
        full: of the model that was trained on everything.
        retain: of the model that never saw what is to be forgotten.

    Raises:
        NoScaleError: `full` and `retain` score the same, a `ValueError`.

    Example:
        >>> rescaled(0.75, full=1.0, retain=0.5), rescaled(0.25, full=1.0, retain=0.5)
        (0.5, 0.5)
    """
    if full == retain:
        raise NoScaleError(f"the full and the retain model score the same, {full}: there is nothing to rescale by")
    return min(abs(unlearned - retain) / abs(full - retain), 1.0)


def relative(unlearned: float, full: float) -> float:
    """`clip(A(unl) / A(full), 0, 1)` (paper, Eq. 29).

    Raises:
        NoScaleError: `full` scores nothing, a `ValueError`.

    Example:
        >>> relative(0.45, 0.9), relative(0.95, 0.9)
        (0.5, 1.0)
    """
    if full <= 0:
        raise NoScaleError(f"the full model scores {full}: there is nothing to compare with")
    return min(max(unlearned / full, 0.0), 1.0)
