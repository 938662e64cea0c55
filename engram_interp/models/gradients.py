"""`dL/dW` of every weight by one backward pass, each used and dropped as soon as it is there.

A weight of TransformerLens's shape is a view of a parameter, and its gradient is the same view of that parameter's. All
gradients at once would take as much memory as the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from engram_interp.models.base import Adapter
from engram_interp.models.memory import contains


def backward(
    adapter: Adapter, keys: Collection[str], loss: Callable[[], Tensor], use: Callable[[str, Tensor], None]
) -> None:
    """One pass forward and one backward. The model is left as it was, with the gradients that it had.

    Args:
        adapter: the model.
        keys: the weights and biases whose gradients are wanted.
        loss: runs the model and returns a number.
        use: called as `use(key, gradient)` for each key that the loss depends on, once a parameter that holds it.

    Raises:
        ValueError: if a weight is part of no parameter.
    """
    every = _parameters(adapter)
    read: dict[nn.Parameter, list[str]] = {}
    for key in keys:
        for parameter in _holders(adapter, key, every):
            read.setdefault(parameter, []).append(key)
    with ExitStack() as stack:
        for parameter in every:
            stack.callback(_put_back, parameter, parameter.requires_grad, parameter.grad)
            parameter.grad = None
            parameter.requires_grad_(parameter in read)
        for parameter, names in read.items():
            views = {name: adapter.parameter(name) for name in names}
            stack.callback(parameter.register_post_accumulate_grad_hook(_using(views, use)).remove)
        with torch.enable_grad():
            loss().backward()


def masks(adapter: Adapter, parts: Mapping[str, Bool[Tensor, "..."]]) -> dict[nn.Parameter, Bool[Tensor, "..."]]:
    """The parameters that hold these weights, and where in them: what to train if nothing else should change.

    Args:
        adapter: the model.
        parts: which entries of each weight, by key: a mask in the weight's shape, or one that expands to it.

    Raises:
        ValueError: if a weight is part of no parameter.
    """
    every = _parameters(adapter)
    found: dict[nn.Parameter, Tensor] = {}
    for key, part in parts.items():
        weight = adapter.parameter(key)
        for parameter in _holders(adapter, key, every):
            mask = found.setdefault(parameter, torch.zeros_like(parameter, dtype=torch.bool))
            offset = weight.storage_offset() - parameter.storage_offset()
            view = mask.as_strided(weight.shape, weight.stride(), offset)
            view |= part.to(view.device)
    return found


def holders(adapter: Adapter, keys: Collection[str]) -> dict[str, list[nn.Parameter]]:
    """The parameters of which each weight is a part: none for zeros that TransformerLens puts in a bias's place."""
    every = _parameters(adapter)
    return {key: [one for one in every if contains(one, adapter.parameter(key))] for key in keys}


def _parameters(adapter: Adapter) -> set[nn.Parameter]:
    modules = adapter.named_modules().values()
    return {one for module in modules for one in module._parameters.values() if one is not None}


def _holders(adapter: Adapter, key: str, every: Collection[nn.Parameter]) -> list[nn.Parameter]:
    """The parameters of which a weight is a part: a bridge has Q, K and V apart, and the tensor that holds all three.

    Raises:
        ValueError: if there is none.
    """
    weight = adapter.parameter(key)
    found = [parameter for parameter in every if contains(parameter, weight)]
    if not found:
        raise ValueError(f"{key} of {adapter.info.name!r} is part of no parameter, so no gradient reaches it")
    return found


def _using(views: dict[str, Tensor], use: Callable[[str, Tensor], None]) -> Callable[[Tensor], None]:
    """What is done with a parameter's gradient."""

    def hook(parameter: Tensor) -> None:
        assert parameter.grad is not None
        gradient = torch.empty_strided(parameter.shape, parameter.stride(), dtype=parameter.dtype).to(parameter.device)
        gradient.copy_(parameter.grad)
        parameter.grad = None
        for name, view in views.items():
            offset = view.storage_offset() - parameter.storage_offset()
            use(name, gradient.as_strided(view.shape, view.stride(), offset))

    return hook


def _put_back(parameter: nn.Parameter, required: bool, gradient: Tensor | None) -> None:
    parameter.requires_grad_(required)
    parameter.grad = gradient
