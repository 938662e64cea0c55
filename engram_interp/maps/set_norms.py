"""How large is the engram of any set of examples? Its norms follow from the rows of the inputs, matrix by matrix.

The engram of a set `r` is `dW X_r^T X_r S^pinv`. With `Y_r = X_r dW^T`, `O_r = X_r S^pinv` and `Z_r = X_r S^(-1/2)`,
`|W_r+|_F^2 = |Y_r^T O_r|_F^2 = sum_c y_c^T (O_r O_r^T) y_c` over the columns of `Y_r`, and `|W_r+ S^1/2|_F` has `Z_r`
in the place of `O_r`. Rows are projected once, and `O_r O_r^T` and `Z_r Z_r^T` are made once for all matrices that read
the input. Where a set has many rows, its moments `X_r^T Z_r` are smaller, and `W_r+ S^1/2 = dW X_r^T Z_r`.

With `S = U lam U^T` and `Z_r = X_r U lam^(-1/2)`, `M_r = Z_r^T Z_r` is the soft projector in its symmetric form, and
`|W U M_r|_F^2` is the sum of `v^T (Z_r Z_r^T) v` over the columns `v` of `Z_r (W U)^T`.

A filter `g` puts `h(Z_r Z_r^T)` between the two, with `h(x) = g(x) / x`; and `h(Z_r Z_r^T) Z_r = Z_r h(Z_r^T Z_r)`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

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


@dataclass(frozen=True)
class SetNorms:
    """Norms of what all sets own of one input, and of the matrices that read it.

    Attributes:
        engrams: for each matrix, the norms of its engrams and of its heads', by metric.
        passed: for each matrix, `|W U M_r|_F` of the matrix and of its heads.
        whole: for each matrix, `|W U|_F`, what it would pass of `M_r = I`.
        M: `|M_r|_F`.
        P_plus: `|P_r|_F`, of the oblique projector `P_r = S_r S^pinv`.
    """

    engrams: list[Norms]
    passed: list[Float[Tensor, "set _"]]
    whole: list[Float[Tensor, "_"]]
    M: Float[Tensor, "set"]
    P_plus: Float[Tensor, "set"]


def set_norms(parts: Sequence[Part], rows: Rows, index: Int[Tensor, "set m"]) -> SetNorms:
    """Norms of all sets' engrams and projectors.

    Args:
        parts: matrices that read one input.
        rows: of this input.
        index: the rows of every set, padded with `len(rows.X)`.
    """
    data = parts[0].data
    read = _Read(data, rows.X, data.absorbed or any(_has_columns(part) for part in parts))
    matrices = [_Matrix(part, read) for part in parts]
    d, outs = data.width, [len(one.dW) for one in matrices]
    lengths = (index < len(rows.X)).sum(1)
    # Sets of like length stand together, so that short ones are not padded to the longest.
    order, chunks, done = lengths.argsort(descending=True), [], 0
    while done < len(order):
        m = max(1, int(lengths[order[done]]))
        by_rows = few_rows(m, d, sum(outs))
        size = 3 * m * m + m * (3 * d + 2 * max(outs)) if by_rows else 2 * m * d + d * d + 4 * d * max(outs)
        some = order[done : done + max(1, CHUNK // size)]
        norms = _by_rows if by_rows else _by_moments
        chunks.append(norms(read, matrices, index[some, :m].to(read.X.device)))
        done += len(some)
    return _joined(chunks, order.argsort())


def _joined(chunks: Sequence[SetNorms], places: Int[Tensor, "set"]) -> SetNorms:
    """The numbers of all sets, in float64 on the CPU; `places` says where each set's are among those of the chunks."""

    def joined(tensors: Iterable[Tensor]) -> Tensor:
        return torch.cat([*tensors]).double().cpu()[places]

    matrices = range(len(chunks[0].engrams))
    return SetNorms(
        [{metric: joined(one.engrams[i][metric] for one in chunks) for metric in METRICS} for i in matrices],
        [joined(one.passed[i] for one in chunks) for i in matrices],
        [one.double().cpu() for one in chunks[0].whole],
        joined(one.M for one in chunks),
        joined(one.P_plus for one in chunks),
    )


def few_rows(m: int, d: int, outs: int) -> bool:
    """Whether products of `m` rows with each other take less work than moments of size `d`, for so many outputs."""
    return 2 * m * m * (d + outs) <= d * d * (m + 2 * outs)


class _Read:
    """The rows of an input, and one of zeros, in the forms of which norms are made.

    Args:
        data: what is known of the input.
        X: its rows.
        by_dimension: whether a bias is left out of what is owned, or heads are blocks of the input's dimensions.
    """

    def __init__(self, data: InputData, X: Float[Tensor, "n d"], by_dimension: bool) -> None:
        self.data, self.filter = data, None if data.is_soft else data.solve.filter
        self.present = data.present.sqrt().float() if data.solve.ridge else None
        kept = data.kept
        self.U, self.root = kept.U.float(), (kept.U / kept.lam.sqrt()).float()
        self.X = nn.functional.pad(with_ones(X, data.absorbed).float(), (0, 0, 0, 1))
        self.Z = self.X @ self.root
        # `X S^pinv` by the input's own dimensions where a bias or heads need them, and else by the directions kept.
        self.owned = (
            without_bias(self.Z @ self.root.T, data.absorbed) if by_dimension else self.Z / kept.lam.sqrt().float()
        )

    def seen(self, A: Float[Tensor, "*set n k"]) -> Float[Tensor, "*set n k"]:
        """`A S'^1/2` of something whitened, where a ridge makes `S + ridge I` of `S'`."""
        return A if self.present is None else A * self.present


