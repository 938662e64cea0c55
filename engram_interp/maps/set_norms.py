"""How large is the engram of any set of examples? Its norms follow from the rows of the inputs, matrix by matrix.

The engram of a set `r` is `dW X_r^T X_r S^pinv`. With `Y_r = X_r dW^T`, `O_r = X_r S^pinv` and `Z_r = X_r S^(-1/2)`,
`|W_r+|_F^2 = |Y_r^T O_r|_F^2 = sum_c y_c^T (O_r O_r^T) y_c` over the columns of `Y_r`, and `|W_r+ S^1/2|_F` has `Z_r`
in the place of `O_r`. Rows are projected once, and `O_r O_r^T` and `Z_r Z_r^T` are made once for all matrices that read
the input. Where a set has many rows, its moments `X_r^T Z_r` are smaller, and `W_r+ S^1/2 = dW X_r^T Z_r`.

A filter `g` puts `h(Z_r Z_r^T)` between the two, with `h(x) = g(x) / x`; and `h(Z_r Z_r^T) Z_r = Z_r h(Z_r^T Z_r)`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from engram_interp.engrams.parts import InputData, Part
from engram_interp.engrams.weights import without_bias
from engram_interp.linalg.filters import Function
from engram_interp.linalg.gram import compact
from engram_interp.linalg.norms import share
from engram_interp.linalg.ownership import slopes
from engram_interp.maps.quantities import FISHER, METRICS, WNORM, Norms
from engram_interp.statistics.moments import with_ones
from engram_interp.statistics.rows import Rows

CHUNK = 2**24
"""Numbers that are made at a time."""


def set_norms(parts: Sequence[Part], rows: Rows, index: Int[Tensor, "set m"]) -> list[Norms]:
    """Norms of the engrams of all sets, `[set unit]`, of each matrix and then of its heads, by metric.

    Args:
        parts: matrices that read one input.
        rows: of this input.
        index: the rows of every set, padded with `len(rows.X)`.
    """
    read = _Read(parts[0].data, rows.X)
    matrices = [_Matrix(part, read) for part in parts]
    m, d, outs = index.shape[1], read.data.width, [len(one.dW) for one in matrices]
    by_rows = few_rows(m, d, sum(outs))
    size = 3 * m * m + m * (3 * d + 2 * max(outs)) if by_rows else 2 * m * d + d * d + 4 * d * max(outs)
    norms = _by_rows if by_rows else _by_moments
    chunks = [norms(read, matrices, some) for some in index.to(read.X.device).split(max(1, CHUNK // size))]
    by_matrix = zip(*chunks, strict=True)
    return [
        {metric: torch.cat([one[metric] for one in found]).double().cpu() for metric in METRICS} for found in by_matrix
    ]


def few_rows(m: int, d: int, outs: int) -> bool:
    """Whether products of `m` rows with each other take less work than moments of size `d`, for so many outputs."""
    return 2 * m * m * (d + outs) <= d * d * (m + 2 * outs)


class _Read:
    """The rows of an input, and one of zeros, in the forms of which norms are made.

    Args:
        data: what is known of the input.
        X: its rows.
    """

    def __init__(self, data: InputData, X: Float[Tensor, "n d"]) -> None:
        self.data, self.filter = data, None if data.is_soft else data.solve.filter
        self.present = data.present.sqrt().float() if data.solve.ridge else None
        self.root = data.solution.whiten(torch.eye(data.width)).float()
        self.X = nn.functional.pad(with_ones(X, data.absorbed).float(), (0, 0, 0, 1))
        self.Z = self.X @ self.root
        self.owned = without_bias(self.Z @ self.root.T, data.absorbed)

    def seen(self, A: Float[Tensor, "*set n k"]) -> Float[Tensor, "*set n k"]:
        """`A S'^1/2` of something whitened, where a ridge makes `S + ridge I` of `S'`."""
        return A if self.present is None else A * self.present


class _Matrix:
    """A matrix, and what it makes of the rows of its input.

    Args:
        part: the matrix.
        read: the rows.
    """

    def __init__(self, part: Part, read: _Read) -> None:
        self.dW = (compact(part.dW) if part.heads is None else part.dW).float()
        self.Y = read.X @ self.dW.T
        self.n_heads = 0 if part.heads is None else part.heads.n
        self.roots = _roots(part) if part.heads is not None and part.heads.along == "columns" else None
        self.weighed = None if self.roots is None else _times(read.owned, self.roots)


def _roots(part: Part) -> Float[Tensor, "head x x"]:
    """A square root of the second moment of every head's own part of the input."""
    assert part.heads is not None
    size = part.data.width - part.data.absorbed
    lam, V = torch.linalg.eigh(part.heads.moments(part.data.S[:size, :size]))
    return (V * lam.clamp(min=0).sqrt()[:, None]).float()


