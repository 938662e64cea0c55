"""How sure is a number? p-values of a family, and intervals of a size, a mean, a share and a difference of shares."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

LEVEL = 0.95
"""The level of the bootstrap intervals."""
N_RESAMPLES = 1000
"""Bootstraps of a mean."""
ROUNDING = 1e-6
"""Sizes of random sets are computed in float32. Two that differ by less than this share count as equal."""


def family_p_values(excess: Float[Tensor, "set unit"]) -> Float[Tensor, "unit"]:
    """How often units of random sets are as far out as those of the target (the first set), corrected for all units.

    Units differ in how much they vary, so each is measured in its own standard deviations from its own mean; see
    `exceedance`.

    Example:
        >>> sets = torch.tensor([[9.0, 1.0], [1.0, 1.1], [1.1, 0.9], [0.9, 1.2], [1.0, 0.8]])
        >>> family_p_values(sets).tolist()
        [0.2, 0.6]
    """
    if not excess.shape[1]:
        return excess[0]
    mean, std = excess.mean(0), excess.std(0)
    # A unit that varies by rounding alone is never the largest, and rounding breaks no tie.
    z = ((excess - mean) / std).where(std > 100 * ROUNDING * mean, -torch.inf)
    return exceedance(z, (ROUNDING * mean / std).nan_to_num(0.0, posinf=0.0))


def exceedance(z: Float[Tensor, "set unit"], tie: Float[Tensor, "unit"] | float = ROUNDING) -> Float[Tensor, "unit"]:
    """Family-wise p-values of the first set's units, from those of all sets (Westfall and Young's step-down maxT).

    A unit's p-value is the share of sets in which it, or a unit that is less far out in the first set, is as far out as
    it is there. Units that are farther out in the first set do not count: if they hold the memory, they say nothing of
    the others. The target counts as one of the sets, which makes the level exact.

    Args:
        z: numbers that have one scale in all units.
        tie: numbers that differ by less are equal.

    Example:
        >>> exceedance(torch.tensor([[9.0, 2.0], [8.0, 1.0], [0.0, 0.0], [1.0, 0.0]])).tolist()
        [0.25, 0.25]
    """
    order = z[0].argsort(descending=True, stable=True)
    # The largest of this unit and those that are less far out in the first set, for every set.
    largest = z[:, order].flip(1).cummax(1).values.flip(1)
    ties = torch.as_tensor(tie).expand_as(z[0])[order]
    p = (largest >= z[0, order] - ties).double().mean(0).cummax(0).values
    return torch.empty_like(p).scatter_(0, order, p)


def band(of_sets: Float[Tensor, "set unit"]) -> tuple[Float[Tensor, "unit"], Float[Tensor, "unit"]]:
    """The ends between which the middle 95 % of the sets lie.

    Example:
        >>> low, high = band(torch.arange(201).double()[:, None])
        >>> round(low.item(), 6), round(high.item(), 6)
        (5.0, 195.0)
    """
    tail = (1 - LEVEL) / 2
    low, high = of_sets.double().quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64), dim=0)
    return low.to(of_sets), high.to(of_sets)


def interval_about(
    value: Float[Tensor, "unit"], bootstraps: Float[Tensor, "set unit"]
) -> tuple[Float[Tensor, "unit"], Float[Tensor, "unit"]]:
    """The ends of a 95 % interval, from the standard deviation of a number over bootstraps.

    Fifty bootstraps tell a standard deviation to 10 %, and the ends of their own middle 95 % less well.
    """
    spread = torch.special.ndtri(torch.tensor((1 + LEVEL) / 2)) * bootstraps.std(0)
    return value - spread, value + spread


def interval(
    excess: Float[Tensor, "unit"], bootstraps: Float[Tensor, "set unit"]
) -> tuple[Float[Tensor, "unit"], Float[Tensor, "unit"]]:
    """The ends of a 95 % interval, from how `excess` varies over bootstraps of the target's examples.

    An example that is drawn twice counts four times in a square, so the squares of all bootstraps are too large. How
    much they vary is right.
    """
    low, high = interval_about(excess.square(), bootstraps.square())
    return low.clamp(min=0).sqrt(), high.clamp(min=0).sqrt()


def bootstrap_mean(values: np.ndarray, seed: int) -> dict[str, float | int]:
    """The mean as `value`, its 95 % bootstrap interval from `low` to `high`, and `n`.

    Args:
        values: one number for each example. A single number has no interval: `low` and `high` are NaN.
        seed: of the bootstrap.

    Example:
        >>> bootstrap_mean(np.array([2.0]), seed=0)
        {'value': 2.0, 'low': nan, 'high': nan, 'n': 1}
    """
    from scipy.stats import bootstrap

    low = high = float("nan")
    if len(values) > 1:
        resampled = bootstrap(
            (values,), np.mean, n_resamples=N_RESAMPLES, confidence_level=LEVEL, method="percentile", batch=64,
            rng=np.random.default_rng(seed),
        )  # fmt: skip
        low, high = resampled.confidence_interval
    return {"value": float(values.mean()), "low": float(low), "high": float(high), "n": len(values)}


def wilson(
    hits: Float[Tensor, "unit"], n: float | int, z: float
) -> tuple[Float[Tensor, "unit"], Float[Tensor, "unit"]]:
    """The ends of Wilson's interval of a share.

    Args:
        hits: how many of the `n` are hits, for each unit.
        n: how many there are.
        z: the quantile of the normal distribution for the level, 1.96 for 95 %.

    Example:
        >>> low, high = wilson(torch.tensor([0.0, 5.0]), 10, 1.96)
        >>> low.tolist()[0], round(high.tolist()[1], 3)
        (0.0, 0.763)
    """
    p = hits / n
    centre, spread = p + z**2 / (2 * n), z * (p * (1 - p) / n + z**2 / (4 * n**2)).sqrt()
    low, high = ((centre + sign * spread) / (1 + z**2 / n) for sign in (-1, 1))
    # The share itself always lies inside, which rounding would miss for 0 and 1.
    return torch.minimum(low, p).clamp(min=0), torch.maximum(high, p).clamp(max=1)


def newcombe(
    hits: Float[Tensor, "unit"], n: int, other_hits: Float[Tensor, "unit"], other_n: int, z: float
) -> tuple[Float[Tensor, "unit"], Float[Tensor, "unit"]]:
    """The ends of the interval of a difference of two shares, `hits / n - other_hits / other_n`.

    Newcombe (1998), Statistics in Medicine 17, method 10: it combines the Wilson intervals of both shares.

    Args:
        hits: how many of the `n` are hits, for each unit.
        n: how many there are.
        other_hits: the same for the share that is subtracted.
        other_n: how many there are of these.
        z: the quantile of the normal distribution for the level, 1.96 for 95 %.

    Example:
        >>> low, high = newcombe(torch.tensor([56.0]), 70, torch.tensor([48.0]), 80, 1.96)
        >>> round(low.item(), 4), round(high.item(), 4)
        (0.0524, 0.3339)
    """
    p1, (low1, high1) = hits / n, wilson(hits, n, z)
    p2, (low2, high2) = other_hits / other_n, wilson(other_hits, other_n, z)
    low = p1 - p2 - ((p1 - low1) ** 2 + (high2 - p2) ** 2).sqrt()
    return low, p1 - p2 + ((high1 - p1) ** 2 + (p2 - low2) ** 2).sqrt()
