"""How large is a matrix? `|W|_F`, and `|W S^1/2|_F`, which is the norm of what it puts out; by head too.

`|W S^1/2|_F = |W X|_F` with `S = X X^T`. It is the norm that the Fisher information of a linear layer, `F = S (x) I`,
gives to `W` (paper, Eq. 10). `|W|_F` changes when an input is rescaled or mixed and the weight is changed to match, as
folding a LayerNorm does. `|W S^1/2|_F` stays the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from engram_interp.linalg.fisher import squared_length
from engram_interp.linalg.second_moment import SecondMoment


@dataclass(frozen=True)
class Heads:
    """Where the heads of a matrix lie.

    Attributes:
        n: how many heads there are.
        along: `rows` if a head is a block of rows (its outputs are its own), `columns` if it is a block of columns (its
            inputs are its own).
    """

    n: int
    along: str

    def of(self, matrix: Float[Tensor, "out d"]) -> Float[Tensor, "head rows columns"]:
        """The heads of a matrix, one after the other."""
        if self.along == "columns":
            return rearrange(matrix, "out (head d_head) -> head out d_head", head=self.n)
        return rearrange(matrix, "(head d_head) d -> head d_head d", head=self.n)

    def moments(self, S: Float[Tensor, "in in"]) -> Float[Tensor, "head d_head d_head"]:
        """The second moment of every head's own part of the input, where heads are blocks of columns."""
        blocks = S.unflatten(1, (self.n, -1)).unflatten(0, (self.n, -1))
        return blocks.diagonal(dim1=0, dim2=2).movedim(-1, 0)


def share(part: Float[Tensor, "..."], whole: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """`part / whole`; 0 where the whole is 0.

    Example:
        >>> share(torch.tensor([1.0, 0.0]), torch.tensor([4.0, 0.0])).tolist()
        [0.25, 0.0]
    """
    return (part / whole).where(whole > 0, 0.0)


def output_norm(
    W: Float[Tensor, "*head out d"], S: Float[Tensor, "*#head d d"] | SecondMoment
) -> Float[Tensor, "*head"]:
    """`|W S^1/2|_F`, in float64; of few rows it is `|W X^T|_F`.

    Example:
        >>> S = torch.diag(torch.tensor([4.0, 9.0]))
        >>> output_norm(torch.eye(2), S).item() == 13**0.5
        True
    """
    if not isinstance(S, SecondMoment):
        return squared_length(W, S).clamp(min=0).sqrt()
    if (X := S.few_rows()) is None:
        return output_norm(W, S.S)
    return (W.double() @ X.T).norm(dim=(-2, -1))


def frobenius_norms(W: Float[Tensor, "out in"], heads: Heads | None) -> Float[Tensor, "unit"]:
    """`|W|_F` of a matrix, then of each of its heads.

    Args:
        W: the weight without its bias.
        heads: where its heads lie; None for a matrix without heads.

    Example:
        >>> frobenius_norms(torch.diag(torch.tensor([3.0, 4.0])), Heads(2, "rows")).tolist()
        [5.0, 3.0, 4.0]
    """
    whole = W.norm()[None]
    return whole if heads is None else torch.cat([whole, heads.of(W).norm(dim=(-2, -1))])


def output_norms(
    W: Float[Tensor, "out d"], S: SecondMoment, heads: Heads | None, absorbed: bool
) -> Float[Tensor, "unit"]:
    """`|W S^1/2|_F` of a matrix, then of each of its heads.

    The bias is part of the output, and folding a LayerNorm moves some of the weight into it. A head that is a block of
    columns puts out what these columns make of its own part of the input, without the bias, which is no head's.

    Args:
        W: the matrix, with its bias as the last column if `absorbed`.
        S: the second moment of its input, with a row of ones if `absorbed`.
        heads: where its heads lie; None for a matrix without heads.
        absorbed: whether the last column is the bias.
    """
    if heads is not None and heads.along == "rows":
        by_head = output_norm(heads.of(W), S)
        return torch.cat([by_head.norm()[None], by_head])
    whole = output_norm(W, S)[None]
    if heads is None:
        return whole
    size = S.width - absorbed
    return torch.cat([whole, output_norm(heads.of(W[:, :size]), heads.moments(S.S[:size, :size]))])
