"""`S = X X^T`: the uncentred second moment of an input, summed batch by batch.

Beside `S` stand the sum of the inputs and their number. They are what a row of ones, which absorbs a bias, adds to `S`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from engram_interp.common.storage import Content

FLOAT64_BELOW = 768
"""Inputs narrower than this are summed in float64. The spectral cut is `d * 2**-23`, so the narrower an input, the
nearer the rounding of float32 comes to the smallest kept direction, and the less float64 costs."""

WIDE = 2048
"""From this width on, a moment is summed in 8 strips instead of 4. Thinner strips waste less but multiply slower."""


def moment_dtype(d: int, dtype: torch.dtype = torch.float32) -> torch.dtype:
    """The precision in which the second moment of an input of size `d` is summed. It is at least the input's own."""
    return torch.promote_types(dtype, torch.float64 if d < FLOAT64_BELOW else torch.float32)


@dataclass(frozen=True)
class Moment:
    """The moments of one input over one group.

    Attributes:
        second: `S`, `[d d]`, the sum of `x x^T`.
        first: `[d]`, the sum of `x`.
        count: how many positions were summed.
        offered: how many positions count. An expert sums only those that are sent to it.
    """

    second: Float[Tensor, "d d"]
    first: Float[Tensor, "d"]
    count: int
    offered: int

    def __add__(self, other: Moment) -> Moment:
        device = self.second.device
        return Moment(
            self.second + other.second.to(device),
            self.first + other.first.to(device),
            self.count + other.count,
            self.offered + other.offered,
        )

    @property
    def is_finite(self) -> bool:
        """Whether `S` is finite. Its diagonal decides: it bounds every other entry."""
        return bool(self.second.diagonal().isfinite().all())

    def matrix(self, ones: bool) -> Float[Tensor, "d1 d1"]:
        """`S` in float64; with `ones`, the second moment of the inputs with a row of ones below them."""
        S = self.second.double()
        if not ones:
            return S
        sums = self.first.double()[:, None]
        count = torch.full((1, 1), float(self.count), dtype=torch.float64, device=S.device)
        return torch.cat([torch.cat([S, sums], dim=1), torch.cat([sums.T, count], dim=1)])


def with_ones(X: Float[Tensor, "n d"], ones: bool) -> Float[Tensor, "n d1"]:
    """Rows of inputs in float64; with `ones`, each ends in a one. `Moment.matrix` is their second moment."""
    X = X.double()
    return torch.cat([X, X.new_ones(len(X), 1)], dim=1) if ones else X


@contextmanager
def full_precision() -> Iterator[None]:
    """Multiplies float32 in float32 for the length of the block, even if the user allows TF32 or bf16."""
    setting = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(setting)


class MomentSum:
    """Sums a moment in place, from `[n d]` rows at a time.

    Args:
        like: an activation `[... d]` of the input, for its width, device and precision.
    """

    def __init__(self, like: Float[Tensor, "... d"]) -> None:
        d = like.shape[-1]
        self._second = torch.zeros(d, d, dtype=moment_dtype(d, like.dtype), device=like.device)
        # An absorbed bias depends on these sums. A few rows are summed at a time, and the results in float64. That is
        # as exact as converting every row, at a tenth of the cost.
        self._first = torch.zeros(d, dtype=torch.float64, device=like.device)
        self._count = self._offered = 0

        ends = torch.linspace(0, d, (4 if d < WIDE else 8) + 1).long().tolist()
        self._strips = [(start, stop) for start, stop in pairwise(ends) if start < stop]

    def add(self, X: Float[Tensor, "n d"], offered: int | None = None) -> None:
        """Add the rows of `X`.

        `X^T X` is symmetric, so only the strips right of the diagonal are summed.

        Args:
            X: the rows.
            offered: how many positions count; by default as many as there are rows.
        """
        X = X.to(self._second.dtype)
        with full_precision():
            for start, stop in self._strips:
                self._second[start:stop, start:].addmm_(X[:, start:stop].T, X[:, start:])
        for rows in X.split(64):
            self._first += rows.sum(0).double()
        self._count += len(X)
        self._offered += len(X) if offered is None else offered

    @property
    def is_finite(self) -> bool:
        """Whether every row so far was finite."""
        return bool(self._first.isfinite().all())

    def result(self) -> Moment:
        """The moment. What lies below the diagonal is mirrored from above it."""
        for start, stop in self._strips:
            own = self._second[start:stop, start:stop]
            own.copy_(own.triu() + own.triu(1).T)
            self._second[stop:, start:stop] = self._second[start:stop, stop:].T
        return Moment(self._second, self._first, self._count, self._offered)


def moment_in(content: Content, place: str) -> Moment:
    """The moment of a group and input in a file.

    Raises:
        ValueError: if the tensors are not a sum of `x x^T`: if a shape or dtype is wrong, or the matrix is not finite,
            symmetric and positive, or the counts do not fit.
    """
    second, first, count = (content.tensor(f"{place}/{part}") for part in ("second", "first", "count"))
    d = len(second) if second.dim() == 2 else 0
    wide = (torch.float32, torch.float64)
    if not d or tuple(second.shape) != (d, d) or tuple(first.shape) != (d,) or tuple(count.shape) != (2,):
        shapes = [list(one.shape) for one in (second, first, count)]
        raise content.error(f"{place} has shapes {shapes}, not [d, d], [d] and [2]")
    if second.dtype not in wide or first.dtype not in wide or count.dtype != torch.int64:
        raise content.error(f"{place} is {second.dtype}, {first.dtype} and {count.dtype}, not floats and int64")
    taken, offered = count.tolist()
    if not 0 <= taken <= offered or not offered:
        raise content.error(f"{place} counts {taken} of {offered} positions")
    if why := _no_moment(second, first, taken):
        raise content.error(f"{place} {why}")
    return Moment(second, first, taken, offered)


def _is_positive(second: Float[Tensor, "d d"]) -> bool:
    """Whether all eigenvalues are 0 or more, up to rounding: whether there is a Cholesky factor."""
    slack = 1e-3 * float(second.diagonal().max())
    if not slack:
        return True
    shifted = second + slack * torch.eye(len(second), dtype=second.dtype, device=second.device)
    return not int(torch.linalg.cholesky_ex(shifted).info)


def _no_moment(second: Float[Tensor, "d d"], first: Float[Tensor, "d"], taken: int) -> str | None:
    """Why this is not the sum of `taken` products `x x^T`; None if it is one."""
    if not (second.isfinite().all() and first.isfinite().all()):
        return "is not finite"
    if not taken and bool(second.any() or first.any()):
        return "counts no position and is not zero"
    diagonal = second.diagonal().double()
    if not torch.equal(second, second.T) or bool((diagonal < 0).any()):
        return "is not symmetric with a diagonal of 0 or more"
    # By Cauchy and Schwarz no second moment exceeds this, apart from the rounding of its sums.
    slack = 1.05
    if bool((second.double().square() > slack * diagonal[:, None] * diagonal + 1e-30).any()):
        return "has an entry larger than its diagonal allows"
    if bool((first.double().square() > slack * taken * diagonal + 1e-30).any()):
        return "has a sum larger than its count and diagonal allow"
    return None if _is_positive(second) else "is indefinite: a second moment has no negative eigenvalue"
