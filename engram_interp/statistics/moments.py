"""`S = X X^T`: the uncentred second moment of an input.

Beside `S` stand the sum of the inputs and their number. They are what a row of ones, which absorbs a bias, adds to `S`.
Where the inputs themselves, row by row, take less memory than `S`, they are kept instead: `S` follows from them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from engram_interp.linalg.gram import gram
from engram_interp.linalg.second_moment import SecondMoment
from engram_interp.linalg.spectrum import default_rtol

FLOAT64_BELOW = 768
"""Moments of inputs narrower than this are held in float64. The spectral cut is `d * 2**-23`, so the narrower an input,
the nearer the rounding of float32 comes to the smallest kept direction, and the less memory float64 costs."""


def moment_dtype(d: int, dtype: torch.dtype = torch.float32) -> torch.dtype:
    """The precision in which the second moment of an input of size `d` is held. It is at least the input's own."""
    return torch.promote_types(dtype, torch.float64 if d < FLOAT64_BELOW else torch.float32)


@dataclass(frozen=True)
class Moment:
    """The moments of one input over one group.

    Attributes:
        second: `S`, `[d d]`, the sum of `x x^T`.
        first: `[d]`, the sum of `x`.
        count: how many rows were summed.
        offered: how many positions count. An expert sums only those that are sent to it, and a convolution sums a row
            for every patch of a picture.
    """

    second: Float[Tensor, "d d"]
    first: Float[Tensor, "d"]
    count: int
    offered: int

    def __add__(self, other: AnyMoment) -> Moment:
        device = self.second.device
        return Moment(
            self.second + other.second.to(device),
            self.first + other.first.to(device),
            self.count + other.count,
            self.offered + other.offered,
        )

    def __mul__(self, factor: float) -> Moment:
        """What so many times the positions would sum to. The counts are rounded."""
        counts = (round(factor * n) for n in (self.count, self.offered))
        return Moment(factor * self.second, factor * self.first, *counts)

    @property
    def width(self) -> int:
        """The size of the input."""
        return len(self.first)

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

    def of_inputs(self, ones: bool) -> SecondMoment:
        """`matrix`, for linear algebra."""
        return SecondMoment(self.matrix(ones))


@dataclass(frozen=True)
class MomentOfRows:
    """The moments of one input over one group, held as the inputs themselves.

    Attributes:
        X: the inputs, as the model computes them, in its precision.
        offered: how many positions count. An expert has rows only for those that are sent to it.
        times: how often every row counts.
    """

    X: Float[Tensor, "n d"]
    offered: int
    times: float | int = 1.0

    @property
    def second(self) -> Float[Tensor, "d d"]:
        """`S`, in the precision in which moments are held."""
        return self.matrix(ones=False).to(moment_dtype(self.width, self.X.dtype))

    @property
    def first(self) -> Float[Tensor, "d"]:
        """The sum of the inputs."""
        return self.times * self.X.sum(0, dtype=torch.float64)

    @property
    def count(self) -> int:
        """How many positions were summed."""
        return round(self.times * len(self.X))

    @property
    def width(self) -> int:
        """The size of the input."""
        return self.X.shape[1]

    @property
    def is_finite(self) -> bool:
        """Whether every input is finite."""
        return bool(self.X.isfinite().all())

    @property
    def whole(self) -> Moment:
        """The same moments, summed."""
        return Moment(self.second, self.first, self.count, self.offered)

    def __add__(self, other: AnyMoment) -> Moment | MomentOfRows:
        if not isinstance(other, MomentOfRows) or other.times != self.times:
            return self.whole + other
        both = torch.cat([self.X, other.X.to(self.X)])
        found = MomentOfRows(both, self.offered + other.offered, self.times)
        return found if rows_are_fewer(len(both), self.width, both.dtype) else found.whole

    def __mul__(self, factor: float) -> MomentOfRows:
        """What so many times the positions would sum to. The counts are rounded."""
        return MomentOfRows(self.X, round(factor * self.offered), factor * self.times)

    def matrix(self, ones: bool) -> Float[Tensor, "d1 d1"]:
        """`S` in float64; with `ones`, the second moment of the inputs with a row of ones below them."""
        return gram(self.root(ones))

    def root(self, ones: bool) -> Float[Tensor, "n d1"]:
        """Rows in float64 whose second moment is `matrix`."""
        return self.times**0.5 * with_ones(self.X, ones)

    def of_inputs(self, ones: bool) -> SecondMoment:
        """`matrix`, for linear algebra."""
        return SecondMoment(rows=self.root(ones))


