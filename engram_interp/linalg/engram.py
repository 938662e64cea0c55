"""`W+ = W S+ (S+ + S-)^pinv = W P+`: the part of a weight that the target owns (paper, Eq. 3 to 5)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

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
        >>> import torch
        >>> S_plus, S_minus = torch.diag(torch.tensor([3.0, 0.0])), torch.diag(torch.tensor([1.0, 2.0]))
        >>> soft_projector(S_plus, S_plus + S_minus).diagonal().tolist()
        [0.75, 0.0]
    """
    return Total(S).solution(rtol).solve(S_plus)


def engram_matrix(
    W: Float[Tensor, "out d"], S_plus: Float[Tensor, "d d"], solution: Solution
) -> Float[Tensor, "out d"]:
    """`W+ = W S+ S^pinv` in float64: the part of `W` that the target owns (paper, Eq. 4; Eq. 3 for `W - W_0`)."""
    S_plus = S_plus.double()
    if len(W) <= ROWS:
        return solution.solve(W.double() @ S_plus)
    W_plus = W.new_empty(W.shape, dtype=S_plus.dtype)
    for rows, found in zip(W.split(ROWS), W_plus.split(ROWS), strict=True):
        found.copy_(solution.solve(rows.double() @ S_plus))
    return W_plus
