"""How is a `TransformerBridge` copied so that the copy runs with weights of its own?"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Mapping
from types import CellType, FunctionType
from typing import Any

from torch import Tensor, nn

from engram_interp.models.bridge.parts import linears_of, multiplies_by_itself
from engram_interp.models.lens import TransformerBridge


def modules_of(model: TransformerBridge) -> list[nn.Module]:
    """A bridge's modules and those of its Hugging Face model, which it does not count among its own."""
    return list(dict.fromkeys([*model.modules(), *model.original_model.modules()]))


def copied(model: TransformerBridge) -> TransformerBridge:
    """A copy that shares nothing with the model. Activations that the model itself keeps lose their graph."""
    _detach_kept_activations(model)
    twin = copy.deepcopy(model)
    twins = {id(one): other for one, other in zip(modules_of(model), modules_of(twin), strict=True)}
    for module in twins.values():
        for name, value in vars(module).items():
            if isinstance(value, FunctionType) and value.__closure__:
                setattr(module, name, _rebound(value, twins))
        for hooks in (module._forward_pre_hooks, module._forward_hooks):
            for number, hook in hooks.items():
                if isinstance(hook, FunctionType) and hook.__closure__:
                    hooks[number] = _rebound(hook, twins)
    return twin


def _detach_kept_activations(model: TransformerBridge) -> None:
    """The attention pattern of the last pass is kept with its graph, which cannot be copied."""
    for module in modules_of(model):
        for name, value in vars(module).items():
            if isinstance(value, Tensor) and not value.is_leaf:
                setattr(module, name, value.detach())


def _rebound(function: FunctionType, twins: Mapping[int, nn.Module]) -> FunctionType:
    """A function with the modules that it closes over replaced by their twins.

    TransformerLens gives some modules a `forward` of their own (Falcon's linear layers), and blocks hooks that keep
    activations in another module. A copy would share them with the original, and so run with the original's weights,
    write into the original, or fail when the original is gone.
    """
    cells = tuple(CellType(_twin_of(cell.cell_contents, twins)) for cell in function.__closure__ or ())
    rebound = FunctionType(function.__code__, function.__globals__, function.__name__, function.__defaults__, cells)
    rebound.__kwdefaults__ = function.__kwdefaults__
    return rebound


def _twin_of(held: Any, twins: Mapping[int, nn.Module]) -> Any:
    """A module's twin, or a weak reference to the twin of what a weak reference is to. Anything else is itself."""
    if not isinstance(held, weakref.ProxyTypes):
        return twins.get(id(held), held)
    one = held.__repr__.__self__  # a proxy passes on what is asked of it, but for its own class
    return weakref.proxy(twins[id(one)]) if id(one) in twins else held


def join_processed_weights(block: nn.Module) -> None:
    """Make a gated MLP multiply by its modules' own tensors. In a copied bridge, its processed ones are others."""
    if not multiplies_by_itself(block):
        return
    mlp: Any = block._modules["mlp"]
    for component, linear in linears_of(block, "mlp").items():
        for kind in ("W", "b"):
            tensor = linear.weight if kind == "W" else linear.bias
            if tensor is not None:
                setattr(mlp, f"_processed_{kind}_{component.removeprefix('W_')}", tensor.data)
