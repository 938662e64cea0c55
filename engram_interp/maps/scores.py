"""Does a matrix hold a memory, compared with other sets of examples and with the other matrices? One score tells.

`score = z(z(gain) + z(profile))`. The gain is `|W U M| / |M|`, how much of a set's soft projector `M` the matrix lets
through. The profile is `|W U M| / n`, over its mean in the null sets, and then over the root mean square of that over
all matrices of the same set: where a set sits, whatever its own size. `z` is in standard deviations from the mean of
the null sets.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from engram_interp.linalg.intervals import ROUNDING, exceedance
from engram_interp.linalg.norms import share

MAD_TO_STD = 1.4826
"""A normal distribution's standard deviation is this many times its median absolute deviation."""


@dataclass(frozen=True)
class Measured:
    """What the score is made of, for sets of examples.

    Attributes:
        gain: `|W U M| / |M|`.
        passed: `|W U M| / n`, with `n` the positions of the set.
    """

    gain: Float[Tensor, "set unit"]
    passed: Float[Tensor, "set unit"]

    def at(self, sets: slice | Tensor) -> Measured:
        """Those of some sets."""
        return Measured(self.gain[sets], self.passed[sets])


def scores(some: Measured, null: Measured) -> Float[Tensor, "set unit"]:
    """The score of every set and unit, against null sets.

    Args:
        some: the sets that are scored.
        null: sets that tell what is usual, two or more.

    Example:
        >>> null = Measured(torch.tensor([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]]), torch.ones(3, 2))
        >>> scores(Measured(torch.tensor([[4.0, 2.0]]), torch.ones(1, 2)), null).tolist()
        [[2.0, 0.0]]
    """
    mean = null.passed.mean(0)
    values, usual = (
        standardised(one.gain, null.gain) + standardised(_profile(one, mean), _profile(null, mean))
        for one in (some, null)
    )
    return standardised(values, usual)


def scores_without_own(sets: Measured) -> Float[Tensor, "set unit"]:
    """The score of every set, against all others."""
    n = len(sets.gain)
    every = torch.arange(n)
    return torch.cat([scores(sets.at(every[i : i + 1]), sets.at(every[every != i])) for i in range(n)])


def _profile(some: Measured, mean: Float[Tensor, "unit"]) -> Float[Tensor, "set unit"]:
    ratio = share(some.passed, mean.expand_as(some.passed))
    return over_rms(ratio)


def over_rms(values: Float[Tensor, "set unit"]) -> Float[Tensor, "set unit"]:
    """Each set's numbers over their root mean square: where a set is large, whatever its own size."""
    return share(values, values.square().mean(1, keepdim=True).sqrt().expand_as(values))


def reached(of_sets: Float[Tensor, "set unit"]) -> Float[Tensor, "unit"]:
    """In which share of sets, the first among them, each unit has as much as in the first."""
    return (of_sets >= of_sets[0] - ROUNDING).double().mean(0)


def standardised(some: Float[Tensor, "set unit"], null: Float[Tensor, "null unit"]) -> Float[Tensor, "set unit"]:
    """Standard deviations from the mean of the null sets; 0 where these differ by rounding alone."""
    mean, std = null.mean(0), null.std(0)
    return ((some - mean) / std).where(std > 100 * ROUNDING * null.abs().amax(0), 0.0)


def above_others(score: Float[Tensor, "unit"]) -> Float[Tensor, "unit"]:
    """How far a score is above those of the other units: `(s - median) / max(1.4826 MAD, 1)`.

    A target that is unusual everywhere, as new text is, is found nowhere.

    Example:
        >>> [round(s, 2) for s in above_others(torch.tensor([0.0, 1.0, -1.0, 8.0, 0.0])).tolist()]
        [0.0, 0.67, -0.67, 5.4, 0.0]
    """
    middle = score.median()
    return (score - middle) / (MAD_TO_STD * (score - middle).abs().median()).clamp(min=1)


def score_p_values(of_sets: Float[Tensor, "set unit"]) -> Float[Tensor, "unit"]:
    """How sure each unit of the target (the first set) is: the largest of three p-values, so that all three hold.

    The target has a place at all: the share of sets with a unit, whichever, that scores as much as the target's first.
    This unit is one: the share of sets in which it scores as much. It stands out from the other units: a normal
    distribution's share above `above_others`, if there are others.

    The first holds for a twentieth of targets that are like other sets, so that no more of them get any star at 0.05,
    whatever the number of units. Where it holds, units are judged one by one.
    """
    anywhere = exceedance(of_sets).min()
    here = reached(of_sets)
    among_units = torch.special.ndtr(-above_others(of_sets[0])) if of_sets.shape[1] > 1 else torch.zeros_like(here)
    return torch.maximum(torch.maximum(here, among_units), anywhere)
