"""On which device does each module lie, if one device does not hold the model? Only large matrices are offloaded.

accelerate brings an offloaded matrix to where it multiplies, and takes it away again. A bridge calls the modules that
multiply, but reads gains and embeddings by itself, so these stay where they are used.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from accelerate import infer_auto_device_map
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.pytorch_utils import Conv1D

DISK, CPU = "disk", "cpu"

Devices = Mapping[str, Any]
"""Modules by path, and the device of each: a number, `"cpu"` or `"disk"`."""


def device_map_of(
    source: str, device_map: str | Devices, max_memory: Mapping[Any, int | str] | None, dtype: torch.dtype
) -> dict[str, Any]:
    """The device of every module with parameters.

    Args:
        source: a folder, or a name on the hub.
        device_map: `"auto"` fills devices in turn, then the CPU, then the disk; or a device for each module, named or
            by the module that it lies in.
        max_memory: how much each device may hold, as accelerate takes it.
        dtype: of the weights.

    Raises:
        ValueError: if `device_map` is another word, or leaves a module out.
    """
    with torch.device("meta"):
        config = AutoConfig.from_pretrained(source)
        skeleton: Any = AutoModelForCausalLM.from_config(config, dtype=dtype)
    if isinstance(device_map, str):
        if device_map != "auto":
            raise ValueError(f'device_map must be "auto" or a device for each module; got {device_map!r}')
        skeleton.tie_weights()
        limits: Any = max_memory
        device_map = infer_auto_device_map(
            skeleton, limits, no_split_module_classes=list(skeleton._no_split_modules or []), dtype=dtype
        )
    main = _main_device(device_map)
    found = {}
    for path, module in skeleton.named_modules():
        if not any(True for _ in (*module._parameters.values(), *module._buffers.values())):
            continue
        device = _device_in(device_map, path)
        away = _is_away(device, main) and not (_may_go(module) and path not in _ends(skeleton))
        found[path] = main if away else device
    return found


def is_offloaded(devices: Devices) -> bool:
    """Whether a module lies elsewhere than where it multiplies."""
    main = _main_device(devices)
    return any(_is_away(device, main) for device in devices.values())


def load_offloaded(
    source: str, devices: dict[str, Any], offload_folder: str | os.PathLike[str] | None, dtype: torch.dtype
) -> PreTrainedModel:
    """A Hugging Face model of which accelerate moves the offloaded modules.

    Raises:
        ValueError: if modules go to the disk and there is no folder for them.
    """
    if DISK in devices.values() and offload_folder is None:
        raise ValueError("the model does not fit: offload_folder must be a folder for what goes to the disk; got None")
    found: Any = AutoModelForCausalLM.from_pretrained(
        source, dtype=dtype, device_map=devices, offload_folder=offload_folder, attn_implementation="eager"
    )
    # TransformerLens refuses every map with offloaded modules, since it reads some parameters by itself. Those stay.
    del found.hf_device_map
    return found


def _main_device(devices: Devices) -> Any:
    """Where modules run: the first device that is no store, or the CPU."""
    return next((device for device in devices.values() if device not in (CPU, DISK)), CPU)


def _is_away(device: Any, main: Any) -> bool:
    return device == DISK or (device == CPU and main != CPU)


def _may_go(module: nn.Module) -> bool:
    return isinstance(module, (nn.Linear, Conv1D))


def _ends(model: PreTrainedModel) -> set[str]:
    """The paths of the embedding and the unembedding, which may be one tensor."""
    ends = [model.get_input_embeddings(), model.get_output_embeddings()]
    return {path for path, module in model.named_modules() if any(module is one for one in ends)}


def _device_in(devices: Devices, path: str) -> Any:
    """The device of a module, or of the nearest one that it lies in."""
    parts = path.split(".")
    for n in range(len(parts), -1, -1):
        if (name := ".".join(parts[:n])) in devices:
            return devices[name]
    raise ValueError(f"device_map must have a device for {path}; it has {', '.join(list(devices)[:5])}, ...")
