"""`S = X^T X`: a second moment, known by itself or by the rows `X` that it is made of.

Products with few rows cost less than products with `S`: `W S = (W X^T) X`.
"""

from __future__ import annotations

from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from engram_interp.linalg.gram import gram

FEW_ROWS = 0.5
"""Up to this share of the width, two products with the rows take less work than one with `S`."""


class SecondMoment:
    """A second moment of inputs of size `d`.

    Args:
        S: symmetric and positive semi-definite. None makes it of the rows, when it is asked for.
        rows: `X`, in float64. None if only `S` is known.

    Example:
        >>> SecondMoment(rows=torch.tensor([[1.0, 2.0]]).double()).S.tolist()
        [[1.0, 2.0], [2.0, 4.0]]
    """

    def __init__(self, S: Float[Tensor, "d d"] | None = None, rows: Float[Tensor, "n d"] | None = None) -> None:
        if S is None and rows is None:
            raise TypeError("a second moment needs S or rows")
        self._S, self.rows = S, rows

    @cached_property
    def S(self) -> Float[Tensor, "d d"]:
        """The matrix."""
        if self._S is not None:
            return self._S
        assert self.rows is not None
        return gram(self.rows)

    @property
    def width(self) -> int:
        """`d`."""
        return (self.S if self.rows is None else self.rows).shape[1]

    @property
    def device(self) -> torch.device:
        """Where it is held."""
        return (self.S if self.rows is None else self.rows).device

    def to(self, device: torch.device | str) -> SecondMoment:
        """The same on another device."""
        S, rows = (None if one is None else one.to(device) for one in (self._S, self.rows))
        return SecondMoment(S, rows)

    def __add__(self, other: SecondMoment) -> SecondMoment:
        """The moment of both, on the device of the first."""
        other = other.to(self.device)
        if self.rows is None or other.rows is None:
            return SecondMoment(self.S + other.S)
        return SecondMoment(rows=torch.cat([self.rows, other.rows]))

    def few_rows(self, share: float = FEW_ROWS) -> Float[Tensor, "n d"] | None:
        """The rows, if they are known and at most this share of `d`; otherwise None.

        By default that is where products with the rows take less work than products with `S`.
        """
        return self.rows if self.rows is not None and len(self.rows) <= share * self.width else None
