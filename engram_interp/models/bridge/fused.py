"""Edits of matrices that a bridge split from a fused one -> the fused tensor of the checkpoint.

A bridge splits fused Q, K and V, and gate and up, into modules of their own, in each family's own order. Numbers in
place of the weights, split in the same way, tell where each weight came from.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import nn


@torch.no_grad()
def unsplit(
    module: nn.Module, split: Callable[..., Any], parts: list[Any], checkpoint: Collection[nn.Parameter]
) -> None:
    """Copy the weights and biases of `parts` back into the parameters of `module` that `split` made them from."""
    known = {id(parameter) for parameter in checkpoint}
    fused = [parameter for parameter in module.parameters() if id(parameter) in known]
    kept = [parameter.data for parameter in fused]
    ends = torch.tensor([0, *(parameter.numel() for parameter in fused)]).cumsum(0).tolist()
    try:
        for parameter, start, end in zip(fused, ends, ends[1:], strict=False):
            parameter.data = torch.arange(start, end, dtype=torch.float64).view(parameter.shape)
        numbered = [
            (tensor, place.long())
            for part, numbers in zip(parts, split(module), strict=True)
            for tensor, place in ((part.weight, numbers.weight), (part.bias, numbers.bias))
            if tensor is not None
        ]
    finally:
        for parameter, data in zip(fused, kept, strict=True):
            parameter.data = data
    for tensor, place in numbered:
        for parameter, start, end in zip(fused, ends, ends[1:], strict=False):
            here = (place >= start) & (place < end)
            parameter.view(-1)[(place[here] - start).to(parameter.device)] = tensor[here.to(tensor.device)].to(
                parameter
            )
