"""What do soft projectors do? Properties of `P+`, overlap of `P_i` and `P_j`, `Q = I - sum_i P_i` (paper, Section 6.3).

`P+ = S+ S^pinv` has the eigenvalues of `M = S^-1/2 S+ S^-1/2`, in [0, 1], but is not symmetric: it projects obliquely,
and `|P|_F` exceeds `|M|_F`. Since `tr P^2 = |M|_F^2`, no eigenvalue of `M` is needed to see by how much.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from engram_interp.linalg.spectrum import Spectrum
from engram_interp.models.sites import share


def properties(
    P: Float[Tensor, "d k"], S_plus: Float[Tensor, "d d"], S_minus: Float[Tensor, "d d"]
) -> dict[str, float | int]:
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
        P: `P+`, or `g(P+)`; its last columns do where all before them are zero.
        S_plus: second moment of the target.
        S_minus: second moment of the reference.

    Example:
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
    """`|P X|^2 / |X|^2 = tr(P S P^T) / tr S`: the share of the inputs' energy that passes; 0 of no inputs."""
    n_zero = len(P) - P.shape[1]
    return share(((P @ S[n_zero:, n_zero:]) * P).sum(), S.trace()).item()


def stretch(P: Float[Tensor, "d d"]) -> float:
    """`|P|_2`: the most that `P` makes of a row of weights, so that no `|W P|_F / |W|_F` is larger.

    Example:
        >>> round(stretch(torch.tensor([[0.5, 2.0], [0.0, 0.5]])), 3)
        2.118
    """
    from scipy.sparse.linalg import svds

    if len(P) < 2 or not P.count_nonzero():
        return P.norm().item()
    matrix = P.cpu().double().numpy()
    start = matrix[np.linalg.norm(matrix, axis=1).argmax()]  # not in the null of P
    largest = float(np.asarray(svds(matrix, k=1, v0=start, return_singular_vectors=False))[0])
    # ARPACK goes on from a random vector where it meets an invariant subspace, which moves the last bits.
    return float(f"{largest:.12g}")


def at_cuts(
    S_plus: Float[Tensor, "d d"], every: Spectrum, rtols: Iterable[float | int]
) -> list[dict[str, float | int]]:
    """`properties` of `P+` under other cuts, from one eigendecomposition, with each one's kept rank and condition.

    Args:
        S_plus: second moment of the target.
        every: all directions of `S = S+ + S-` that the data has.
        rtols: the cuts.
    """
    # In the coordinates of these directions a coarser cut leaves out columns of `P+`. The target is nowhere else.
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
    columns = W @ S_plus.to(every.U) @ every.U / every.lam
    norms = []
    for rank in ranks:
        kept, U = columns[:, columns.shape[1] - rank :], every.U[:, columns.shape[1] - rank :]
        bias = kept @ U[-1] if absorbed else kept.new_zeros(len(W))
        norms.append((kept.square().sum() - bias.square().sum()).clamp(min=0).sqrt().item())
    return norms


def overlaps(
    roots: Sequence[Float[Tensor, "_ d"]], kept: Spectrum
) -> tuple[Float[Tensor, "c c"], Float[Tensor, "c"], Float[Tensor, "c"]]:
    """`tr(P_i P_j)` of every two concepts, and `|P_i|_F` and `tr P_i` of each.

    With `Z_i = X_i S^-1/2`, `tr(P_i P_j) = tr(M_i M_j) = |Z_i Z_j^T|_F^2`: from the rows, not from `[d d]` projectors.

    Args:
        roots: of every concept, rows `[n d]` whose second moment is `S_i`: its inputs, or fewer.
        kept: the kept directions of `S = sum_i S_i`.

    Example:
        >>> from engram_interp.linalg.spectrum import spectrum
        >>> X, Y = torch.tensor([[2.0, 0.0]]).double(), torch.tensor([[0.0, 3.0]]).double()
        >>> together, norms, traces = overlaps([X, Y], spectrum(X.T @ X + Y.T @ Y))
        >>> together.tolist(), norms.tolist()
        ([[1.0, 0.0], [0.0, 1.0]], [1.0, 1.0])
    """
    Z = [whitened(root, kept) for root in roots]
    owner = torch.cat([torch.full((len(rows),), i, device=kept.U.device) for i, rows in enumerate(Z)])
    everyone = torch.cat(Z)
    together = torch.stack(
        [everyone.new_zeros(len(Z)).index_add(0, owner, (rows @ everyone.T).square().sum(0)) for rows in Z]
    )
    norms = [((root.to(Zi) @ root.to(Zi).T) * (Zi / kept.lam @ Zi.T)).sum() for root, Zi in zip(roots, Z, strict=True)]
    return together, torch.stack(norms).clamp(min=0).sqrt(), torch.stack([rows.square().sum() for rows in Z])


def whitened(root: Float[Tensor, "n d"], kept: Spectrum) -> Float[Tensor, "n k"]:
    """`Z = X S^-1/2` in the coordinates of the kept directions: `Z^T Z = M`."""
    return root.to(kept.U) @ kept.U / kept.lam.sqrt()


def owned_subspace(Z: Float[Tensor, "n k"]) -> Float[Tensor, "k r"]:
    """The directions that a concept owns most of, by `M = Z^T Z`: as many as its effective rank, rounded.

    Args:
        Z: whitened rows.
    """
    _, singular, directions = torch.linalg.svd(Z, full_matrices=False)
    shares = singular.square()
    rank = round(share(shares.sum().square(), shares.square().sum()).item())
    return directions[:rank].T


def principal_angles(A: Float[Tensor, "k a"], B: Float[Tensor, "k b"]) -> Float[Tensor, "angle"]:
    """The angles between two subspaces, in degrees, ascending; 90 where either is empty.

    Example:
        >>> axes = torch.eye(3).double()
        >>> principal_angles(axes[:, :2], axes[:, 1:]).round().tolist()
        [0.0, 90.0]
    """
    from scipy.linalg import subspace_angles

    if not A.shape[1] or not B.shape[1]:
        return A.new_tensor([90.0])
    return torch.from_numpy(np.rad2deg(subspace_angles(A.cpu().numpy(), B.cpu().numpy()))).flip(0)
