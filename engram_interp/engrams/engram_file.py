"""An engram in a safetensors file, and what a file must hold to be one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any

import torch
from einops import EinopsError
from torch import Tensor

from engram_interp.common import storage
from engram_interp.engrams.editing import is_finite
from engram_interp.models import ModelInfo
from engram_interp.models.site_file import fields_of, sites_in
from engram_interp.models.sites import Site, is_key, lens_sites, weight_key

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def write_engram(
    path: str | Path,
    tensors: Mapping[str, Tensor],
    weight_norms: Mapping[str, Tensor],
    info: ModelInfo,
    name: str | None,
    options: Mapping[str, Any],
    sites: Sequence[Site],
) -> None:
    """Write the fields of an `Engram`."""
    norms = {f"weight_norms/{key}": value for key, value in weight_norms.items()}
    named = {f"tensors/{key}": tensor for key, tensor in tensors.items()}
    fields = {"model": info.to_dict(), "keys": list(tensors), "name": name, "options": dict(options)}
    if info.is_plain:
        fields["sites"] = [fields_of(site) for site in sites]
    storage.write(path, "engram", named | norms, fields)


def read_engram(path: str | Path) -> dict[str, Any]:
    """The fields of an `Engram`, checked.

    Raises:
        ValueError: if the file is foreign, of another version, cut short or altered, or its tensors are not an engram.
    """
    content = storage.read(path, "engram")
    keys, info = content.strings("keys"), ModelInfo.read(content)
    options = content.field("options", dict)
    if wrong := [name for name, value in options.items() if not isinstance(value, (str, float, int, NoneType))]:
        raise content.error(f"its option {wrong[0]!r} is {options[wrong[0]]!r}")
    sites = sites_in(content, keys) if info.is_plain else lens_sites_in(content, keys)
    for key in keys:
        _check_tensor(key, content)
    tensors = {key: content.tensor(f"tensors/{key}") for key in keys}
    weights = list(dict.fromkeys(site.path for site in sites))
    norms = {key: content.tensor(f"weight_norms/{key}") for key in weights}
    for site in sites:
        _check_shapes(site, tensors, content)
    for key in weights:
        _check_norms(key, norms[key], [site for site in sites if site.path == key], tensors[key], content)
    return {
        "tensors": tensors,
        "weight_norms": norms,
        "info": info,
        "name": content.name(),
        "options": options,
        "sites": sites,
    }


def lens_sites_in(content: storage.Content, keys: Sequence[str]) -> tuple[Site, ...]:
    """The matrices of a language model that these keys name."""
    if wrong := [key for key in keys if not is_key(key)]:
        raise content.error(f"its key {wrong[0]!r} is no weight's and no bias's")
    if homeless := [key for key in keys if weight_key(key) not in keys]:
        raise content.error(f"it has the bias {homeless[0]!r} without its weight")
    return lens_sites(keys)


def _check_tensor(key: str, content: storage.Content) -> None:
    """Check that a tensor holds finite numbers."""
    tensor = content.tensor(f"tensors/{key}")
    if tensor.dtype not in FLOATS or not tensor.numel() or not tensor.dim() or not is_finite(tensor):
        raise content.error(f"{key!r} is {tensor.dtype} {list(tensor.shape)}, or holds nan or inf")


def _check_shapes(site: Site, tensors: Mapping[str, Tensor], content: storage.Content) -> None:
    """Check that a matrix is laid out as it should be, and that its bias has a number for each output."""
    weight = tensors[site.path]
    try:
        matrix, heads = site.matrix(weight), site.layout.heads(site.of(weight))
    except (EinopsError, RuntimeError, ValueError, IndexError) as error:
        raise content.error(f"{site.path} is {list(weight.shape)}, not as {site.component} is laid out") from error
    if site.bias not in tensors or site.bias is None:
        return
    bias, outputs = tensors[site.bias], len(matrix)
    by_head = heads is not None and site.layout.bias_has_heads and not site.layout.is_flat
    shape = (
        (heads.n, outputs // heads.n)
        if heads is not None and by_head
        else (outputs * (site.bias_block or site.block)[1],)
    )
    if tuple(bias.shape) != shape:
        raise content.error(f"the bias {site.bias} is {list(bias.shape)}, which does not fit its weight")


def _check_norms(key: str, norms: Tensor, sites: Sequence[Site], weight: Tensor, content: storage.Content) -> None:
    """Check that there is a norm of 0 or more for every head of a weight, or one for the whole."""
    heads = [site.layout.heads(site.of(weight)) for site in sites]
    n = sum(1 if one is None else one.n for one in heads)
    if tuple(norms.shape) != (n,) or norms.dtype != torch.float64:
        raise content.error(f"{key} is {list(weight.shape)}, its norms {norms.dtype} {list(norms.shape)}")
    if not is_finite(norms) or bool((norms < 0).any()):
        raise content.error(f"the norms of {key} are not all finite and 0 or more")
