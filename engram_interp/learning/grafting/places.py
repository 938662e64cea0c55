"""In which order are entries grafted? Every entry has a place, and a graft of `k` entries has those up to place `k`.

Entries that go together, as those of a head, have the place of the last of them. So every graft holds all smaller ones,
the largest holds everything, and none has more than `k` entries.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from engram_interp.learning.grafting.difference import Difference
from engram_interp.models.sites import Site


def places_of(
    scores: Mapping[str, Float[Tensor, "..."]], units: Mapping[str, Int[Tensor, "..."]] | None = None
) -> dict[str, Int[Tensor, "..."]]:
    """The place of every entry, those with the largest scores first.

    Args:
        scores: of every entry, by parameter.
        units: which unit each entry belongs to, by numbers from 0. A unit has the mean score of its entries. None makes
            every entry a unit of its own.

    Example:
        >>> places_of({"a": torch.tensor([0.5, 0.1]), "b": torch.tensor([0.9])})
        {'a': tensor([2, 3]), 'b': tensor([1])}
        >>> places_of({"a": torch.tensor([0.5, 0.1, 0.4])}, {"a": torch.tensor([0, 0, 1])})
        {'a': tensor([3, 3, 1])}
    """
    flat = torch.cat([one.flatten() for one in scores.values()])
    if units is None:
        found = _last_places(flat, torch.ones(1, dtype=torch.long).expand(len(flat)))
    else:
        unit = torch.cat([one.flatten() for one in units.values()])
        sizes = torch.bincount(unit)
        means = torch.zeros(len(sizes), dtype=torch.float64).index_add_(0, unit, flat.double()) / sizes.clamp(min=1)
        found = _last_places(means, sizes)[unit]
    by_key = found.split([one.numel() for one in scores.values()])
    return {key: some.view(scores[key].shape) for key, some in zip(scores, by_key, strict=True)}


def _last_places(scores: Float[Tensor, "unit"], sizes: Int[Tensor, "unit"]) -> Int[Tensor, "unit"]:
    """The last place of every unit of these sizes, those with the largest scores first."""
    order = scores.argsort(descending=True, stable=True)
    places = torch.empty_like(order)
    places[order] = sizes[order].cumsum(0)
    return places


def with_others(places: Mapping[str, Int[Tensor, "..."]], change: Difference) -> dict[str, Int[Tensor, "..."]]:
    """The places with those of parameters that have no engram, which come last, one after the other."""
    found = dict(places)
    last = sum(one.numel() for one in places.values())
    for key, other in change.others.items():
        last += other.numel()
        found[key] = torch.full(other.shape, last)
    return found


def mask_of(places: Mapping[str, Int[Tensor, "..."]], share: float) -> dict[str, Bool[Tensor, "..."]]:
    """The entries of a graft of this share of all entries.

    Example:
        >>> mask_of({"a": torch.tensor([2, 3, 1, 4])}, 0.5)
        {'a': tensor([ True, False,  True, False])}
    """
    n = sum(one.numel() for one in places.values())
    k = int(share * n + 0.5)
    return {key: one <= k for key, one in places.items()}


def units_of(change: Difference, by_head: bool) -> dict[str, Int[Tensor, "..."]]:
    """Which matrix, or head of one, each entry belongs to.

    Args:
        change: the matrices.
        by_head: whether heads are units of their own. A matrix without heads is one unit.
    """
    # Numbers of units are whole, but layouts are of floats.
    units = {key: torch.zeros(one.shape, dtype=torch.float64) for key, one in change.matrices.items()}
    first = 0
    for site in change.sites:
        first += _number(site, units, first, by_head)
    return {key: one.long() for key, one in units.items()}


def _number(site: Site, units: Mapping[str, Float[Tensor, "..."]], first: int, by_head: bool) -> int:
    """Number a matrix's units from `first` on; how many they are."""
    weight = site.of(units[site.path])
    matrix, heads = site.matrix(units[site.path]), site.layout.heads(weight)
    n = heads.n if by_head and heads is not None else 1
    numbers = torch.zeros(matrix.shape, dtype=torch.float64)  # contiguous, so that its heads are views
    if heads is not None and n > 1:
        heads.of(numbers).add_(torch.arange(n).view(-1, *[1] * (heads.of(numbers).dim() - 1)))
    weight.copy_(site.layout.to_parameter(numbers + first, like=weight))
    if site.bias is None or site.bias not in units:
        return n
    bias = site.of_bias(units[site.bias])
    if n > 1 and site.layout.bias_has_heads:
        bias.view(n, -1).copy_((torch.arange(n) + first)[:, None].expand(n, bias.numel() // n))
        return n
    bias.fill_(first if n == 1 else first + n)  # a bias of all heads goes by itself
    return n if n == 1 else n + 1
