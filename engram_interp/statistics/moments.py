"""`S = X X^T`: the uncentred second moment of an input, summed batch by batch.

Beside `S` stand the sum of the inputs and their number. They are what a row of ones, which absorbs a bias, adds to `S`.
Where the inputs themselves, row by row, take less memory than `S`, they are kept instead: `S` follows from them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from engram_interp.linalg.gram import ROWS, add_gram, gram, mirror, multiplies_exactly, strips
from engram_interp.linalg.second_moment import SecondMoment
from engram_interp.linalg.spectrum import default_rtol

FLOAT64_BELOW = 768
"""Moments of inputs narrower than this are held in float64. The spectral cut is `d * 2**-23`, so the narrower an input,
the nearer the rounding of float32 comes to the smallest kept direction, and the less memory float64 costs."""

EXACT_BELOW = 256
"""Rows of inputs narrower than this are multiplied in float64, wider ones in float32. What float32 makes of an engram
is off by at most 4e-3, 5e-4, 1.3e-4, 7e-5 and 3e-5 of its norm at widths 16, 64, 128, 256 and 512, on eight rows a
dimension, with eigenvalues down to three times the cut."""
FEW_ROWS = 64
"""So many rows are summed in float32 before their sum is added in float64."""
NEVER = 2**62
"""The number of no batch."""


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

    def __add__(self, other: Moment | MomentOfRows) -> Moment:
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

    def __add__(self, other: Moment | MomentOfRows) -> Moment | MomentOfRows:
        if isinstance(other, Moment) or other.times != self.times:
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


AnyMoment: TypeAlias = Moment | MomentOfRows
"""The moments of one input over one group, however they are held."""


def rows_are_fewer(n: int, d: int, dtype: torch.dtype) -> bool:
    """Whether `n` rows of `d` numbers take no more memory than their second moment.

    Example:
        >>> rows_are_fewer(20, 10, torch.float32), rows_are_fewer(21, 10, torch.float32)
        (True, False)
    """
    return n * dtype.itemsize <= d * moment_dtype(d, dtype).itemsize


def moment_of(X: Float[Tensor, "n d"], offered: int | None = None) -> AnyMoment:
    """The moment of rows that are at hand. It shares their memory if it holds them.

    Args:
        X: the rows.
        offered: how many positions count; by default as many as there are rows.
    """
    if rows_are_fewer(len(X), X.shape[1], X.dtype):
        return MomentOfRows(X, len(X) if offered is None else offered)
    total = MomentSum(X)
    total.add(X, offered)
    return total.result()


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


class MomentSum:
    """Sums a moment in place, from `[n d]` rows at a time.

    What is summed is `(x - m)(x - m)^T` and `x - m`, with `m` the mean of the first rows; `result` puts `m` back:
    `sum x x^T = sum (x - m)(x - m)^T + m s^T + s m^T + n m m^T` with `s = sum (x - m)`. The mean carries most of the
    energy of many inputs, and what is left has smaller products, so these may be made in float32.

    Args:
        like: an activation `[... d]` of the input, for its width, device and precision. Products are made in its
            precision at least.

    Attributes:
        spoiled: the first batch of which a row was not finite, or `NEVER`. It stays on its device, so nobody waits.
    """

    def __init__(self, like: Float[Tensor, "... d"]) -> None:
        d = like.shape[-1]
        self._squares = torch.zeros(d, d, dtype=moment_dtype(d, like.dtype), device=like.device)
        self._sums = torch.zeros(d, dtype=torch.float64, device=like.device)
        self._products = torch.promote_types(like.dtype, torch.float64 if d < EXACT_BELOW else torch.float32)
        self._mean: Tensor | None = None
        self._count = self._offered = 0
        self.like = like.detach().new_empty(0, d)
        self.spoiled: Int[Tensor, ""] = torch.full((), NEVER, device=like.device)

    @property
    def offered(self) -> int:
        """How many positions count so far."""
        return self._offered

    def add(self, X: Float[Tensor, "n d"], offered: int | None = None, batch: int = 0) -> None:
        """Add the rows of `X`.

        Args:
            X: the rows.
            offered: how many positions count; by default as many as there are rows.
            batch: the number of the batch that they come from.
        """
        self._count += len(X)
        self._offered += len(X) if offered is None else offered
        if not len(X):
            return
        mean = self._mean = _mean(X, self._products) if self._mean is None else self._mean
        with full_precision():
            for rows in X.split(ROWS):
                # Rows in half precision have exact products, and inexact differences from a mean.
                centred = rows if multiplies_exactly(rows) else rows.to(mean) - mean
                add_gram(self._squares, centred)
                self._sums += _column_sums(centred)
        self.spoiled = self.spoiled.where(self._sums.isfinite().all(), self.spoiled.clamp(max=batch))

    def result(self) -> Moment:
        """The moment. The sum is used up."""
        mean = torch.zeros_like(self._sums) if self._mean is None else self._mean.double()
        left = torch.stack([self._count * mean + self._sums, mean])
        right = torch.stack([mean, self._sums])
        for start, stop in strips(len(mean)):
            strip = self._squares[start:, start:stop]
            strip.copy_(strip.double() + left[:, start:].T @ right[:, start:stop])
        return Moment(mirror(self._squares), self._sums + self._count * mean, self._count, self._offered)


class RowsKept:
    """Keeps `[n d]` rows at a time, in place of their moment.

    They lie in one piece: many small ones would scatter over the memory and hold on to what lies between.

    Args:
        like: an activation `[... d]` of the input, for its width, device and precision.
        room: for how many rows memory is taken at first.

    Attributes:
        spoiled: as in `MomentSum`.
    """

    def __init__(self, like: Float[Tensor, "... d"], room: int) -> None:
        self._rows = like.detach().new_empty(room, like.shape[-1])
        self._count = self._offered = 0
        self.like = self._rows[:0]
        self.spoiled: Int[Tensor, ""] = torch.full((), NEVER, device=like.device)

    @property
    def offered(self) -> int:
        """How many positions count so far."""
        return self._offered

    @property
    def rows(self) -> Float[Tensor, "n d"]:
        """The rows so far."""
        return self._rows[: self._count]

    def add(self, X: Float[Tensor, "n d"], offered: int | None = None, batch: int = 0) -> None:
        """Keep a copy of the rows of `X`; for the arguments see `MomentSum.add`."""
        before, self._count = self._count, self._count + len(X)
        self._offered += len(X) if offered is None else offered
        if self._count > len(self._rows):
            grown = self._rows.new_empty(max(self._count, 2 * len(self._rows)), X.shape[1])
            grown[:before] = self._rows[:before]
            self._rows = grown
        self._rows[before : self._count] = X
        self.spoiled = self.spoiled.where(X.isfinite().all(), self.spoiled.clamp(max=batch))

    def result(self) -> MomentOfRows:
        """The moment."""
        rows = self._rows if self._count == len(self._rows) else self._rows[: self._count].clone()
        return MomentOfRows(rows, self._offered)


class GrowingSum:
    """Keeps rows as long as they take less memory than their moment, and sums from then on.

    Args:
        like: an activation `[... d]` of the input, for its width, device and precision.

    Attributes:
        like: no rows, as those that are summed.
    """

    def __init__(self, like: Float[Tensor, "... d"]) -> None:
        self._sum: RowsKept | MomentSum = RowsKept(like, 0)
        self.like = self._sum.like

    @property
    def spoiled(self) -> Int[Tensor, ""]:
        """As in `MomentSum`."""
        return self._sum.spoiled

    @property
    def offered(self) -> int:
        """How many positions count so far."""
        return self._sum.offered

    def add(self, X: Float[Tensor, "n d"], offered: int | None = None, batch: int = 0) -> None:
        """Add the rows of `X`; for the arguments see `MomentSum.add`."""
        kept = self._sum
        if isinstance(kept, RowsKept) and not rows_are_fewer(len(kept.rows) + len(X), X.shape[1], X.dtype):
            self._sum = MomentSum(X)
            self._sum.add(kept.rows, kept.offered, int(kept.spoiled.clamp(max=batch)))
        self._sum.add(X, offered, batch)

    def result(self) -> AnyMoment:
        """The moment. The sum is used up."""
        return self._sum.result()


def moment_sum(
    like: Float[Tensor, "... d"], n_rows: int | None, room: int | None = None
) -> MomentSum | RowsKept | GrowingSum:
    """What adds up the moment of at most `n_rows` rows with the least memory.

    Args:
        like: an activation `[... d]` of the input.
        n_rows: how many rows may come; None if nobody knows.
        room: how many will come, as far as is known; None if as many as may.
    """
    if n_rows is None:
        return GrowingSum(like)
    room = n_rows if room is None else room
    return RowsKept(like, room) if rows_are_fewer(n_rows, like.shape[-1], like.dtype) else MomentSum(like)


def _mean(X: Float[Tensor, "n d"], dtype: torch.dtype) -> Float[Tensor, "d"]:
    """The mean of rows, in the precision in which they are multiplied."""
    return X.new_zeros(X.shape[1], dtype=dtype) if multiplies_exactly(X) else X.to(dtype).mean(0)


def _column_sums(X: Float[Tensor, "n d"]) -> Float[Tensor, "d"]:
    """`sum x` in float64. A few rows at a time are summed in float32, as exact as converting each, and faster."""
    whole = len(X) - len(X) % FEW_ROWS
    few = X[:whole].unflatten(0, (-1, FEW_ROWS)).sum(1, dtype=torch.promote_types(X.dtype, torch.float32))
    return few.sum(0, dtype=torch.float64) + X[whole:].sum(0, dtype=torch.float64)
