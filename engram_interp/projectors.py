"""What do soft projectors do? Properties of `P+`, overlap of `P_i` and `P_j`, `Q = I - sum_i P_i` (paper, Section 6.3).

`P+ = S+ S^pinv` has the eigenvalues of `M = S^-1/2 S+ S^-1/2`, in [0, 1], but is not symmetric: it projects obliquely,
and `|P|_F` exceeds `|M|_F`. Since `tr P^2 = |M|_F^2`, no eigenvalue of `M` is needed to see by how much.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse.linalg import svds
from torch import Tensor

from engram_interp.estimator import Spectrum
from engram_interp.sites import share


def properties(
    P: Float[Tensor, "d d"], S_plus: Float[Tensor, "d d"], S_minus: Float[Tensor, "d d"]
) -> dict[str, float]:
    """What a projector takes, and how far it is from an orthogonal one.

    ==================== =========================================================================================
    `owned`              `tr P`, dimensions: the sum of all shares
    `effective_rank`     `(tr P)^2 / tr P^2`, dimensions over which they are spread: `r` of `r` equal shares
    `idempotence_defect` `|P^2 - P|_F / |P|_F`; 0 of a projector in the strict sense
    `obliqueness`        `|P|_F / |M|_F`, 1 where `P` is symmetric; a W-Norm exceeds 1 only where this does
    `target_passes`      `|P X+|^2 / |X+|^2`, share of the target's energy; more than 1 where `P` stretches it
    `reference_passes`   the same of the reference's
    ==================== =========================================================================================

    Args:
        P: `P+`, or `g(P+)`.
        S_plus: second moment of the target.
        S_minus: second moment of the reference.

    Example:
        >>> P = torch.diag(torch.tensor([0.5, 0.5, 0.0]))
        >>> found = properties(P, torch.eye(3), torch.eye(3))
        >>> found["owned"], found["effective_rank"], found["idempotence_defect"], found["obliqueness"]
        (1.0, 2.0, 0.5, 1.0)
    """
    squared = P @ P
    trace, size = P.trace(), P.norm()
    return {
        "owned": trace.item(),
        "effective_rank": share(trace.square(), squared.trace()).item(),
        "idempotence_defect": share((squared - P).norm(), size).item(),
        "obliqueness": (size / squared.trace().clamp(min=0).sqrt()).item() if size > 0 else 1.0,
        "target_passes": passes(P, S_plus),
        "reference_passes": passes(P, S_minus),
    }


def passes(P: Float[Tensor, "d d"], S: Float[Tensor, "d d"]) -> float:
    """`|P X|^2 / |X|^2 = tr(P S P^T) / tr S`: the share of the inputs' energy that passes; 0 of no inputs."""
    return share(((P @ S) * P).sum(), S.trace()).item()


def stretch(P: Float[Tensor, "d d"]) -> float:
    """`|P|_2`: the most that `P` makes of a row of weights, so that no `|W P|_F / |W|_F` is larger.

    Example:
        >>> round(stretch(torch.tensor([[0.5, 2.0], [0.0, 0.5]])), 3)
        2.118
    """
    if len(P) < 2 or not P.count_nonzero():
        return P.norm().item()
    # From a fixed start, so that the same call gives the same bits.
    matrix = P.cpu().double().numpy()
    return float(np.asarray(svds(matrix, k=1, v0=np.ones(len(P)), return_singular_vectors=False))[0])


def at_cuts(S_plus: Float[Tensor, "d d"], every: Spectrum, rtols: Iterable[float | int]) -> list[dict[str, float]]:
    """`properties` of `P+` under other cuts, from one eigendecomposition, with each one's kept rank and condition.

    Args:
        S_plus: second moment of the target.
        every: all directions of `S = S+ + S-` that the data has.
        rtols: the cuts.
    """
    # In the coordinates of these directions a coarser cut leaves out columns of `P+`. The target is nowhere else.
    inside = every.U.T @ S_plus.to(every.U) @ every.U
    rest = every.lam.diag() - inside
    found: dict[int, dict[str, float]] = {}
    rows = []
    for rtol in rtols:
        lam = every.above(rtol).lam
        if len(lam) not in found:
            P = torch.zeros_like(inside)
            P[:, len(P) - len(lam) :] = inside[:, len(P) - len(lam) :] / lam
            found[len(lam)] = properties(P, inside, rest)
        rows.append({"rtol": float(rtol), "rank": len(lam), "condition": condition(lam), **found[len(lam)]})
    return rows


def condition(lam: Float[Tensor, "k"]) -> float:
    """`lambda_max / lambda_min` of kept directions; 1 where there is none."""
    return (lam[-1] / lam[0]).item() if len(lam) else 1.0


def norms_at_cuts(
    W: Float[Tensor, "out d"], S_plus: Float[Tensor, "d d"], every: Spectrum, ranks: Iterable[int], absorbed: bool
) -> list[float]:
    """`|W P+|_F` where only the largest directions are kept, from one product.

    Args:
        W: a matrix.
        S_plus: second moment of the target.
        every: all directions of `S = S+ + S-` that the data has, of which so many are kept.
        ranks: how many.
        absorbed: whether the last column of `W` is a bias, which the norm leaves out.
    """
    columns = W @ (S_plus.to(every.U) @ every.U) / every.lam
    norms = []
    for rank in ranks:
        kept, U = columns[:, columns.shape[1] - rank :], every.U[:, columns.shape[1] - rank :]
        bias = kept @ U[-1] if absorbed else kept.new_zeros(len(W))
        norms.append((kept.square().sum() - bias.square().sum()).clamp(min=0).sqrt().item())
    return norms
