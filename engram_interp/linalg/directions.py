"""`W+ S^1/2 = U diag(s) V^T`: what does an engram put out most, on the data, and what calls it up?

Column `u` of `U` is a direction of the output, and `s^2` the energy that `W+` sends along it over all inputs. It sends
`u^T W+ x` along it at an input `x`, so `W+^T u` is what it reads there.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Leading:
    """The leading directions of an engram's output.

    Attributes:
        shares: `[k]`, the share of the output's energy along each, descending.
        written: `[out k]`, orthonormal, the directions of the output.
        read: `[d k]`, `W+^T u`: its product with an input is what goes along the direction.
    """

    shares: Float[Tensor, "k"]
    written: Float[Tensor, "out k"]
    read: Float[Tensor, "d k"]


def leading(W_plus: Float[Tensor, "out d"], root: Float[Tensor, "d r"], k: int) -> Leading:
    """The `k` directions with most of the energy of `W+ x`.

    Args:
        W_plus: an engram.
        root: `R` with `S = R R^T`.
        k: how many directions, at most.

    Example:
        >>> found = leading(torch.diag(torch.tensor([3.0, 4.0])), torch.eye(2), 1)
        >>> found.shares.tolist(), found.written.abs().flatten().tolist()
        ([0.6399999856948853], [0.0, 1.0])
    """
    U, s, _ = torch.linalg.svd(W_plus @ root, full_matrices=False)
    return Leading(energy_shares(s.square())[:k], U[:, :k], W_plus.T @ U[:, :k])


def leading_shares(A: Float[Tensor, "out r"], k: int) -> Float[Tensor, "k"]:
    """The shares of the `k` largest squared singular values of a matrix.

    Example:
        >>> leading_shares(torch.diag(torch.tensor([3.0, 4.0])).double(), 1).tolist()
        [0.64]
    """
    gram = A @ A.T if A.shape[0] <= A.shape[1] else A.T @ A
    return energy_shares(torch.linalg.eigvalsh(gram).flip(0).clamp(min=0))[:k]


def energy_shares(energy: Float[Tensor, "r"]) -> Float[Tensor, "r"]:
    """Each as a share of all; zeros if there is none."""
    total = energy.sum()
    return energy / total if total > 0 else torch.zeros_like(energy)
