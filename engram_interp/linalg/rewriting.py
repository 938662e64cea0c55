"""`W_new = (V* X+^T + W X- X-^T) (S+ + S-)^pinv`: how does a weight get chosen outputs (paper, Eq. 32)?

In the directions that the data has, `W_new = W + (V* - W X+) M X+^T S^pinv` with `S = S+ + S-`, `H = X+^T S^pinv X+`
and `M = w (1 + (w - 1) H)^-1`. The target's weight `w` is 1 in the paper. For an infinite `w`, `M = H^pinv` and the
outputs are exactly `V*`. For a single input `k` that is ROME's rank-one update,
`(v* - W k) (S^-1 k)^T / (k^T S^-1 k)` (Meng et al. 2022, Eq. 2).
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from engram_interp.linalg.solution import Solution


def rewriting(
    W: Float[Tensor, "out d"],
    V_star: Float[Tensor, "out n"],
    X_plus: Float[Tensor, "d n"],
    solution: Solution,
    weight: float | int = 1.0,
) -> Float[Tensor, "out d"]:
    """`W_new - W` in float64. It is zero in directions that the data does not have (paper, Eq. 32).

    Args:
        W: the weight.
        V_star: the outputs that it should have, one column for each input.
        X_plus: these inputs.
        solution: of `S = X+ X+^T + S-`.
        weight: how much an error on the target counts against one on the reference. `math.inf` gives exactly `V*`, as
            far as the kept directions tell the inputs apart.

    Raises:
        ValueError: if `weight` is not above 0.

    Example:
        >>> from engram_interp.linalg.second_moment import SecondMoment
        >>> from engram_interp.linalg.total import Total
        >>> W, k = torch.eye(2), torch.tensor([[1.0], [0.0]])
        >>> solution = Total(SecondMoment(k @ k.T + torch.eye(2))).solution(None)
        >>> (W + rewriting(W, torch.tensor([[0.0], [3.0]]), k, solution, math.inf)).round(decimals=9).tolist()
        [[0.0, 0.0], [3.0, 1.0]]
    """
    if not weight > 0:
        raise ValueError(f"weight must be above 0; got {weight}")
    X = X_plus.double()
    whitened = solution.whiten(X.T)
    H = whitened @ whitened.T
    if math.isinf(weight):
        M = torch.linalg.pinv(H, hermitian=True, rtol=len(H) * 2.0**-23)
    else:
        M = weight * torch.linalg.inv(torch.eye(len(H)).to(H) + (weight - 1) * H)
    missed = V_star.to(X) - W.to(X) @ X
    return missed @ M @ solution.unwhiten(whitened)
