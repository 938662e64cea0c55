"""How do edits of matrices that a bridge has split get back into the fused tensor of the checkpoint?

A bridge splits fused Q, K and V, or gate and up, into modules of their own, and each family has its own order. Here the
weights are replaced by their indices for a moment and split in the same way. The result says where each weight came
from.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor, nn

from engram_interp.models.bridge.parts import wrapped
from engram_interp.models.lens import TransformerBridge

_SPLITTERS = {"attn": ("split_qkv_matrix", "qkv"), "mlp": ("split_gate_up_matrix", ("gate", "in"))}


def unsplit(model: TransformerBridge, checkpoint: Collection[nn.Parameter]) -> None:
    """Copy the parts of every fused matrix back into the tensor of the checkpoint that they were split from."""
    for block in model.blocks:
        for place, (splitter, names) in _SPLITTERS.items():
            container: Any = block._modules.get(place)
            if hasattr(container, splitter):
                parts = [wrapped(container._modules[name]) for name in names]
                unsplit_module(container.original_component, getattr(container, splitter), parts, checkpoint)


@torch.no_grad()
def unsplit_module(
    module: nn.Module, split: Callable[..., Any], parts: list[Any], checkpoint: Collection[nn.Parameter]
) -> None:
    """Copy the weights and biases of `parts` back into the parameters of `module` that `split` made them from."""
    known = {id(parameter) for parameter in checkpoint}
    fused = [parameter for parameter in module.parameters() if id(parameter) in known]
    ends = torch.tensor([0, *(parameter.numel() for parameter in fused)]).cumsum(0).tolist()
    for tensor, place in _places(module, split, parts, fused, ends):
        for parameter, start, end in zip(fused, ends, ends[1:], strict=False):
            here = (place >= start) & (place < end)
            parameter.view(-1)[(place[here] - start).to(parameter.device)] = tensor[here.to(tensor.device)].to(
                parameter
            )


def _places(
    module: nn.Module, split: Callable[..., Any], parts: list[Any], fused: list[nn.Parameter], ends: list[int]
) -> list[tuple[Tensor, Tensor]]:
    """Every weight and bias of the parts, with the index that each entry has among the fused parameters' entries."""
    kept = [parameter.data for parameter in fused]
    try:
        for parameter, start, end in zip(fused, ends, ends[1:], strict=False):
            parameter.data = torch.arange(start, end, dtype=torch.float64).view(parameter.shape)
        return [
            (tensor, place.long())
            for part, numbers in zip(parts, split(module), strict=True)
            for tensor, place in ((part.weight, numbers.weight), (part.bias, numbers.bias))
            if tensor is not None
        ]
    finally:
        for parameter, data in zip(fused, kept, strict=True):
            parameter.data = data
