"""`tr(P_i P_j)`: how much do two concepts share, in projectors and in the subspaces that they own (paper, Section 6.3)?

With `Z_i = X_i S^-1/2`, `tr(P_i P_j) = tr(M_i M_j) = |Z_i Z_j^T|_F^2`. So the rows of the inputs are enough, and no
`[d d]` projector is made.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from engram_interp.linalg.norms import share
from engram_interp.linalg.spectrum import Spectrum


def overlaps(
    roots: Sequence[Float[Tensor, "_ d"]], kept: Spectrum
) -> tuple[Float[Tensor, "c c"], Float[Tensor, "c"], Float[Tensor, "c"]]:
    """`tr(P_i P_j)` of every two concepts, and `|P_i|_F` and `tr P_i` of each.

    Args:
        roots: for each concept, rows `[n d]` whose second moment is `S_i`: its inputs, or fewer rows.
        kept: the kept directions of `S = sum_i S_i`.

    Example:
        >>> from engram_interp.linalg.spectrum import spectrum
        >>> X, Y = torch.tensor([[2.0, 0.0]]).double(), torch.tensor([[0.0, 3.0]]).double()
        >>> together, norms, traces = overlaps([X, Y], spectrum(X.T @ X + Y.T @ Y))
        >>> together.tolist(), norms.tolist()
        ([[1.0, 0.0], [0.0, 1.0]], [1.0, 1.0])
    """
    Z = [kept.whiten(root) for root in roots]
    owner = torch.cat([torch.full((len(rows),), i, device=kept.U.device) for i, rows in enumerate(Z)])
    everyone = torch.cat(Z)
    together = torch.stack(
        [everyone.new_zeros(len(Z)).index_add(0, owner, (rows @ everyone.T).square().sum(0)) for rows in Z]
    )
    norms = [((root.to(Zi) @ root.to(Zi).T) * (Zi / kept.lam @ Zi.T)).sum() for root, Zi in zip(roots, Z, strict=True)]
    return together, torch.stack(norms).clamp(min=0).sqrt(), torch.stack([rows.square().sum() for rows in Z])


def owned_subspace(Z: Float[Tensor, "n k"]) -> Float[Tensor, "k r"]:
    """The directions that a concept owns most of, by `M = Z^T Z`. Their number is its effective rank, rounded.

    Args:
        Z: rows `X S^-1/2`; see `Spectrum.whiten`.
    """
    _, singular, directions = torch.linalg.svd(Z, full_matrices=False)
    shares = singular.square()
    rank = round(share(shares.sum().square(), shares.square().sum()).item())
    return directions[:rank].T


def principal_angles(A: Float[Tensor, "k a"], B: Float[Tensor, "k b"]) -> Float[Tensor, "angle"]:
    """The angles between two subspaces, in degrees, ascending; 90 if either is empty.

    Example:
        >>> axes = torch.eye(3).double()
        >>> principal_angles(axes[:, :2], axes[:, 1:]).round().tolist()
        [0.0, 90.0]
    """
    from scipy.linalg import subspace_angles

    if not A.shape[1] or not B.shape[1]:
        return A.new_tensor([90.0])
    return torch.from_numpy(np.rad2deg(subspace_angles(A.cpu().numpy(), B.cpu().numpy()))).flip(0)
