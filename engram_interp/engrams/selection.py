"""Which tensors of an engram lie in these components, layers, heads and matrices?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from engram_interp.common.arguments import Layers, indices, read_once
from engram_interp.models.sites import Site, select_sites

Norms: TypeAlias = Mapping[str, Float[Tensor, "head"]]


def selected(
    tensors: Mapping[str, Tensor],
    sites: Sequence[Site],
    components: str | Iterable[str] | None,
    layers: Layers,
    heads: Layers,
    keys: str | Iterable[str] | None,
) -> tuple[dict[str, Tensor], tuple[Site, ...]]:
    """The tensors that are named, and their matrices; see `Engram.select`."""
    components, keys = read_once(components), read_once(keys)
    known = {name for site in sites for name in (site.key, site.path)}
    named = known if keys is None else {keys} if isinstance(keys, str) else set(keys)
    if not named or not named <= known:
        raise ValueError(f"the engram has no matrix {sorted(named - known) or 'in an empty list'}")
    chosen = [site for site in select_sites(sites, components, layers) if {site.key, site.path} & named]
    if not chosen:
        raise ValueError(f"none of {sorted(named)} lies in components={components}, layers={layers}")
    if heads is None:
        return _only_sites(tensors, sites, chosen), tuple(chosen)
    kept = _only_heads(tensors, chosen, list(indices(heads, "heads") or ()))
    return kept, tuple(site for site in chosen if site.path in kept)


def norms_by_site(norms: Norms, sites: Sequence[Site], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The norms of every matrix, by its key, from those of parameters that may hold several."""
    found, taken = {}, dict.fromkeys(norms, 0)
    for site in sites:
        heads = site.layout.heads(site.of(tensors[site.path]))
        start, n = taken[site.path], 1 if heads is None else heads.n
        found[site.key] = norms[site.path][start : start + n]
        taken[site.path] = start + n
    return found


def norms_by_path(norms: Norms, sites: Sequence[Site]) -> dict[str, Tensor]:
    """The norms of every parameter, from those of its matrices."""
    paths = dict.fromkeys(site.path for site in sites)
    return {path: torch.cat([norms[site.key] for site in sites if site.path == path]) for path in paths}


def _only_sites(tensors: Mapping[str, Tensor], sites: Sequence[Site], chosen: Sequence[Site]) -> dict[str, Tensor]:
    """The tensors of these matrices. What a tensor holds of others is zero."""
    names = {name for site in chosen for name in (site.path, site.bias)}
    left_out = [site for site in sites if site.path in names and site not in chosen]
    kept = {name: tensor for name, tensor in tensors.items() if name in names}
    for name in {name for site in left_out for name in (site.path, site.bias) if name in kept and name is not None}:
        kept[name] = kept[name].clone()
    for site in left_out:
        if site.path in kept:
            site.of(kept[site.path]).zero_()
        if site.bias in kept and site.bias is not None:
            site.of_bias(kept[site.bias]).zero_()
    return kept


def _only_heads(tensors: Mapping[str, Tensor], sites: Sequence[Site], heads: list[int]) -> dict[str, Tensor]:
    """Matrices with heads, and biases that have them, with all other heads set to zero."""
    kept: dict[str, Tensor] = {}
    for site in sites:
        if not site.layout.has_heads:
            continue
        weight = tensors[site.path]
        found = site.layout.heads(site.of(weight))
        assert found is not None
        # Channels of a grouped convolution are numbered through all of its groups.
        group, n_groups = site.block if site.expert is not None else (0, 1)
        mine = [head - group * found.n for head in heads if group * found.n <= head < (group + 1) * found.n]
        n = found.n * n_groups
        if not heads or not all(0 <= head < n for head in heads):
            grouped = " (key/value heads: name the components)" if site.component in ("W_K", "W_V") else ""
            raise ValueError(f"{site.path} has heads 0 to {n - 1}{grouped}, got {heads}")
        part = site.of(kept.setdefault(site.path, torch.zeros_like(weight)))
        matrix, own = site.matrix(weight), torch.zeros_like(site.matrix(weight))
        found.of(own)[mine] = found.of(matrix)[mine]
        part.copy_(site.layout.to_parameter(own, like=part))
        if site.bias in tensors and site.bias is not None and site.layout.bias_has_heads:
            bias = site.of_bias(kept.setdefault(site.bias, torch.zeros_like(tensors[site.bias])))
            by_head = site.of_bias(tensors[site.bias]).reshape(found.n, -1)
            bias.view(found.n, -1)[mine] = by_head[mine]
    if not kept:
        named = [site.key for site in sites]
        raise ValueError(f"only matrices with heads or channels can be selected by head, and none is in {named}")
    return {name: kept[name] for name in tensors if name in kept}
