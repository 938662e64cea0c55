"""`P+ = S+ S^pinv`: what does a soft projector take, and how far is it from an orthogonal one (paper, Section 6.3)?

`P+` has the eigenvalues of `M = S^-1/2 S+ S^-1/2`, in [0, 1]. It is not symmetric, so it projects obliquely, and
`|P|_F` exceeds `|M|_F`. Since `tr P^2 = |M|_F^2`, the eigenvalues of `M` are not needed to see by how much.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from jaxtyping import Float
from torch import Tensor

from engram_interp.linalg.norms import share
from engram_interp.linalg.spectrum import Spectrum


def properties(
    P: Float[Tensor, "d k"], S_plus: Float[Tensor, "d d"], S_minus: Float[Tensor, "d d"]
) -> dict[str, float | int]:
    """What a projector takes, and how far it is from an orthogonal one.

    ==================== =========================================================================================
    `owned`              `tr P`, in dimensions: the sum of all shares
    `effective_rank`     `(tr P)^2 / tr P^2`, in dimensions: `r` for `r` equal shares
    `idempotence_defect` `|P^2 - P|_F / |P|_F`: 0 for a projector in the strict sense
    `obliqueness`        `|P|_F / |M|_F`: 1 if `P` is symmetric. A W-Norm exceeds 1 only if this does
    `target_passes`      `|P X+|^2 / |X+|^2`: the share of the target's energy, above 1 if `P` stretches it
    `reference_passes`   `|P X-|^2 / |X-|^2`: the share of the reference's energy
    ==================== =========================================================================================

    Args:
        P: `P+` or `g(P+)`. Columns of zeros on its left may be left out; `k` is the number of the others.
        S_plus: second moment of the target.
        S_minus: second moment of the reference.

    Example:
        >>> import torch
        >>> P = torch.diag(torch.tensor([0.5, 0.5, 0.0]))
        >>> found = properties(P, torch.eye(3), torch.eye(3))
        >>> found["owned"], found["effective_rank"], found["idempotence_defect"], found["obliqueness"]
        (1.0, 2.0, 0.5, 1.0)
    """
    n_zero = len(P) - P.shape[1]
    squared = P @ P[n_zero:]
    trace, trace_of_square, size = P[n_zero:].trace(), squared[n_zero:].trace(), P.norm()
    return {
        "owned": trace.item(),
        "effective_rank": share(trace.square(), trace_of_square).item(),
        "idempotence_defect": share((squared - P).norm(), size).item(),
        "obliqueness": (size / trace_of_square.clamp(min=0).sqrt()).item() if size > 0 else 1.0,
        "target_passes": passes(P, S_plus),
        "reference_passes": passes(P, S_minus),
    }


def passes(P: Float[Tensor, "d k"], S: Float[Tensor, "d d"]) -> float:
    """`|P X|^2 / |X|^2 = tr(P S P^T) / tr S`: the share of the inputs' energy that passes; 0 if there is none."""
    n_zero = len(P) - P.shape[1]
    return share(((P @ S[n_zero:, n_zero:]) * P).sum(), S.trace()).item()


def stretch(P: Float[Tensor, "d d"]) -> float:
    """`|P|_2`: the most by which `P` lengthens a row of weights. No `|W P|_F / |W|_F` exceeds it.

    Example:
        >>> import torch
        >>> round(stretch(torch.tensor([[0.5, 2.0], [0.0, 0.5]])), 3)
        2.118
    """
    from scipy.sparse.linalg import svds

    if len(P) < 2 or not P.count_nonzero():
        return P.norm().item()
    matrix = P.cpu().double().numpy()
    start = matrix[np.linalg.norm(matrix, axis=1).argmax()]  # never in the null space of P
    largest = float(np.asarray(svds(matrix, k=1, v0=start, return_singular_vectors=False))[0])
    # ARPACK continues from a random vector when it meets an invariant subspace, which changes the last bits.
    return float(f"{largest:.12g}")


def at_cuts(
    S_plus: Float[Tensor, "d d"], every: Spectrum, rtols: Iterable[float | int]
) -> list[dict[str, float | int]]:
    """`properties` of `P+` under other cuts, with the rank and condition of each, from one eigendecomposition.

    Args:
        S_plus: second moment of the target.
        every: all directions of `S = S+ + S-` that the data has.
        rtols: the cuts.
    """
    # In the coordinates of these directions, a coarser cut leaves out the first columns of `P+`. The target's inputs
    # have no part outside these directions.
    inside = every.U.T @ S_plus.to(every.U) @ every.U
    rest = every.lam.diag() - inside
    found: dict[int, dict[str, float | int]] = {}
    rows = []
    for rtol in rtols:
        lam = every.above(rtol).lam
        if len(lam) not in found:
            P = inside[:, len(inside) - len(lam) :] / lam
            found[len(lam)] = properties(P, inside, rest)
        rows.append({"rtol": float(rtol), "rank": len(lam), "condition": condition(lam), **found[len(lam)]})
    return rows


def condition(lam: Float[Tensor, "k"]) -> float:
    """`lambda_max / lambda_min` of kept directions; 1 if there are none."""
    return (lam[-1] / lam[0]).item() if len(lam) else 1.0


def norms_at_cuts(
    W: Float[Tensor, "out d"], S_plus: Float[Tensor, "d d"], every: Spectrum, ranks: Iterable[int], absorbed: bool
) -> list[float]:
    """`|W P+|_F` when only the largest directions are kept, for several numbers of them, from one product.

    Args:
        W: a matrix.
        S_plus: second moment of the target.
        every: all directions of `S = S+ + S-` that the data has.
        ranks: the numbers of directions to keep.
        absorbed: whether the last column of `W` is a bias, which the norm leaves out.
    """
    columns = W @ S_plus.to(every.U) @ every.U / every.lam
    norms = []
    for rank in ranks:
        kept, U = columns[:, columns.shape[1] - rank :], every.U[:, columns.shape[1] - rank :]
        bias = kept @ U[-1] if absorbed else kept.new_zeros(len(W))
        norms.append((kept.square().sum() - bias.square().sum()).clamp(min=0).sqrt().item())
    return norms
