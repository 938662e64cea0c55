"""How large is an engram? `|W+|_F` (W-Norm), and `|W+ S^1/2|_F` (Fisher), of a matrix and of each of its heads.

`|W S^1/2|_F = |W X|_F` with `S = X X^T` is the norm of what a matrix puts out on the data. It is the norm that the
Fisher information of a linear layer, `F = S (x) I`, gives to `W` (paper, Eq. 10). Unlike `|W|_F`, it stays as it is
when an input is rescaled, or mixed, and the weight is changed to match, as folding a LayerNorm does.
"""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from engram_interp.engrams.extract import Part
from engram_interp.linalg.fisher import squared_length
from engram_interp.models.sites import share


def output_norm(W: Float[Tensor, "*head out d"], S: Float[Tensor, "*#head d d"]) -> Float[Tensor, "*head"]:
    """`|W S^1/2|_F`, in float64.

    Example:
        >>> S = torch.diag(torch.tensor([4.0, 9.0]))
        >>> output_norm(torch.eye(2), S).item() == 13**0.5
        True
    """
    return squared_length(W, S).clamp(min=0).sqrt()


def frobenius_norms(part: Part, matrix: Float[Tensor, "out d"]) -> Float[Tensor, "unit"]:
    """`|W|_F` of a matrix without its bias, then of every head.

    Args:
        part: says where the matrix has its heads.
        matrix: `W`, `dW`, `W_plus` or the like.
    """
    W = part.weight(matrix)
    return torch.cat([W.norm()[None], *([heads_of(part, W).norm(dim=(-2, -1))] if part.n_heads else [])])


def output_norms(part: Part, matrix: Float[Tensor, "out d"]) -> Float[Tensor, "unit"]:
    """`|W S^1/2|_F` of a matrix with its bias, then of every head.

    The bias is part of the output, and folding a LayerNorm moves some of the weight into it. A head of `W_O` puts out
    what its own columns make of its own part of the input; the bias `b_O` is no head's.
    """
    whole = output_norm(matrix, part.data.S)[None]
    if not part.n_heads:
        return whole
    if part.site.component != "W_O":
        return torch.cat([whole, output_norm(heads_of(part, matrix), part.data.S)])
    return torch.cat([whole, output_norm(heads_of(part, part.weight(matrix)), head_moments(part))])


def heads_of(part: Part, matrix: Float[Tensor, "out d"]) -> Float[Tensor, "head rows columns"]:
    """The heads of a matrix: blocks of its columns in `W_O`, of its rows elsewhere."""
    if part.site.component == "W_O":
        return rearrange(matrix, "out (head d_head) -> head out d_head", head=part.n_heads)
    return rearrange(matrix, "(head d_head) d -> head d_head d", head=part.n_heads)


def head_moments(part: Part) -> Float[Tensor, "head d_head d_head"]:
    """The second moment of every head's own part of the input of `W_O`."""
    size = len(part.data.S) - part.data.absorbed
    blocks = part.data.S[:size, :size].unflatten(1, (part.n_heads, -1)).unflatten(0, (part.n_heads, -1))
    return blocks.diagonal(dim1=0, dim2=2).movedim(-1, 0)


def sizes_of(part: Part, target_share: float) -> dict[str, Float[Tensor, "unit"]]:
    """What a map holds of a matrix and its heads: sizes in either metric, and what they are compared with.

    Args:
        part: the matrix and its engram.
        target_share: `n/N`, the target's share of the positions that count. With `S+ = (n/N) S` the engram would be
            `(n/N) dW Pi`.
    """
    null = part.dW @ part.data.kept.Pi
    sizes: dict[str, Float[Tensor, "unit"]] = {}
    for metric, prefix, whole, norms in (
        ("wnorm", "", "weight_norm", frobenius_norms),
        ("fisher", "fisher_", "output_norm", output_norms),
    ):
        size, all_of_it, expected = norms(part, part.W_plus), norms(part, part.W), target_share * norms(part, null)
        sizes[whole] = all_of_it
        sizes[metric] = share(size, all_of_it)
        sizes[f"{prefix}expected"] = share(expected, all_of_it)
        sizes[f"{prefix}excess"] = share(size, expected)
    return {name: values.cpu() for name, values in sizes.items()}
