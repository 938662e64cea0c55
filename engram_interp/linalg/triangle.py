"""`S = S^T`, so `d (d + 1) / 2` numbers say it: the lower triangle, row by row."""

from __future__ import annotations

import math

from jaxtyping import Float
from torch import Tensor

from engram_interp.linalg.gram import mirror


def pack(S: Float[Tensor, "d d"]) -> Float[Tensor, "half"]:
    """The lower triangle of a matrix, row by row. What lies above the diagonal is not looked at.

    Example:
        >>> import torch
        >>> pack(torch.tensor([[1.0, 2.0], [2.0, 3.0]])).tolist()
        [1.0, 2.0, 3.0]
    """
    packed = S.new_empty(triangle_size(len(S)))
    for i, row in enumerate(S):
        start = triangle_size(i)
        packed[start : start + i + 1] = row[: i + 1]
    return packed


def unpack(packed: Float[Tensor, "half"]) -> Float[Tensor, "d d"]:
    """The symmetric matrix of which `pack` took the triangle.

    Raises:
        ValueError: if no triangle has so many numbers.

    Example:
        >>> import torch
        >>> unpack(torch.tensor([1.0, 2.0, 3.0])).tolist()
        [[1.0, 2.0], [2.0, 3.0]]
    """
    return mirror(unpack_lower(packed))


def unpack_lower(packed: Float[Tensor, "half"]) -> Float[Tensor, "d d"]:
    """`unpack` with zeros above the diagonal."""
    d = triangle_width(len(packed))
    S = packed.new_zeros(d, d)
    for i, row in enumerate(S):
        start = triangle_size(i)
        row[: i + 1] = packed[start : start + i + 1]
    return S


def triangle_size(d: int) -> int:
    """How many numbers the triangle of a matrix of width `d` has."""
    return d * (d + 1) // 2


def triangle_width(n: int) -> int:
    """The width of the matrix whose triangle has `n` numbers.

    Raises:
        ValueError: if there is none.
    """
    d = (math.isqrt(8 * n + 1) - 1) // 2
    if triangle_size(d) != n:
        raise ValueError(f"a triangle has 1, 3, 6, ... numbers; got {n}")
    return d
