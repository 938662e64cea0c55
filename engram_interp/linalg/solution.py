"""`A S^pinv`: what every factorisation of a second moment can do.

Two steps make a solution. `C = A S^(-1/2)` whitens the rows of `A`, and `C S^(-1/2)` finishes. The steps are worth
having apart, since `|C|_F = |A S^pinv S^1/2|_F`: for `A = W S+` that is the norm of `W+ S^1/2`, what the engram puts
out, before the engram itself is made.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from jaxtyping import Float
from torch import Tensor


class Solution(ABC):
    """The pseudo-inverse of a second moment `S`, factorised as `S^pinv = R R^T` on the kept directions."""

    @property
    @abstractmethod
    def rank(self) -> int:
        """How many directions are kept."""

    @abstractmethod
    def whiten(self, A: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """`C = A R`: `|C|_F = |A S^pinv S^1/2|_F`, in float64."""

    @abstractmethod
    def unwhiten(self, C: Float[Tensor, "n k"]) -> Float[Tensor, "n d"]:
        """`C R^T`: what `whiten` began becomes `A S^pinv`."""

    @abstractmethod
    def project(self, A: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """`A Pi`, with `Pi` the orthogonal projector onto the kept directions."""

    def solve(self, A: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """`A S^pinv`, in float64."""
        return self.unwhiten(self.whiten(A))
