"""`W+ = W S+ (S+ + S-)^pinv = W P+`: the part of a weight that the target owns (paper, Eq. 3 to 5)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from engram_interp.linalg.second_moment import SecondMoment
from engram_interp.linalg.solution import Solution
from engram_interp.linalg.total import Total

ROWS = 4096
"""So many rows of a weight are solved for at a time, since an unembedding has as many as there are tokens."""


def soft_projector(
    S_plus: Float[Tensor, "d d"], S: Float[Tensor, "d d"], rtol: float | int | None = None
) -> Float[Tensor, "d d"]:
    """`P+ = S+ S^pinv` with `S = S+ + S-` (paper, Eq. 5), in float64.

    Args:
        S_plus: second moment of the target.
        S: second moment of target and reference together.
        rtol: the cut of the pseudo-inverse; see `spectrum`.

    Example:
        >>> S_plus, S_minus = torch.diag(torch.tensor([3.0, 0.0])), torch.diag(torch.tensor([1.0, 2.0]))
        >>> soft_projector(S_plus, S_plus + S_minus).diagonal().tolist()
        [0.75, 0.0]
    """
    return Total(SecondMoment(S)).solution(rtol).solve(S_plus)


def engram_matrix(W: Float[Tensor, "out d"], target: SecondMoment, solution: Solution) -> Float[Tensor, "out d"]:
    """`W+ = W S+ S^pinv` in float64: the part of `W` that the target owns (paper, Eq. 4; Eq. 3 for `W - W_0`)."""
    if len(W) <= ROWS:
        return engram_steps(W, target, solution)[1]
    W_plus = W.new_empty(W.shape, dtype=torch.float64)
    for rows, found in zip(W.split(ROWS), W_plus.split(ROWS), strict=True):
        found.copy_(engram_steps(rows, target, solution)[1])
    return W_plus


def engram_steps(
    W: Float[Tensor, "out d"], target: SecondMoment, solution: Solution
) -> tuple[Float[Tensor, "out k"], Float[Tensor, "out d"]]:
    """`C = W S+ S^(-1/2)` and `W+`, in float64: `|C|_F = |W+ S^1/2|_F`, and `C` is on the way to `W+`.

    Args:
        W: a matrix.
        target: the second moment of the target.
        solution: of the second moment of target and reference together.
    """
    if (X := target.few_rows()) is None:
        C = solution.whiten(W.double() @ target.S.double())
        return C, solution.unwhiten(C)
    out, whitened = W.double() @ X.T, solution.whiten(X)
    return out @ whitened, out @ solution.unwhiten(whitened)
