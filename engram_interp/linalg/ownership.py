"""`M = S^-1/2 S+ S^-1/2`: which share of every direction does the target own?

The eigenvalues of `M`, in [0, 1], are the shares of a direction's second moment that the target owns. On the kept
directions `P+ = S+ S^pinv` is similar to the symmetric `M`, so `g(P+)` is `S^1/2 g(M) S^-1/2`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from engram_interp.linalg.filters import SMALLEST_SHARE, Function, values_of
from engram_interp.linalg.spectrum import Spectrum

Shares: TypeAlias = tuple[Tensor, Tensor]
"""The eigenvalues and eigenvectors of `M`: all that takes time to find."""


@dataclass(frozen=True)
class Ownership:
    """Which share of every direction the target owns: the spectrum of `M = S^-1/2 S+ S^-1/2` on the kept directions.

    Attributes:
        kept: the kept directions of `S`.
        S_plus: second moment of the target.
        share: `[k]`, the eigenvalues of `M`, ascending, in [0, 1].
        V: `[k k]`, its eigenvectors, in the coordinates of `kept.U`.
    """

    kept: Spectrum
    S_plus: Float[Tensor, "d d"]
    share: Float[Tensor, "k"]
    V: Float[Tensor, "k k"]

    def projector(self, g: Function) -> Float[Tensor, "d d"]:
        """`g(P+)` in float64: `P+` for `g(x) = x`, `Pi` for `g(x) = 1`, `P-` for `g(x) = 1 - x`.

        `P+` also maps kept directions to dropped ones, where the target's inputs have parts in both. This part of the
        map is scaled by `(g(x) - g(0)) / x`, as it is in every power of `P+`.

        Args:
            g: maps shares, `[k]`, to numbers of the same shape.

        Raises:
            ValueError: if `g` returns anything but one finite number for each share.
        """
        from_kept = self.V.T / self.kept.lam.sqrt() @ self.kept.U.T
        to_kept = self.kept.U * self.kept.lam.sqrt() @ self.V
        reached = self.S_plus.to(from_kept) @ from_kept.T
        to_dropped = reached - self.kept.U @ (self.kept.U.T @ reached)
        return (to_kept * values_of(g, self.share) + to_dropped * slopes(g, self.share)) @ from_kept


def ownership(S_plus: Float[Tensor, "d d"], kept: Spectrum) -> Ownership:
    """The spectrum of `M = S^-1/2 S+ S^-1/2`, by an eigendecomposition in float64.

    Args:
        S_plus: second moment of the target.
        kept: the kept directions of `S = S+ + S-`.

    Example:
        >>> from engram_interp.linalg.spectrum import spectrum
        >>> S_plus, S_minus = torch.diag(torch.tensor([3.0, 0.0])), torch.diag(torch.tensor([1.0, 2.0]))
        >>> ownership(S_plus, spectrum(S_plus + S_minus)).share.tolist()
        [0.0, 0.75]
    """
    whitened = kept.U / kept.lam.sqrt()
    M = whitened.T @ S_plus.to(whitened) @ whitened
    share, V = torch.linalg.eigh((M + M.T) / 2)
    # Shares that are rounding become 0, since a filter that is steep at 0 would make much of them.
    rounding = len(share) * torch.finfo(torch.float64).eps * (kept.lam[-1:] / kept.lam[:1]).sum()
    return Ownership(kept, S_plus, share.where(share > rounding, 0.0).clamp(max=1), V)


def slopes(g: Function, x: Float[Tensor, "k"]) -> Float[Tensor, "k"]:
    """`(g(x) - g(0)) / x`; at 0 it is the slope there.

    Example:
        >>> from engram_interp.linalg.filters import power
        >>> slopes(power(2), torch.tensor([0.5, 0.25]).double()).tolist()
        [0.5, 0.25]
    """
    at = x.clamp(min=SMALLEST_SHARE)
    return (values_of(g, at) - values_of(g, torch.zeros_like(x))) / at
