"""Which matrices would a model have, by its configuration alone? Its modules are made without memory for weights."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig

from engram_interp.models.loading import bridge_of

Source: TypeAlias = "nn.Module | PretrainedConfig | str | os.PathLike[str]"
"""A model, a Hugging Face configuration, or a folder or file that holds one."""


def outline(source: Source, dtype: torch.dtype | None = None) -> nn.Module:
    """A model by its configuration, on the meta device; a model itself as it is.

    It is a `TransformerBridge` where one can be made without weights. Where Q, K and V are one matrix in the checkpoint
    it is Hugging Face's model, whose matrices have the same inputs under its own names.

    Args:
        source: a model, a `PretrainedConfig`, a folder with a `config.json`, or that file.
        dtype: the precision of the weights. None takes the configuration's.

    Raises:
        FileNotFoundError: if there is no such folder or file.
        TypeError: if it is nothing of this.
    """
    if isinstance(source, nn.Module):
        return source
    config = source if isinstance(source, PretrainedConfig) else _read(source)
    dtype = dtype or _dtype_of(config)
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config, dtype=dtype)
    try:
        return bridge_of(type(model).__name__, model)
    except (NotImplementedError, ValueError):
        return model


def _dtype_of(config: PretrainedConfig) -> torch.dtype:
    found: Any = getattr(config, "dtype", None) or torch.float32
    return getattr(torch, found) if isinstance(found, str) else found


def _read(source: object) -> PretrainedConfig:
    if not isinstance(source, (str, os.PathLike)):
        raise TypeError(f"plan takes a model, a PretrainedConfig, or a path to one; got a {type(source).__name__}")
    path = Path(source).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"there is no folder or file {path}: give a configuration that save_pretrained wrote")
    return AutoConfig.from_pretrained(path)