@dataclass(frozen=True)
class CompressedMoment:
    """The moments of one input over one group, by their leading directions.

    `S = C + s s^T / n`, with `C` the spread around the mean. Of `C` the leading eigenvectors are kept, and the energy
    of the others is spread evenly over their directions: `C = U diag(lam) U^T + floor (I - U U^T)`.

    Attributes:
        U: the leading eigenvectors of `C`.
        lam: their eigenvalues.
        floor: the mean of the other eigenvalues.
        first: `s`, the sum of `x`.
        count: how many rows were summed.
        offered: how many positions count.
    """

    U: Float[Tensor, "d k"]
    lam: Float[Tensor, "k"]
    floor: float
    first: Float[Tensor, "d"]
    count: int
    offered: int

    @property
    def width(self) -> int:
        """The size of the input."""
        return len(self.first)

    @property
    def is_finite(self) -> bool:
        """Whether `S` is finite."""
        return bool(self.lam.isfinite().all())

    @property
    def second(self) -> Float[Tensor, "d d"]:
        """`S`, in the precision in which moments are held."""
        return self.matrix(ones=False).to(moment_dtype(self.width))

    @property
    def whole(self) -> Moment:
        """The same moments as a matrix."""
        return Moment(self.second, self.first, self.count, self.offered)

    def __add__(self, other: AnyMoment) -> Moment:
        return self.whole + other

    def __mul__(self, factor: float) -> Moment:
        """What so many times the positions would sum to. The counts are rounded."""
        return self.whole * factor

    def matrix(self, ones: bool) -> Float[Tensor, "d1 d1"]:
        """`S` in float64; with `ones`, the second moment of the inputs with a row of ones below them."""
        U, s = self.U.double(), self.first.double()
        S = (U * (self.lam.double() - self.floor)) @ U.T + torch.outer(s, s) / max(self.count, 1)
        S.diagonal().add_(self.floor)
        return Moment(S, s, self.count, self.offered).matrix(ones)

    def of_inputs(self, ones: bool) -> SecondMoment:
        """`matrix`, for linear algebra."""
        return SecondMoment(self.matrix(ones))


AnyMoment: TypeAlias = Moment | MomentOfRows | CompressedMoment
"""The moments of one input over one group, however they are held."""


def rows_are_fewer(n: int, d: int, dtype: torch.dtype) -> bool:
    """Whether `n` rows of `d` numbers take no more memory than their second moment.

    Example:
        >>> rows_are_fewer(20, 10, torch.float32), rows_are_fewer(21, 10, torch.float32)
        (True, False)
    """
    return n <= most_rows(d, dtype)


def most_rows(d: int, dtype: torch.dtype) -> int:
    """How many rows of `d` numbers take no more memory than their second moment."""
    return d * moment_dtype(d, dtype).itemsize // dtype.itemsize


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


def rank_of(moment: AnyMoment) -> int:
    """How many directions a moment has above the default cut. Above a width of 4096 it is bounded by the positions.

    Example:
        >>> X = torch.tensor([[1.0, 0.0, 0.0], [2.0, 0.0, 0.0]])
        >>> rank_of(Moment(X.T @ X, X.sum(0), count=2, offered=2))
        1
    """
    d = moment.width
    if d > 4096:
        return min(d, moment.count)
    S = moment.of_inputs(ones=False)
    # `X X^T` has the eigenvalues of `X^T X`, but for zeros.
    lam = torch.linalg.eigvalsh(S.S if S.rows is None or len(S.rows) >= d else gram(S.rows.T))
    return int((lam > default_rtol(d) * lam[-1:]).sum())
