"""Moments of activations that are at hand: TransformerLens's caches, as `run_with_cache` gives them."""

from __future__ import annotations

from collections.abc import Collection

import torch
from jaxtyping import Float
from torch import Tensor

from engram_interp.models import LanguageAdapter
from engram_interp.models.lens import ActivationCache
from engram_interp.models.sites import Input
from engram_interp.statistics.moments import AnyMoment
from engram_interp.statistics.sums import moment_of


def moments_of_cache(
    adapter: LanguageAdapter, inputs: Collection[Input], cache: ActivationCache, mask: Tensor | None, group: str
) -> dict[str, AnyMoment]:
    """The moment of every input over a cache.

    Raises:
        KeyError: if the cache lacks an activation.
        ValueError: if the mask does not fit, or an activation is not finite.
    """
    needed = adapter.cache_names(inputs)
    if missing := [name for name in needed if name not in cache]:
        raise KeyError(f"the {group} cache lacks {', '.join(missing)}: cache what names_filter(model) names")
    activations = {name: cache[name] for name in needed}
    moments: dict[str, AnyMoment] = {
        name: _moment(adapter.from_cache(name, activations), mask, group) for name in inputs
    }
    for name in inputs:
        if not moments[name].is_finite:
            raise ValueError(f"non-finite activation in the {group} cache: {name}, from {adapter.cache_names([name])}")
    return moments


def _moment(activation: Float[Tensor, "*batch_pos d"], mask: Tensor | None, group: str) -> AnyMoment:
    positions = activation.shape[:-1]
    if mask is None:
        mask = torch.ones(positions, dtype=torch.bool)
    if mask.dtype != torch.bool:
        raise ValueError(f"{group}_mask must be a tensor of booleans, got {mask.dtype}: pass mask.bool()")
    if mask.shape != positions:
        raise ValueError(f"{group}_mask has shape {list(mask.shape)}, the cached activations {list(positions)}")
    if not mask.any():
        raise ValueError(f"{group}_mask has no true in it, so no position of the {group} counts")
    return moment_of(activation[mask.to(activation.device)].detach())
