"""Which Hugging Face modules of a bridge's block multiply by its matrices, and which blocks are built differently?"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from engram_interp.models.bridge.held import is_bitsandbytes
from engram_interp.models.components import ATTENTION, MLP

LINEARS = {"W_Q": "q", "W_K": "k", "W_V": "v", "W_O": "o", "W_gate": "gate", "W_in": "in", "W_out": "out"}
UNQUANTISED = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
EXPERTS = {"gate_up_proj", "down_proj"}
LAYOUT = {"is_transposed": False, "is_concatenated": True, "has_bias": False, "has_post_expert_norm": False}
"""How Hugging Face describes experts that compute `down(gate(x) * up(x))` from `[expert out in]`, gate above up."""


def wrapped(component: Any) -> Any:
    """The Hugging Face module inside a bridge's component."""
    while isinstance(inner := getattr(component, "original_component", None), nn.Module):
        component = inner
    return component


def linears_of(block: nn.Module, place: str) -> dict[str, Any]:
    """The modules that multiply by a block's attention or MLP matrices, by component."""
    container = block._modules.get(place)
    if container is None or is_mixture(container):
        return {}
    names = ATTENTION if place == "attn" else MLP
    found = {name: wrapped(container._modules.get(name_prefix(container) + LINEARS[name])) for name in names}
    return {name: module for name, module in found.items() if multiplies(module)}


def name_prefix(mlp: nn.Module | None) -> str:
    """The prefix of the names of an MLP's modules. It is empty except in a dense block of a model with experts."""
    return "dense_" if getattr(mlp, "bound_dense", False) else ""


def multiplies_by_itself(block: nn.Module) -> bool:
    """Whether a block's gated MLP multiplies by its processed weights without its modules."""
    return bool(getattr(block._modules.get("mlp"), "_use_processed_weights", False))


def multiplies(module: object) -> bool:
    """Whether a module is a plain product with a weight (and a bias) that is not quantised, or can be read as if."""
    return isinstance(module, (nn.Linear, Conv1D)) and (module.weight.dtype in UNQUANTISED or is_bitsandbytes(module))


def quantised(container: nn.Module) -> str | None:
    """Why an attention or MLP cannot be read, if it has quantised weights; None if it has none."""
    for module in container.modules():
        if isinstance(module, (nn.Linear, Conv1D)) and not multiplies(module):
            return (
                f"has quantised weights ({module.weight.dtype}), from which no engram can be taken: load it unquantised"
            )
    return None


def is_mixture(mlp: nn.Module) -> bool:
    """Whether a block's MLP is a mixture of experts."""
    return "MoE" in type(mlp).__name__ and not getattr(mlp, "bound_dense", False)


def unreadable_attention(block: nn.Module, n_heads: int, d_head: int) -> str | None:
    """Why a block's attention cannot be read; None if it can.

    Args:
        block: the block.
        n_heads: how many query heads the configuration says it has.
        d_head: their width.
    """
    attention = block._modules.get("attn")
    if attention is None:
        return "has no attention"
    if reason := quantised(attention):
        return reason
    found = linears_of(block, "attn")
    if found.keys() < {*ATTENTION}:
        return f"has no separate Q, K, V and O ({type(attention).__name__})"
    widths = {name: shape_of(module)[name == "W_O"] for name, module in found.items()}
    if {widths["W_Q"], widths["W_O"]} != {n_heads * d_head}:
        return f"has Q of width {widths['W_Q']} and O of width {widths['W_O']}, not {n_heads} heads of {d_head}"
    if widths["W_K"] != widths["W_V"] or widths["W_K"] % d_head:
        return f"has K of width {widths['W_K']} and V of width {widths['W_V']}, not heads of {d_head}"
    return None


def shape_of(module: Any) -> tuple[int, int]:
    """Outputs and inputs of a linear module."""
    if is_bitsandbytes(module):
        return module.out_features, module.in_features
    shape = tuple(module.weight.shape)
    return (shape[1], shape[0]) if isinstance(module, Conv1D) else (shape[0], shape[1])


def unreadable_mlp(block: nn.Module) -> str | None:
    """Why a block's MLP cannot be read; None if it can, or if there is none."""
    mlp = block._modules.get("mlp")
    if mlp is None:
        return None
    if reason := quantised(mlp):
        return reason
    if experts_of(block) is not None:
        return None
    if is_mixture(mlp):
        return f"is a mixture of something else than Mixtral's experts ({type(wrapped(mlp)).__name__})"
    if not {"W_in", "W_out"} <= linears_of(block, "mlp").keys():
        return f"is not built of linear layers ({type(mlp).__name__})"
    return None


def experts_of(block: nn.Module) -> Any:
    """The module with all experts of a Mixtral-style mixture; None for other MLPs and mixtures."""
    mlp = block._modules.get("mlp")
    if mlp is None or not is_mixture(mlp):
        return None
    mixture = wrapped(mlp)
    experts = wrapped(mixture._modules.get("experts"))
    if not isinstance(experts, nn.Module) or {name for name, _ in experts.named_parameters()} != EXPERTS:
        return None
    layout = {name: getattr(experts, name, None) for name in LAYOUT}
    # A shared expert beside the routed ones would be left out without a word.
    return experts if layout == LAYOUT and {*mixture._modules} <= {"gate", "experts"} else None
