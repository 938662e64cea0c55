"""How few numbers say a moment? Its leading eigenvectors, up to a share of the energy, and what that does to engrams.

The paper's appendix H suggests a truncated SVD. Cut off at that, directions of the reference vanish from `S`, and the
pseudo-inverse gives the target all of what is left there: engrams come out many times too large. So what is cut off is
spread evenly over its directions instead.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import reduce
from operator import add

import pandas as pd
import torch

from engram_interp.common.arguments import number
from engram_interp.linalg.engram import engram_matrix
from engram_interp.linalg.total import Total
from engram_interp.linalg.triangle import triangle_size
from engram_interp.models import Adapter
from engram_interp.models.sites import Site, by_input
from engram_interp.statistics.moments import AnyMoment, CompressedMoment, Moment

logger = logging.getLogger("engram_interp")


def require_energy(energy: object) -> float:
    """A share of energy.

    Raises:
        ValueError: if it is not above 0 and at most 1.
        TypeError: if it is not a number.
    """
    found = number(energy, "energy")
    if not 0 < found <= 1:
        raise ValueError(f"energy must be above 0 and at most 1, a share of the energy; got {energy}")
    return found


def compressed(moment: AnyMoment, energy: float) -> AnyMoment:
    """A moment by as few eigenvectors as have a share of its energy around the mean; itself if that is no smaller.

    Args:
        moment: rows stay as they are.
        energy: the share of the trace.

    Example:
        >>> X = torch.randn(200, 8, generator=torch.Generator().manual_seed(0))
        >>> X[:, :2] *= 9
        >>> compressed(Moment(X.T @ X, X.sum(0), 200, 200), 0.9).U.shape
        torch.Size([8, 2])
    """
    if not isinstance(moment, Moment):
        return moment
    s, d = moment.first.double(), moment.width
    C = moment.second.double() - torch.outer(s, s) / max(moment.count, 1)
    lam, U = torch.linalg.eigh(C)
    lam = lam.clamp(min=0)
    so_far = lam.flip(0).cumsum(0)
    k = int((so_far < energy * so_far[-1]).sum()) + 1
    if k * d + k >= triangle_size(d):
        return moment
    rest = lam[: d - k]
    floor = float(rest.mean()) if len(rest) else 0.0
    dtype = moment.second.dtype
    leading = U[:, d - k :].to(dtype).contiguous()
    return CompressedMoment(leading, lam[d - k :], floor, moment.first, moment.count, moment.offered)


def size_of(moment: AnyMoment) -> int:
    """The bytes that a moment takes."""
    if isinstance(moment, CompressedMoment):
        return sum(one.numel() * one.element_size() for one in (moment.U, moment.lam, moment.first))
    one = moment.second if isinstance(moment, Moment) else moment.X
    return one.numel() * one.element_size()


def bytes_of(groups: Mapping[str, Mapping[str, AnyMoment]]) -> int:
    """The bytes that all moments take."""
    return sum(size_of(moments[name]) for moments in groups.values() for name in moments)


@torch.no_grad()
def engram_errors(
    adapter: Adapter,
    sites: Sequence[Site],
    groups: Mapping[str, Mapping[str, AnyMoment]],
    others: Mapping[str, Mapping[str, AnyMoment]],
) -> pd.DataFrame:
    """What other moments make of the engram of every matrix: `|W+' - W+| / |W+|`, and both W-Norms.

    The engrams are the paper's, at the default cut and without biases. The first group is the target.

    Args:
        adapter: the model.
        sites: the matrices.
        groups: the moments, by group and input.
        others: the other moments.
    """
    rows = []
    for name, readers in by_input(sites).items():
        solved = []
        for one in (groups, others):
            moments = [of_inputs[name].of_inputs(ones=False) for of_inputs in one.values()]
            solved.append((moments[0], Total(reduce(add, moments)).solution(None)))
        for site in readers:
            W = adapter.weight(site).detach().double()
            before, after = (engram_matrix(W, target, solution) for target, solution in solved)
            rows.append(
                {
                    "key": site.key,
                    "wnorm": float(before.norm() / W.norm()),
                    "wnorm_after": float(after.norm() / W.norm()),
                    "error": float((after - before).norm() / before.norm()),
                }
            )
    return pd.DataFrame(rows)


def say_errors(errors: pd.DataFrame, energy: float, before: int, after: int) -> None:
    """Log what a compression did to bytes, maps and engrams."""
    ratios = errors["wnorm_after"] / errors["wnorm"]
    logger.warning(
        "compressed to %.4g of the energy: %.0f %% of the bytes. Engrams are off by %.3g of their norm in the median, "
        "and %.3g at most (%s); W-Norms are %.3g to %.3g times what they were",
        energy, 100 * after / before, errors["error"].median(), errors["error"].max(),
        errors["key"][int(errors["error"].argmax())], ratios.min(), ratios.max(),
    )  # fmt: skip
