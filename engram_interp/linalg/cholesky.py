"""`S = L L^T`: where nothing is cut, the pseudo-inverse is the inverse, and two triangular solves do.

If `S - c I` has a Cholesky factor, every eigenvalue of `S` exceeds `c`. With `c = rtol b` for any `b >= lambda_max`,
this certifies that the cut drops nothing. `|S|_F` is such a `b`. A closer one is found by a Lanczos iteration, and it
holds if `b I - S` has a factor too.

Where the cut drops a few directions `V`, these are found by an inverse iteration and lifted above the cut. Then
`S + V (t - mu) V^T` has a factor, the certificate says that nothing else is below, and
`A S^pinv = (A - A V V^T) (S + V (t - mu) V^T)^-1`.

Eigenvalues nearer to the cut than rounding are left to the eigendecomposition: what is certified is what it would keep.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from engram_interp.linalg.solution import Solution
from engram_interp.linalg.spectrum import default_rtol

FEW = 8
"""As many dropped directions are worth searching for; with more, an eigendecomposition is as fast."""
WIDE = 1024
"""Below this width an eigendecomposition is as fast as a search for dropped directions."""
CLOSE = 1e-3
"""By how much a bound of the largest eigenvalue may exceed it."""
MIXED = 1e-10
"""By how much a dropped direction may be mixed with kept ones: its residual over its distance from the cut."""


@dataclass(frozen=True)
class Cholesky(Solution):
    """The factor of a second moment of which all directions are kept, but for a few.

    Attributes:
        L: lower triangular, the factor of `S` with the dropped directions lifted.
        V: orthonormal columns, the dropped directions.
    """

    L: Float[Tensor, "d d"]
    V: Float[Tensor, "d dropped"]

    @property
    def rank(self) -> int:
        """How many directions are kept."""
        return len(self.L) - self.V.shape[1]

    def whiten(self, A: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """`C = A Pi L^-T`."""
        return torch.linalg.solve_triangular(self.L, self.project(A.to(self.L)).T, upper=False).T

    def unwhiten(self, C: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """`C L^-1`."""
        return self.project(torch.linalg.solve_triangular(self.L.T, C.T, upper=True).T)

    def project(self, A: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """`A Pi = A - A V V^T`."""
        return A - (A @ self.V) @ self.V.T if self.V.shape[1] else A


def cholesky(S: Float[Tensor, "d d"], rtol: float | int | None = None) -> Cholesky | None:
    """The factor of a second moment, if the cut certainly keeps all directions but for a few; None otherwise.

    Args:
        S: symmetric and positive semi-definite, finite.
        rtol: drops eigenvalues of at most `rtol * lambda_max`; see `spectrum`.

    Example:
        >>> cholesky(torch.diag(torch.tensor([4.0, 1.0])).double()).rank
        2
        >>> cholesky(torch.diag(torch.tensor([4.0, 0.0])).double()) is None
        True
    """
    S = S.double()
    rtol = default_rtol(len(S)) if rtol is None else float(rtol)
    if all_above(S, (rtol + _rounding(S)) * S.norm().item()):
        return Cholesky(torch.linalg.cholesky(S), S[:, :0])
    if (largest := _largest(S)) is None:
        return None
    if all_above(S, (rtol + _rounding(S)) * largest[1]):
        return Cholesky(torch.linalg.cholesky(S), S[:, :0])
    return _without_few(S, rtol, *largest) if len(S) >= WIDE else None


def all_above(S: Float[Tensor, "d d"], c: float) -> bool:
    """Whether all eigenvalues of `S` certainly exceed `c`: whether `S - c I` has a Cholesky factor.

    Example:
        >>> S = torch.diag(torch.tensor([4.0, 1.0])).double()
        >>> all_above(S, 0.99), all_above(S, 1.01)
        (True, False)
    """
    return _factor(S, -c) is not None


def _factor(S: Float[Tensor, "d d"], shift: float) -> Float[Tensor, "d d"] | None:
    """The Cholesky factor of `S + shift I`, if there is one."""
    shifted = S.clone()
    shifted.diagonal().add_(shift)
    L, failed = torch.linalg.cholesky_ex(shifted)
    return None if failed.item() else L


def _rounding(S: Float[Tensor, "d d"]) -> float:
    """By how much of the largest eigenvalue a computed one may be off, in float64."""
    return 8 * len(S) * torch.finfo(torch.float64).eps


def _largest(S: Float[Tensor, "d d"]) -> tuple[float, float] | None:
    """Two bounds of the largest eigenvalue, `CLOSE` to each other; None if the iteration has found another one."""
    if len(S) < 3 or not S.any():
        return None
    found, _ = _eigenpairs(lambda x: S @ x, S, 1, CLOSE / 4)
    if not len(found):
        return None
    low = float(found[0])
    high = low * (1 + CLOSE)
    return (low, high) if all_above(-S, -high) else None


def _eigenpairs(
    multiply: Callable[[Tensor], Tensor], like: Float[Tensor, "d d"], n: int, tol: float
) -> tuple[Float[Tensor, "n"], Float[Tensor, "d n"]]:
    """The largest eigenvalues of a symmetric matrix and their vectors; none if the Lanczos iteration does not converge.

    Args:
        multiply: the matrix times a vector.
        like: a matrix of its size and device.
        n: how many.
        tol: how exact they are, relative; 0 is as exact as can be.
    """
    from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh

    def matvec(x: np.ndarray) -> np.ndarray:
        return multiply(torch.from_numpy(x).to(like)).cpu().numpy()

    operator = LinearOperator(shape=tuple(like.shape), matvec=matvec, dtype=np.float64)  # pyright: ignore[reportCallIssue]
    start = np.random.default_rng(0).standard_normal(len(like))
    try:
        lam, V = eigsh(operator, k=n, v0=start, tol=tol, which="LA")  # pyright: ignore[reportArgumentType]
    except ArpackError:
        return like.new_zeros(0), like[:, :0]
    return torch.from_numpy(lam).to(like), torch.from_numpy(np.ascontiguousarray(V)).to(like)


def _without_few(S: Float[Tensor, "d d"], rtol: float, low: float, high: float) -> Cholesky | None:
    """The factor without the few directions that the cut drops; None if they are many, or hard to tell from others.

    Args:
        S: the moment.
        rtol: the cut.
        low: a lower bound of the largest eigenvalue.
        high: an upper bound.
    """
    rounding = _rounding(S) * high
    n_dropped = _n_below(S, rtol * high + rounding)
    if not 0 < n_dropped <= FEW:
        return None
    mu, V = _smallest(S, n_dropped, rtol * high)
    off = (S @ V - V * mu).norm(dim=0).max().item() if len(mu) else math.inf
    if off > MIXED * (rtol * low - rounding - mu.max().item()):
        return None
    lifted = S + (V * (S.diagonal().mean() - mu)) @ V.T
    if not all_above(lifted, rtol * high + rounding):
        return None
    return Cholesky(torch.linalg.cholesky(lifted), V)


def _n_below(S: Float[Tensor, "d d"], c: float) -> int:
    """How many eigenvalues lie below `c`: as many as pivots of `S - c I` are negative (Sylvester)."""
    shifted = S.clone()
    shifted.diagonal().sub_(c)
    LD, pivots, _ = torch.linalg.ldl_factor_ex(shifted)
    # A block of two, whose pivots are negative, has one eigenvalue of either sign.
    single = pivots > 0
    return int((LD.diagonal()[single] < 0).sum()) + int((~single).sum()) // 2


def _smallest(S: Float[Tensor, "d d"], n: int, cut: float) -> tuple[Float[Tensor, "n"], Float[Tensor, "d n"]]:
    """The smallest eigenvalues and their directions, by an inverse Lanczos iteration; none if it does not converge."""
    shift = max(cut, _rounding(S) * S.norm().item())  # a factor exists though S may be singular
    if (L := _factor(S, shift)) is None:
        return S.new_zeros(0), S[:, :0]
    found, V = _eigenpairs(lambda x: torch.cholesky_solve(x[:, None], L)[:, 0], S, n, 0.0)
    return 1 / found - shift, V
