"""What does a file hold of a moment, and is it one?

A checksum can be made for any content, so whatever is read is checked: a sum of `x x^T` is finite, symmetric and
positive, and no entry exceeds what its diagonal allows.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from engram_interp.common.storage import Content
from engram_interp.statistics.moments import AnyMoment, CompressedMoment, Moment, MomentOfRows


def tensors_of(moment: AnyMoment) -> dict[str, Tensor]:
    """What a file holds of a moment."""
    count = torch.tensor([moment.count, moment.offered])
    if isinstance(moment, MomentOfRows) and moment.times == 1:
        return {"rows": moment.X, "count": count}
    if isinstance(moment, CompressedMoment):
        floor = torch.tensor(moment.floor, dtype=torch.float64)
        return {"U": moment.U, "lam": moment.lam, "floor": floor, "first": moment.first, "count": count}
    return {"second": moment.second, "first": moment.first, "count": count}


def moment_in(content: Content, place: str) -> AnyMoment:
    """The moment of a group and input in a file.

    Raises:
        ValueError: if the tensors are not a sum of `x x^T`: if a shape or dtype is wrong, or the matrix is not finite,
            symmetric and positive, or the counts do not fit; or if rows are not finite, or not as many as is said.
    """
    if f"{place}/rows" in content.tensors:
        return rows_in(content, place)
    if f"{place}/U" in content.tensors:
        return _compressed_in(content, place)
    second, first, count = (content.tensor(f"{place}/{part}") for part in ("second", "first", "count"))
    d = len(second) if second.dim() == 2 else 0
    wide = (torch.float32, torch.float64)
    if not d or tuple(second.shape) != (d, d) or tuple(first.shape) != (d,) or tuple(count.shape) != (2,):
        shapes = [list(one.shape) for one in (second, first, count)]
        raise content.error(f"{place} has shapes {shapes}, not [d, d], [d] and [2]")
    if second.dtype not in wide or first.dtype not in wide or count.dtype != torch.int64:
        raise content.error(f"{place} is {second.dtype}, {first.dtype} and {count.dtype}, not floats and int64")
    taken, offered = count.tolist()
    if taken < 0 or offered < 1:
        raise content.error(f"{place} counts {taken} rows of {offered} positions")
    if why := _no_moment(second, first, taken):
        raise content.error(f"{place} {why}")
    return Moment(second, first, taken, offered)


def rows_in(content: Content, place: str) -> MomentOfRows:
    """The moment of a group and input that a file holds as rows.

    Raises:
        ValueError: if the tensors are not finite rows, as many as is said.
    """
    X, count = (content.tensor(f"{place}/{part}") for part in ("rows", "count"))
    if X.dim() != 2 or not X.shape[1] or tuple(count.shape) != (2,):
        raise content.error(f"{place} has shapes {list(X.shape)} and {list(count.shape)}, not [n, d] and [2]")
    if not X.dtype.is_floating_point or count.dtype != torch.int64:
        raise content.error(f"{place} is {X.dtype} and {count.dtype}, not floats and int64")
    taken, offered = count.tolist()
    if offered < 1 or taken != len(X):
        raise content.error(f"{place} counts {taken} of {offered} positions, and has {len(X)} rows")
    if not X.isfinite().all():
        raise content.error(f"{place} is not finite")
    return MomentOfRows(X, offered)


def _compressed_in(content: Content, place: str) -> CompressedMoment:
    parts = [content.tensor(f"{place}/{part}") for part in ("U", "lam", "floor", "first", "count")]
    U, lam, floor, first, count = parts
    if U.dim() != 2 or lam.shape != U.shape[1:] or first.shape != U.shape[:1] or floor.dim() or count.shape != (2,):
        raise content.error(f"{place} has shapes {[list(one.shape) for one in parts]}, not [d k], [k], [], [d] and [2]")
    if not all(one.isfinite().all() for one in parts) or bool((lam < 0).any()) or bool(floor < 0):
        raise content.error(f"{place} has eigenvalues that are negative or not finite")
    if U.numel() and float((U.double().T @ U.double() - torch.eye(U.shape[1]).double()).abs().max()) > 1e-3:
        raise content.error(f"{place} has eigenvectors that are not orthonormal")
    taken, offered = count.tolist()
    return CompressedMoment(U, lam, float(floor), first, taken, offered)


def _is_positive(second: Float[Tensor, "d d"]) -> bool:
    """Whether all eigenvalues are 0 or more, up to rounding: whether there is a Cholesky factor."""
    slack = 1e-3 * float(second.diagonal().max())
    if not slack:
        return True
    shifted = second + slack * torch.eye(len(second), dtype=second.dtype, device=second.device)
    return not int(torch.linalg.cholesky_ex(shifted).info)


def _no_moment(second: Float[Tensor, "d d"], first: Float[Tensor, "d"], taken: int) -> str | None:
    """Why this is not the sum of `taken` products `x x^T`; None if it is one."""
    if not (second.isfinite().all() and first.isfinite().all()):
        return "is not finite"
    if not taken and bool(second.any() or first.any()):
        return "counts no position and is not zero"
    diagonal = second.diagonal().double()
    if not torch.equal(second, second.T) or bool((diagonal < 0).any()):
        return "is not symmetric with a diagonal of 0 or more"
    # By Cauchy and Schwarz no second moment exceeds this, apart from the rounding of its sums.
    slack = 1.05
    if bool((second.double().square() > slack * diagonal[:, None] * diagonal + 1e-30).any()):
        return "has an entry larger than its diagonal allows"
    if bool((first.double().square() > slack * taken * diagonal + 1e-30).any()):
        return "has a sum larger than its count and diagonal allow"
    return None if _is_positive(second) else "is indefinite: a second moment has no negative eigenvalue"
