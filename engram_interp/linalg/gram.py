"""`X^T X` at little more than half the price of a product: it is symmetric, so only strips below the diagonal are made.

Four strips do 5/8 of a whole product's work, eight do 9/16, but thin strips multiply slower. Rows come 1024 at a time,
which stay in the cache. Against one whole product of 1024 rows of float32 on two cores, four and eight strips took 0.69
and 0.67 of the time at width 512, 0.68 and 0.75 at 576, 0.70 and 0.71 at 1024, 0.58 and 0.52 at 1408, 0.67 and 0.63 at
1536. Strips above the diagonal, halves of halves and LAPACK's `syrk` took more.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

ROWS = 1024
WIDE = 1024
"""From this width on there are eight strips instead of four."""


def add_gram(total: Float[Tensor, "d d"], X: Float[Tensor, "n d"]) -> None:
    """Add the lower triangle of `X^T X` to a matrix, in place. What lies above the diagonal is not defined.

    Products have the precision of `X`, but at least float32, and are added in that of the matrix.

    Args:
        total: what is added to.
        X: rows, at most `ROWS` of them if they should stay in the cache.
    """
    exactly = multiplies_exactly(X)
    X = X if exactly else X.to(torch.promote_types(X.dtype, torch.float32))
    for start, stop in strips(len(total)):
        strip, left, right = total[start:, start:stop], X[:, start:].T, X[:, start:stop]
        if exactly:
            strip += torch.mm(left, right, out_dtype=torch.float32)
        elif total.dtype == X.dtype:
            strip.addmm_(left, right)
        else:
            strip += left @ right


def multiplies_exactly(X: Float[Tensor, "n d"]) -> bool:
    """Whether rows in half precision are multiplied as they are and summed in float32, as tensor cores do."""
    return X.is_cuda and X.dtype in (torch.bfloat16, torch.float16) and torch.__version__ >= "2.8"


def mirror(total: Float[Tensor, "d d"]) -> Float[Tensor, "d d"]:
    """The matrix with what lies below the diagonal copied above it, in place."""
    for start, stop in strips(len(total)):
        own = total[start:stop, start:stop]
        own.copy_(own.tril() + own.tril(-1).T)
        total[start:stop, stop:] = total[stop:, start:stop].T
    return total


def gram(X: Float[Tensor, "n d"]) -> Float[Tensor, "d d"]:
    """`X^T X` in float64.

    Example:
        >>> gram(torch.tensor([[1.0, 2.0], [0.0, 3.0]])).tolist()
        [[1.0, 2.0], [2.0, 13.0]]
    """
    total = torch.zeros(X.shape[1], X.shape[1], dtype=torch.float64, device=X.device)
    for rows in X.split(ROWS):
        add_gram(total, rows.double())
    return mirror(total)


def compact(W: Float[Tensor, "out d"]) -> Float[Tensor, "rows d"]:
    """`R` with `R^T R = W^T W` and no more rows than columns, in float64: `|R A|_F = |W A|_F` for every `A`.

    Example:
        >>> R = compact(torch.tensor([[3.0, 0.0], [4.0, 0.0], [0.0, 2.0]]))
        >>> R.tolist()
        [[5.0, 0.0], [0.0, 2.0]]
    """
    if len(W) <= W.shape[1]:
        return W.double()
    L, failed = torch.linalg.cholesky_ex(squares := gram(W))
    if not failed.item():
        return L.T
    lam, U = torch.linalg.eigh(squares)
    return (U * lam.clamp(min=0).sqrt()).T


def strips(d: int) -> list[tuple[int, int]]:
    """Where the strips of a matrix of width `d` begin and end."""
    n = 4 if d < WIDE else 8
    ends = [d * i // n for i in range(n + 1)]
    return [(start, stop) for start, stop in pairwise(ends) if start < stop]
