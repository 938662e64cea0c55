"""`S = sum x x^T`, batch by batch: what adds up the moment of an input with the least memory, and can go on later.

A sum's `state` is what a checkpoint holds of it. `restored` goes on from there, and ends with the same bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from engram_interp.linalg.gram import ROWS, add_gram, mirror, multiplies_exactly
from engram_interp.linalg.triangle import pack, unpack_lower
from engram_interp.statistics.moments import (
    AnyMoment,
    Moment,
    MomentOfRows,
    full_precision,
    moment_dtype,
    most_rows,
    rows_are_fewer,
)

EXACT_BELOW = 256
"""Rows of inputs narrower than this are multiplied in float64, wider ones in float32. What float32 makes of an engram
is off by at most 4e-3, 5e-4, 1.3e-4, 7e-5 and 3e-5 of its norm at widths 16, 64, 128, 256 and 512, on eight rows a
dimension, with eigenvalues down to three times the cut."""
FEW_ROWS = 64
"""So many rows are summed in float32 before their sum is added in float64."""
COLUMNS = 128
"""So many columns at a time are brought from the centred sum to the moment, so that it takes little memory."""
NEVER = 2**62
"""The number of no batch."""


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


class MomentSum:
    """Sums a moment in place, from `[n d]` rows at a time.

    What is summed is `(x - m)(x - m)^T` and `x - m`, with `m` the mean of the first rows; `result` puts `m` back:
    `sum x x^T = sum (x - m)(x - m)^T + m s^T + s m^T + n m m^T` with `s = sum (x - m)`. The mean carries most of the
    energy of many inputs, and what is left has smaller products, so these may be made in float32.

    Args:
        like: an activation `[... d]` of the input, for its width, device and precision. Products are made in its
            precision at least.
        mean: `m`. None takes the mean of the first rows.

    Attributes:
        squares: the sum of `(x - m)(x - m)^T`. Only what lies on and below the diagonal is defined.
        sums: the sum of `x - m`.
        mean: `m`, once it is known.
        spoiled: the first batch of which a row was not finite, or `NEVER`. It stays on its device, so nobody waits.
    """

    def __init__(self, like: Float[Tensor, "... d"], mean: Float[Tensor, "d"] | None = None) -> None:
        d = like.shape[-1]
        self.squares = torch.zeros(d, d, dtype=moment_dtype(d, like.dtype), device=like.device)
        self.sums = torch.zeros(d, dtype=torch.float64, device=like.device)
        self._products = torch.promote_types(like.dtype, torch.float64 if d < EXACT_BELOW else torch.float32)
        self.mean: Tensor | None = None if mean is None else mean.to(self._products)
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
        mean = self.mean = _mean(X, self._products) if self.mean is None else self.mean
        with full_precision():
            for rows in X.split(ROWS):
                # Rows in half precision have exact products, and inexact differences from a mean.
                centred = rows if multiplies_exactly(rows) else rows.to(mean) - mean
                add_gram(self.squares, centred)
                self.sums += _column_sums(centred)
        self.spoiled = self.spoiled.where(self.sums.isfinite().all(), self.spoiled.clamp(max=batch))

    @property
    def moment_sum(self) -> MomentSum:
        """Itself: rows are multiplied when they come."""
        return self

    def merge(
        self, squares: Float[Tensor, "half"], sums: Float[Tensor, "d"], count: int, offered: int, batch: int
    ) -> None:
        """Add what others have summed around the same mean.

        Args:
            squares: the triangle of their `squares`.
            sums: their `sums`.
            count: how many rows they are.
            offered: how many positions count.
            batch: the number of the last batch that they come from.
        """
        self.squares += unpack_lower(squares).to(self.squares.device)
        self.sums += sums.to(self.sums.device)
        self._count += count
        self._offered += offered
        self.spoiled = self.spoiled.where(self.sums.isfinite().all(), self.spoiled.clamp(max=batch))

    def result(self) -> Moment:
        """The moment. The sum is used up."""
        mean = torch.zeros_like(self.sums) if self.mean is None else self.mean.double()
        left = torch.stack([self._count * mean + self.sums, mean])
        right = torch.stack([mean, self.sums])
        for start in range(0, len(mean), COLUMNS):
            stop = start + COLUMNS
            strip = self.squares[start:, start:stop]
            strip.copy_(strip.double() + left[:, start:].T @ right[:, start:stop])
        return Moment(mirror(self.squares), self.sums + self._count * mean, self._count, self._offered)

    def state(self) -> dict[str, Tensor]:
        """All that `restored` needs, in tensors. Only what lies on and below the diagonal is defined."""
        found = {"squares": pack(self.squares), "sums": self.sums, "counts": _counts(self), "like": _mark(self.like)}
        return found if self.mean is None else {**found, "mean": self.mean}

    @classmethod
    def of_state(cls, state: Mapping[str, Tensor]) -> MomentSum:
        """The sum whose state this is."""
        found = cls(state["like"][:0])
        found.squares, found.sums, found.mean = unpack_lower(state["squares"]), state["sums"], state.get("mean")
        found._count, found._offered = state["counts"].tolist()
        return found


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
            # Twice as many, but never more than take less memory than the moment.
            doubled = min(2 * len(self._rows), most_rows(X.shape[1], X.dtype))
            grown = self._rows.new_empty(max(self._count, doubled), X.shape[1])
            grown[:before] = self._rows[:before]
            self._rows = grown
        self._rows[before : self._count] = X
        self.spoiled = self.spoiled.where(X.isfinite().all(), self.spoiled.clamp(max=batch))

    @property
    def moment_sum(self) -> None:
        """Rows are not multiplied yet."""

    def result(self) -> MomentOfRows:
        """The moment."""
        rows = self._rows if self._count == len(self._rows) else self._rows[: self._count].clone()
        return MomentOfRows(rows, self._offered)

    def state(self) -> dict[str, Tensor]:
        """All that `restored` needs, in tensors."""
        return {"rows": self.rows, "counts": _counts(self), "like": _mark(self.like)}

    @classmethod
    def of_state(cls, state: Mapping[str, Tensor]) -> RowsKept:
        """The sum whose state this is."""
        found = cls(state["like"][:0], 0)
        found._rows = state["rows"]
        found._count, found._offered = state["counts"].tolist()
        return found


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

    @property
    def moment_sum(self) -> MomentSum | None:
        """What multiplies rows when they come, once there are so many."""
        return self._sum.moment_sum

    def result(self) -> AnyMoment:
        """The moment. The sum is used up."""
        return self._sum.result()

    def state(self) -> dict[str, Tensor]:
        """All that `restored` needs, in tensors."""
        return {**self._sum.state(), "grows": torch.ones(1)}

    @classmethod
    def of_state(cls, state: Mapping[str, Tensor]) -> GrowingSum:
        """The sum whose state this is."""
        found = cls(state["like"][:0])
        found._sum = _of_state(state)
        return found


AnySum: TypeAlias = MomentSum | RowsKept | GrowingSum
"""What adds up the moment of an input."""


def restored(state: Mapping[str, Tensor]) -> AnySum:
    """A sum that goes on where another one's `state` was taken."""
    return GrowingSum.of_state(state) if "grows" in state else _of_state(state)


def _of_state(state: Mapping[str, Tensor]) -> MomentSum | RowsKept:
    return RowsKept.of_state(state) if "rows" in state else MomentSum.of_state(state)


def _counts(total: MomentSum | RowsKept) -> Int[Tensor, "2"]:
    return torch.tensor([total._count, total._offered])


def _mark(like: Float[Tensor, "0 d"]) -> Float[Tensor, "1 d"]:
    """One row of zeros of the same width and precision: an empty tensor would not say its width in every file."""
    return like.new_zeros(1, like.shape[1])


def moment_sum(like: Float[Tensor, "... d"], n_rows: int | None, room: int | None = None) -> AnySum:
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
