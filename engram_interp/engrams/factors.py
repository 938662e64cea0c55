"""What is kept of a concept's input: its rows, or their second moment, whichever is fewer numbers.

`S_i = X^T X` follows from the rows. The moment is symmetric, so its lower triangle is enough.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from engram_interp.linalg.triangle import pack, triangle_size, unpack
from engram_interp.statistics.moments import AnyMoment, Moment, MomentOfRows, moment_dtype, with_ones
from engram_interp.statistics.sums import MomentSum, moment_of


@dataclass(frozen=True)
class Factor:
    """A concept's inputs, `[n d]`: `S_i = X^T X`.

    Attributes:
        X: the rows.
        absorbed: whether the input has a row of ones.
    """

    X: Float[Tensor, "n d"]
    absorbed: bool

    @property
    def matrix(self) -> Float[Tensor, "D D"]:
        """`S_i`, with a row of ones if a bias is absorbed."""
        return moment_of(precise(self.X)).matrix(self.absorbed)

    @property
    def resolution(self) -> float:
        """The relative rounding of `matrix`."""
        return torch.finfo(moment_dtype(self.X.shape[1], self.X.dtype)).eps

    @property
    def root(self) -> Float[Tensor, "n D"]:
        """Rows whose second moment is `S_i`, in float64: the inputs themselves."""
        return with_ones(self.X, self.absorbed)

    @property
    def n_rows(self) -> int:
        """How many positions there are."""
        return len(self.X)

    @property
    def n_floats(self) -> int:
        """How many numbers are kept."""
        return self.X.numel()


@dataclass(frozen=True)
class Packed:
    """The lower triangle of `S_i`, row by row.

    Attributes:
        triangle: its entries.
        n_rows: how many positions there are.
    """

    triangle: Float[Tensor, "half"]
    n_rows: int

    @classmethod
    def of(cls, moment: Moment, absorbed: bool) -> Packed:
        """The triangle of a moment, in its own precision, with a row of ones if a bias is absorbed."""
        return cls(pack(moment.matrix(absorbed)).to(moment.second.dtype), moment.count)

    @property
    def matrix(self) -> Float[Tensor, "D D"]:
        """`S_i`."""
        return unpack(self.triangle.double())

    @property
    def resolution(self) -> float:
        """The relative rounding of `matrix`."""
        return torch.finfo(self.triangle.dtype).eps

    @property
    def root(self) -> Float[Tensor, "D D"]:
        """Rows whose second moment is `S_i`, in float64: its eigenvectors times the roots of their eigenvalues."""
        lam, U = torch.linalg.eigh(self.matrix)
        return (U * lam.clamp(min=0).sqrt()).T

    @property
    def n_floats(self) -> int:
        """How many numbers are kept."""
        return self.triangle.numel()


class FactorsOf(Mapping[str, Factor | Packed]):
    """What statistics hold of a group, by input, as it is kept of a concept. Each is made when it is asked for.

    Args:
        moments: of the group, by input.
        absorbing: the inputs that have a row of ones.
    """

    def __init__(self, moments: Mapping[str, AnyMoment], absorbing: Collection[str]) -> None:
        self._moments, self._absorbing = moments, absorbing

    def __getitem__(self, name: str) -> Factor | Packed:
        moment, absorbed = self._moments[name], name in self._absorbing
        if isinstance(moment, MomentOfRows) and moment.times == 1:
            return Factor(moment.X, absorbed)
        return Packed.of(moment if isinstance(moment, Moment) else moment.whole, absorbed)

    def __iter__(self) -> Iterator[str]:
        return iter(self._moments)

    def __len__(self) -> int:
        return len(self._moments)


def precise(X: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Rows in the precision in which their moment is held, so that a complement can tell nothing from very little."""
    return X.to(moment_dtype(X.shape[1], X.dtype))


class ConceptSum:
    """Sums one input of one concept: it keeps rows until their moment is fewer numbers.

    Args:
        absorbed: whether the input has a row of ones.
    """

    def __init__(self, absorbed: bool) -> None:
        self._absorbed = absorbed
        self._waiting: list[Tensor] = []
        self._moments: MomentSum | None = None

    def add(self, rows: Float[Tensor, "n d"]) -> None:
        """Add rows."""
        self._waiting.append(rows)
        size = rows.shape[1] + self._absorbed
        if sum(len(waiting) for waiting in self._waiting) * rows.shape[1] > triangle_size(size):
            self._moments = self._moments or MomentSum(precise(rows[:0]))
            self._moments.add(rows if len(self._waiting) == 1 else torch.cat(self._waiting))
            self._waiting = []

    def result(self, none: Float[Tensor, "0 d"]) -> Factor | Packed:
        """The rows or the moment, whichever is smaller; `none` has no rows, for an input that nothing reached."""
        rows, self._waiting = torch.cat([none, *self._waiting]), []
        if self._moments is None:
            return Factor(rows, self._absorbed)
        self._moments.add(rows)
        return Packed.of(self._moments.result(), self._absorbed)
