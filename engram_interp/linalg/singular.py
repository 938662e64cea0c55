"""`W = U diag(s) V^T`: is an engram the same matrix, and the same subspace, as another one?

`cosine = <A, B> / |A| |B|`, and the share of the leading input directions that two matrices have in common. Both follow
from singular vectors, which take little room where an engram has a low rank.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

LOST = 1e-9
"""Singular vectors with less than this share of the energy together are left out."""


@dataclass(frozen=True)
class Singular:
    """A matrix by its singular vectors, largest first.

    Attributes:
        U: what it puts out.
        s: the singular values.
        V: what it reads.
    """

    U: Float[Tensor, "out k"]
    s: Float[Tensor, "k"]
    V: Float[Tensor, "in k"]

    @property
    def effective_rank(self) -> int:
        """`(sum s^2)^2 / sum s^4`, rounded; 0 of a matrix that is zero."""
        energy = self.s.double().square()
        return round(float(energy.sum().square() / energy.square().sum())) if len(energy) else 0


def singular(W: Float[Tensor, "out in"]) -> Singular:
    """The singular vectors of a matrix with all but `LOST` of its energy, by an eigendecomposition of its smaller side.

    Example:
        >>> found = singular(torch.diag(torch.tensor([3.0, 0.0, 4.0])))
        >>> found.s.tolist(), found.effective_rank
        ([4.0, 3.0], 2)
    """
    W = W.double()
    wide = W.shape[0] < W.shape[1]
    A = W.T if wide else W
    energy, V = torch.linalg.eigh(A.T @ A)
    energy, V = energy.flip(0).clamp(min=0), V.flip(1)
    left = energy.sum() - energy.cumsum(0)
    k = int((left > LOST * energy.sum()).sum()) + 1 if energy[0] > 0 else 0
    s, V = energy[:k].sqrt(), V[:, :k]
    U = A @ V / s
    return Singular(V, s, U) if wide else Singular(U, s, V)


def cosine(one: Singular, other: Singular) -> float:
    """`<A, B> / |A| |B|`; NaN if either is zero.

    Example:
        >>> A, B = torch.diag(torch.tensor([1.0, 0.0])), torch.diag(torch.tensor([1.0, 1.0]))
        >>> round(cosine(singular(A), singular(B)), 4)
        0.7071
    """
    if not len(one.s) or not len(other.s):
        return float("nan")
    U, V = one.U.double().T @ other.U.double(), one.V.double().T @ other.V.double()
    inner = (one.s.double()[:, None] * other.s.double() * U * V).sum()
    return float(inner / (one.s.double().norm() * other.s.double().norm()))


def shared(one: Singular, other: Singular) -> float:
    """The share of the leading input directions of `other` that are among those of `one`, `|V_r^T V'_r|^2 / r`.

    `r` is the effective rank of `other`. Directions at random share `r / in`. NaN if either is zero.

    Example:
        >>> A, B = torch.diag(torch.tensor([1.0, 1.0, 0.0])), torch.diag(torch.tensor([0.0, 1.0, 1.0]))
        >>> shared(singular(A), singular(B))
        0.5
    """
    r = other.effective_rank
    if not r or not len(one.s):
        return float("nan")
    return float((one.V[:, :r].double().T @ other.V[:, :r].double()).square().sum() / r)
