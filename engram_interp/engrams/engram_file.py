"""An engram in a safetensors file, and what a file must hold to be one."""

from __future__ import annotations

from pathlib import Path
from types import NoneType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from engram_interp.common import storage
from engram_interp.engrams.editing import is_finite
from engram_interp.models import ModelInfo
from engram_interp.models.components import COMPONENT
from engram_interp.models.sites import component_of, is_bias, is_key, weight_key

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def write_engram(
    path: str | Path,
    tensors: dict[str, Tensor],
    weight_norms: dict[str, Tensor],
    info: ModelInfo,
    name: str | None,
    options: dict[str, Any],
) -> None:
    """Write the fields of an `Engram`."""
    norms = {f"weight_norms/{key}": value for key, value in weight_norms.items()}
    named = {f"tensors/{key}": tensor for key, tensor in tensors.items()}
    fields = {"model": info.to_dict(), "keys": list(tensors), "name": name, "options": options}
    storage.write(path, "engram", named | norms, fields)


def read_engram(path: str | Path) -> dict[str, Any]:
    """The fields of an `Engram`, checked.

    Raises:
        ValueError: if the file is foreign, of another version, cut short or altered, or its tensors are not an engram.
    """
    content = storage.read(path, "engram")
    keys = content.strings("keys")
    options = content.field("options", dict)
    if wrong := [name for name, value in options.items() if not isinstance(value, (str, float, int, NoneType))]:
        raise content.error(f"its option {wrong[0]!r} is {options[wrong[0]]!r}")
    if homeless := [key for key in keys if weight_key(key) not in keys]:
        raise content.error(f"it has the bias {homeless[0]!r} without its weight")
    for key in keys:
        _check_key(key, content)
    return {
        "tensors": {key: content.tensor(f"tensors/{key}") for key in keys},
        "weight_norms": {key: _weight_norms(key, content) for key in keys if not is_bias(key)},
        "info": ModelInfo.read(content),
        "name": content.name(),
        "options": options,
    }


def _check_key(key: str, content: storage.Content) -> None:
    """Check that the key is a parameter's path, and that its tensor holds finite numbers in a fitting shape."""
    tensor = content.tensor(f"tensors/{key}")
    is_parameter = is_key(key) and tensor.dtype in FLOATS and tensor.numel() and tensor.dim()
    if not is_parameter or not is_finite(tensor):
        raise content.error(f"{key!r} is {tensor.dtype} {list(tensor.shape)}, or holds nan or inf")
    if is_bias(key) and tuple(tensor.shape) != _bias_shape(key, content.tensor(f"tensors/{weight_key(key)}").shape):
        raise content.error(f"the bias {key} is {list(tensor.shape)}, which does not fit its weight")


def _bias_shape(key: str, weight: torch.Size) -> tuple[int, ...]:
    """The shape of the bias of a weight of this shape: a number for each output."""
    return (weight[0], weight[-1]) if COMPONENT[component_of(key)].bias_has_heads else tuple(weight[-1:])


def _weight_norms(key: str, content: storage.Content) -> Float[Tensor, "head"]:
    norms, tensor = content.tensor(f"weight_norms/{key}"), content.tensor(f"tensors/{key}")
    has_heads = COMPONENT[component_of(key)].has_heads
    n_heads, n_axes = (len(tensor), 3) if has_heads else (1, 2)
    if tensor.dim() != n_axes or tuple(norms.shape) != (n_heads,) or norms.dtype != torch.float64:
        raise content.error(f"{key} is {list(tensor.shape)}, its norms {norms.dtype} {list(norms.shape)}")
    if not is_finite(norms) or bool((norms < 0).any()):
        raise content.error(f"the norms of {key} are not all finite and 0 or more")
    return norms
