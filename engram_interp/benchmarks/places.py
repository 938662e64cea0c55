"""Where may a memory be planted? Into a module, a matrix, a head, some weights, or two modules at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from engram_interp.models import adapt_language
from engram_interp.models.components import ATTENTION, MLP

MODULES = {"MLP": MLP, "attention": ATTENTION}


@dataclass(frozen=True)
class Place:
    """Where a memory is planted.

    Attributes:
        name: for people, such as `MLP 1`.
        keys: the matrices that hold it, or hold parts of it.
        layer: their layer; None if they lie in several.
        parts: the parts of matrices that hold it, if these are not whole. For every key that is ranked, also where
            nothing was planted: a mask of its heads, `[head]`, or of its weights, in the weight's own shape.
    """

    name: str
    keys: frozenset[str]
    layer: int | None = None
    parts: Mapping[str, Bool[Tensor, "..."]] = field(default_factory=dict, repr=False, compare=False)

    def __and__(self, other: Place) -> Place:
        """Both places at once.

        Raises:
            ValueError: if one of them has parts.
        """
        if self.parts or other.parts:
            raise ValueError(f"{self.name} and {other.name} cannot be joined: only whole matrices can")
        return Place(f"{self.name} and {other.name}", self.keys | other.keys)


def modules_of(model: nn.Module) -> list[Place]:
    """Every MLP and every attention block of a model, as places to plant in."""
    adapter = adapt_language(model)
    present = {site.component for site in adapter.all_sites()}
    return [
        Place(f"{name} {layer}", frozenset(site.key for site in adapter.sites(present & set(components), layer)), layer)
        for layer in range(adapter.n_layers)
        for name, components in MODULES.items()
        if present & set(components)
    ]


def matrices_of(model: nn.Module) -> list[Place]:
    """Every matrix of a model's blocks, as places to plant in."""
    sites = (site for site in adapt_language(model).all_sites() if site.layer is not None)
    return [Place(site.key, frozenset([site.key]), site.layer) for site in sites]


def heads_of(model: nn.Module) -> list[Place]:
    """Every query head with its rows and columns of `W_Q` and `W_O`, and of the `W_K` and `W_V` that it reads."""
    adapter = adapt_language(model)
    sites = [site for site in adapter.all_sites() if site.layout.has_heads]
    n_heads = {site.key: len(adapter.parameter(site.key)) for site in sites}
    places = []
    for layer in sorted({site.layer for site in sites if site.layer is not None}):
        mine = frozenset(site.key for site in sites if site.layer == layer)
        for head in range(adapter.n_heads):
            # With grouped queries, several heads read the same keys and values.
            parts = {key: _one_of(n, head * n // adapter.n_heads, key in mine) for key, n in n_heads.items()}
            places.append(Place(f"head {layer}.{head}", mine, layer, parts))
    return places


def _one_of(n: int, index: int, here: bool) -> Bool[Tensor, "head"]:
    return torch.arange(n).eq(index) & here


def weights_of(model: nn.Module, share: float, seed: int = 0) -> Place:
    """Weights of a model's blocks at random, as in LACUNA (2607.02513) and INJ (2311.09060).

    Args:
        model: the model.
        share: which share of the weights.
        seed: of the draw.

    Raises:
        ValueError: if `share` is not between 0 and 1.
    """
    if not 0 < share < 1:
        raise ValueError(f"share must be between 0 and 1; got {share}")
    adapter, generator = adapt_language(model), torch.Generator().manual_seed(seed)
    keys = [site.key for site in adapter.all_sites() if site.layer is not None]
    parts = {key: torch.rand(adapter.parameter(key).shape, generator=generator) < share for key in keys}
    return Place(f"{share:.0%} of all weights", frozenset(keys), None, parts)
