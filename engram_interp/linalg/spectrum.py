"""`S = U lam U^T`: the directions of a second moment, and which of them count.

The pseudo-inverse drops directions whose eigenvalue is at most `rtol * lambda_max`. On language models condition
numbers reach 1e13, so this cut is a regularisation strength and not a guard against rounding. It is therefore explicit,
and the same for every dtype and device.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import torch
from jaxtyping import Float
from torch import Tensor

from engram_interp.common.arguments import number
from engram_interp.linalg.gram import gram
from engram_interp.linalg.solution import Solution


@dataclass(frozen=True)
class Spectrum(Solution):
    """The kept directions of a second moment.

    Attributes:
        U: `[d k]`, orthonormal columns.
        lam: `[k]`, their eigenvalues, ascending and positive.
    """

    U: Float[Tensor, "d k"]
    lam: Float[Tensor, "k"]

    @property
    def Pi(self) -> Float[Tensor, "d d"]:
        """`Pi = U U^T`, the orthogonal projector onto the kept directions."""
        return self.U @ self.U.T

    def above(self, rtol: float | int | None) -> Spectrum:
        """The directions that a coarser cut keeps too; see `spectrum`. They share memory with these."""
        require_rtol(rtol)
        rtol = default_rtol(len(self.U)) if rtol is None else rtol
        dropped = int((self.lam <= rtol * self.lam[-1:].clamp(min=0)).sum())
        return Spectrum(self.U[:, dropped:], self.lam[dropped:])

    @property
    def rank(self) -> int:
        """How many directions are kept."""
        return len(self.lam)

    def without_outliers(self, rtol: float | int | None, outliers: float | int) -> float:
        """A cut relative to the largest eigenvalue of all, given one relative to the largest that is no outlier.

        Args:
            rtol: relative to the largest eigenvalue that is left. None means `default_rtol(d)`.
            outliers: the share of the `d` directions, those with the largest eigenvalues, that are set aside.

        Example:
            >>> found = spectrum(torch.diag(torch.tensor([1.0, 2.0, 4.0, 400.0])))
            >>> found.without_outliers(0.5, outliers=0.25)
            0.005
        """
        d = len(self.U)
        rtol = default_rtol(d) if rtol is None else float(rtol)
        n_aside = min(ceil(outliers * d), max(self.rank - 1, 0))
        return rtol * float(self.lam[-1 - n_aside] / self.lam[-1]) if self.rank else rtol

    def hidden(self, rtol: float | int | None) -> int:
        """How many directions the cut drops only because of the largest eigenvalue: those above `rtol lambda_2`.

        Example:
            >>> spectrum(torch.diag(torch.tensor([1.0, 2.0, 4.0, 400.0])), 0.0).hidden(0.1)
            3
        """
        if self.rank < 2:
            return 0
        rtol = default_rtol(len(self.U)) if rtol is None else rtol
        return int(((self.lam > rtol * self.lam[-2]) & (self.lam <= rtol * self.lam[-1])).sum())

    def whiten(self, A: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """`C = A U lam^(-1/2)`."""
        return A.to(self.U) @ self.U / self.lam.sqrt()

    def unwhiten(self, C: Float[Tensor, "n k"]) -> Float[Tensor, "n d"]:
        """`C lam^(-1/2) U^T`."""
        return (C / self.lam.sqrt()) @ self.U.T

    def project(self, A: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """`A Pi = A U U^T`."""
        return (A.to(self.U) @ self.U) @ self.U.T


def default_rtol(d: int) -> float:
    """`d * 2**-23`: the cut of the authors' released code for a moment matrix of size `d`.

    Example:
        >>> default_rtol(2048)
        0.000244140625
    """
    return d * 2.0**-23


def require_rtol(rtol: float | int | None) -> None:
    """Checks a cut; None is fine.

    Raises:
        ValueError: if `rtol` is outside [0, 1).
        TypeError: if `rtol` is not a number.
    """
    if rtol is not None and not 0 <= number(rtol, "rtol") < 1:
        raise ValueError(f"rtol must be in [0, 1), a share of the largest eigenvalue; got {rtol}")


def require_ridge(ridge: float | int) -> None:
    """Checks a ridge.

    Raises:
        ValueError: if `ridge` is negative or not finite.
        TypeError: if `ridge` is not a number.
    """
    if number(ridge, "ridge") < 0:
        raise ValueError(f"ridge must be 0 or more; got {ridge}")


def require_finite(S: Float[Tensor, "d d"]) -> None:
    """Checks a second moment.

    Raises:
        ValueError: if it is not finite.
    """
    if not S.isfinite().all():
        raise ValueError(f"a second moment of size {len(S)} is not finite, because its activations overflowed")


def spectrum(S: Float[Tensor, "d d"], rtol: float | int | None = None, ridge: float | int = 0.0) -> Spectrum:
    """The directions of a second moment above the cut, by an eigendecomposition in float64.

    Args:
        S: symmetric and positive semi-definite.
        rtol: drops eigenvalues of at most `rtol * lambda_max`. None means `default_rtol(d)`; the paper's text has 1e-6.
        ridge: uses `S + ridge I` in place of `S` (UCE; paper, Eq. 31), in the directions that `S` has. A ridge needs no
            cut: `rtol=None` then means 0.

    Raises:
        ValueError: if `rtol` is outside [0, 1), `ridge` is negative, or `S` is not finite.

    Example:
        >>> spectrum(torch.diag(torch.tensor([4.0, 1.0, 0.0]))).lam.tolist()
        [1.0, 4.0]
    """
    require_rtol(rtol)
    require_ridge(ridge)
    require_finite(S)
    S = S.double()
    lam, U = torch.linalg.eigh((S + S.T) / 2)
    return _cut(U, lam, rtol, ridge)


def spectrum_of_rows(X: Float[Tensor, "n d"], rtol: float | int | None = None, ridge: float | int = 0.0) -> Spectrum:
    """`spectrum` of `S = X^T X`: with fewer rows than dimensions, the directions are found among the rows.

    With `X^T = Q R` and `R R^T = V lam V^T` they are `U = Q V`, orthonormal to rounding.

    Raises:
        ValueError: as `spectrum` does.

    Example:
        >>> spectrum_of_rows(torch.tensor([[0.0, 2.0, 0.0], [1.0, 0.0, 0.0]])).lam.tolist()
        [1.0, 4.0]
    """
    require_rtol(rtol)
    require_ridge(ridge)
    if not X.isfinite().all():
        raise ValueError(f"rows of size {X.shape[1]} are not finite, because activations overflowed")
    Q, R = torch.linalg.qr(X.double().T)
    lam, V = torch.linalg.eigh(gram(R.T))
    return _cut(Q @ V, lam, rtol, ridge)


def _cut(U: Float[Tensor, "d n"], lam: Float[Tensor, "n"], rtol: float | int | None, ridge: float | int) -> Spectrum:
    if ridge:
        # In directions that the data does not have, the target has only rounding, which the ridge must not divide.
        has = lam > len(U) * torch.finfo(torch.float64).eps * lam[-1:]
        return Spectrum(U[:, has], lam[has] + ridge).above(rtol or 0.0)
    return Spectrum(U, lam).above(rtol)