class _Outputs:
    """Rows `v` with which a matrix, or a head, weighs whitened inputs: its outputs, or as many that have their size.

    Args:
        rows: `[p k]`.
        read: what they weigh.
    """

    def __init__(self, rows: Float[Tensor, "p k"], read: _Read) -> None:
        self.rows, self._read = rows, read

    @cached_property
    def of_rows(self) -> Float[Tensor, "n p"]:
        """What they make of every row of the input."""
        return self._read.Z @ self.rows.T


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
        self.outputs, self.of_heads, self.roots = _Outputs(self.dW @ read.U, read), None, None
        if _has_columns(part):
            own = without_bias(read.U.T, part.data.absorbed).T
            self.of_heads, self.roots = _Outputs(_own_columns(part).float() @ own, read), _roots(part)
        self.weighed = None if self.roots is None else _times(read.owned, self.roots)

    @property
    def whole(self) -> Float[Tensor, "unit"]:
        """`|dW U|_F` of the matrix and its heads."""
        return self.passed(lambda V: V.rows.square().sum(1)[None])[0]

    def passed(self, energies: Callable[[_Outputs], Tensor]) -> Float[Tensor, "set unit"]:
        """`|dW U M|_F` of the matrix and its heads, from what makes `|v^T M|^2` of every row `v`."""
        if self.of_heads is None:
            return _norms(energies(self.outputs), self.n_heads)
        found = _norms(energies(self.of_heads), self.n_heads)
        found[:, 0] = energies(self.outputs).sum(1).clamp(min=0).sqrt()
        return found


def _has_columns(part: Part) -> bool:
    """Whether heads are blocks of columns."""
    return part.heads is not None and part.heads.along == "columns"


def _roots(part: Part) -> Float[Tensor, "head x x"]:
    """A square root of the second moment of every head's own part of the input."""
    assert part.heads is not None
    size = part.data.width - part.data.absorbed
    return _root(part.heads.moments(part.data.S[:size, :size])).float()


def _root(S: Float[Tensor, "head x x"]) -> Float[Tensor, "head x x"]:
    """`R` with `R R^T = S`."""
    lam, V = torch.linalg.eigh(S)
    return V * lam.clamp(min=0).sqrt()[..., None, :]


def _own_columns(part: Part) -> Float[Tensor, "in in"]:
    """A block for each head, of which the rows `r` have `R^T R = W_h^T W_h`, with `W_h` the head's columns."""
    assert part.heads is not None
    by_head = part.heads.of(part.weight(part.dW))
    return torch.block_diag(*_root(by_head.mT @ by_head).mT)


def _by_rows(read: _Read, matrices: list[_Matrix], index: Int[Tensor, "set m"]) -> SetNorms:
    """Norms by products of rows with rows."""
    plain, mine = _taken(read.Z, index), _taken(read.owned, index)
    between = None if read.filter is None else _between(plain, read.filter)
    Z, seen_Z, mine = (one if between is None else between @ one for one in (plain, read.seen(plain), mine))
    symmetric, seen, owned = Z @ Z.mT, seen_Z @ seen_Z.mT, mine @ mine.mT
    found, passed = [], []
    for one in matrices:
        passed.append(one.passed(lambda V: _energies(_taken(V.of_rows, index), symmetric)))
        Y = _taken(one.Y, index)
        if not one.n_heads:
            made = Y @ Y.mT
            norms = {WNORM: _total(made * owned)[:, None], FISHER: _total(made * seen)[:, None]}
        elif one.weighed is None:
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
    M = _total((plain @ plain.mT if between is not None else symmetric) * symmetric)
    P_plus = _total(_energies(_taken(read.X, index), owned))
    return SetNorms(found, passed, [one.whole for one in matrices], M, P_plus)


def _by_moments(read: _Read, matrices: list[_Matrix], index: Int[Tensor, "set m"]) -> SetNorms:
    """Norms by the moments of every set, `[set d k]`."""
    Z = _taken(read.Z, index)
    moments, M = _taken(read.X, index).mT @ Z, Z.mT @ Z
    if read.filter is not None:
        x, V = torch.linalg.eigh(M.double())
        between = ((V * _slopes_of(read.filter, x)[:, None]) @ V.mT).float()
        moments, M = moments @ between, M @ between
    found, passed = [], []
    for one in matrices:
        passed.append(one.passed(lambda V: (V.rows @ M).square().sum(-1)))
        whitened = one.dW @ moments
        engram = without_bias(whitened @ read.root.T, read.data.absorbed)
        seen = read.seen(whitened).square().sum(-1)
        if one.roots is None:
            norms = {WNORM: _norms(engram.square().sum(-1), one.n_heads), FISHER: _norms(seen, one.n_heads)}
        else:
            weighed = _times(engram, one.roots).square().sum(1)
            norms = _by_columns(engram.square().sum(1), weighed, seen.sum(-1), one.n_heads)
        found.append(norms)
    P_plus = without_bias(moments @ read.root.T, read.data.absorbed)
    whole = [one.whole for one in matrices]
    return SetNorms(found, passed, whole, _total(M.square()), _total(P_plus.square()))


def _total(squares: Float[Tensor, "set ..."]) -> Float[Tensor, "set"]:
    """The root of the sum of each set's squares."""
    return squares.flatten(1).sum(1).clamp(min=0).sqrt()


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