def _by_rows(read: _Read, matrices: list[_Matrix], index: Int[Tensor, "set m"]) -> list[Norms]:
    """Norms by products of rows with rows."""
    Z, mine = _taken(read.Z, index), _taken(read.owned, index)
    between = None if read.filter is None else _between(Z, read.filter)
    Z, mine = (one if between is None else between @ one for one in (read.seen(Z), mine))
    seen, owned = Z @ Z.mT, mine @ mine.mT
    found = []
    for one in matrices:
        Y = _taken(one.Y, index)
        if one.weighed is None:
            norms = {WNORM: _norms(_energies(Y, owned), one.n_heads), FISHER: _norms(_energies(Y, seen), one.n_heads)}
        else:
            weighed = _taken(one.weighed, index)
            norms = _by_columns(
                _energies(mine, made := Y @ Y.mT),
                _energies(weighed if between is None else between @ weighed, made),
                (made * seen).sum((-2, -1)),
                one.n_heads,
            )
        found.append(norms)
    return found


def _by_moments(read: _Read, matrices: list[_Matrix], index: Int[Tensor, "set m"]) -> list[Norms]:
    """Norms by the moments of every set, `[set d k]`."""
    Z = _taken(read.Z, index)
    moments = _taken(read.X, index).mT @ Z
    if read.filter is not None:
        x, V = torch.linalg.eigh((Z.mT @ Z).double())
        moments = moments @ ((V * _slopes_of(read.filter, x)[:, None]) @ V.mT).float()
    found = []
    for one in matrices:
        whitened = one.dW @ moments
        engram = without_bias(whitened @ read.root.T, read.data.absorbed)
        seen = read.seen(whitened).square().sum(-1)
        if one.roots is None:
            norms = {WNORM: _norms(engram.square().sum(-1), one.n_heads), FISHER: _norms(seen, one.n_heads)}
        else:
            weighed = _times(engram, one.roots).square().sum(1)
            norms = _by_columns(engram.square().sum(1), weighed, seen.sum(-1), one.n_heads)
        found.append(norms)
    return found


def _taken(rows: Float[Tensor, "n d"], index: Int[Tensor, "set m"]) -> Float[Tensor, "set m d"]:
    """The rows of every set."""
    return rows.index_select(0, index.flatten()).unflatten(0, index.shape)


def _times(A: Float[Tensor, "*set n d"], roots: Float[Tensor, "head x x"]) -> Float[Tensor, "*set n d"]:
    """Every head's columns times its root."""
    return (A.flatten(0, -2).unflatten(-1, (len(roots), -1)).transpose(0, 1) @ roots).transpose(0, 1).reshape(A.shape)


def _energies(A: Float[Tensor, "set m d"], G: Float[Tensor, "set m m"]) -> Float[Tensor, "set d"]:
    """`a^T G a` of every column of `A`."""
    return (G @ A * A).sum(1)


def _norms(energies: Float[Tensor, "set out"], n_heads: int) -> Float[Tensor, "set unit"]:
    """Norms of a matrix and then of its heads, which are blocks of outputs."""
    by_head = energies.clamp(min=0).unflatten(1, (max(n_heads, 1), -1)).sum(-1)
    whole = by_head.sum(1, keepdim=True)
    return (torch.cat([whole, by_head], dim=1) if n_heads else whole).sqrt()


def _by_columns(
    owned: Float[Tensor, "set in"], weighed: Float[Tensor, "set in"], seen: Float[Tensor, "set"], n_heads: int
) -> Norms:
    """Norms of a matrix whose heads are blocks of inputs; of the whole, what it puts out is not the sum of theirs."""
    fisher = _norms(weighed, n_heads)
    fisher[:, 0] = seen.clamp(min=0).sqrt()
    return {WNORM: _norms(owned, n_heads), FISHER: fisher}


def _between(Z: Float[Tensor, "set m k"], g: Function) -> Float[Tensor, "set m m"]:
    """`h(Z Z^T)` of every set, with `h(x) = g(x) / x`.

    It is `h(0) I + Z b(Z^T Z) Z^T` with `b(x) = (h(x) - h(0)) / x`; the smaller of the two products is factorised. A
    set in which examples repeat owns more than there is of some directions; its shares are cut at 1.
    """
    Z = Z.double()
    if Z.shape[1] <= Z.shape[2]:
        x, V = torch.linalg.eigh(Z @ Z.mT)
        return ((V * _slopes_of(g, x)[:, None]) @ V.mT).float()
    x, V = torch.linalg.eigh(Z.mT @ Z)
    at_zero = slopes(g, x.new_zeros(1))
    b = share(_slopes_of(g, x) - at_zero, _shares_of(x))
    ZV = Z @ V
    return (at_zero * torch.eye(Z.shape[1]).to(Z) + (ZV * b[:, None]) @ ZV.mT).float()


def _slopes_of(g: Function, x: Float[Tensor, "set k"]) -> Float[Tensor, "set k"]:
    """`h(x)` of the eigenvalues of sets."""
    return slopes(g, _shares_of(x).flatten()).view_as(x)


def _shares_of(x: Float[Tensor, "set k"]) -> Float[Tensor, "set k"]:
    """Eigenvalues of sets as shares in [0, 1]. Rows are float32, and what their rounding makes of 0 is 0."""
    rounding = x.shape[1] * torch.finfo(torch.float32).eps * x[:, -1:].clamp(min=0)
    return x.where(x > rounding, 0.0).clamp(max=1)
