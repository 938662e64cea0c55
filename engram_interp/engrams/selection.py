"""Which tensors of an engram lie in these components, layers, heads and matrices?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from engram_interp.common.arguments import Layers, indices, read_once
from engram_interp.models.components import COMPONENT
from engram_interp.models.sites import Input, Site, component_of, expert_of, is_bias, layer_of, select_sites, weight_key


def selected(
    tensors: Mapping[str, Tensor],
    components: str | Iterable[str] | None,
    layers: Layers,
    heads: Layers,
    keys: str | Iterable[str] | None,
) -> dict[str, Tensor]:
    """The tensors that are named; see `Engram.select`."""
    components, keys = read_once(components), read_once(keys)
    weights = [key for key in tensors if not is_bias(key)]
    named = set(weights) if keys is None else {keys} if isinstance(keys, str) else set(keys)
    if not named or not named <= set(weights):
        raise ValueError(f"the engram has no matrix {sorted(named - set(weights)) or 'in an empty list'}")
    sites = [Site(component_of(key), layer_of(key), Input(""), expert=expert_of(key)) for key in weights]
    chosen = named & {site.key for site in select_sites(sites, components, layers)}
    if not chosen:
        raise ValueError(f"none of {sorted(named)} lies in components={components}, layers={layers}")
    kept = {key: tensor for key, tensor in tensors.items() if weight_key(key) in chosen}
    return kept if heads is None else _only_heads(kept, list(indices(heads, "heads") or ()))


def _only_heads(tensors: dict[str, Tensor], heads: list[int]) -> dict[str, Tensor]:
    """Attention matrices, and biases that have heads, with all other heads set to zero."""
    kept = {}
    for key, tensor in tensors.items():
        component = COMPONENT[component_of(key)]
        if not (component.bias_has_heads if is_bias(key) else component.has_heads):
            continue
        if not heads or not all(0 <= head < len(tensor) for head in heads):
            grouped = " (key/value heads: name the components)" if component.name in ("W_K", "W_V") else ""
            raise ValueError(f"{key} has heads 0 to {len(tensor) - 1}{grouped}, got {heads}")
        kept[key] = torch.zeros_like(tensor)
        kept[key][heads] = tensor[heads]
    if not kept:
        raise ValueError(f"only attention matrices have heads, and none is in {list(tensors)}")
    return kept
