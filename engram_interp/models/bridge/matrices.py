"""Which matrices does a `TransformerBridge` have, what does each read, and which Hugging Face tensor holds it?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import einops
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from engram_interp.models.bridge.experts import expert_weight
from engram_interp.models.bridge.held import tensor_of, why_not_editable
from engram_interp.models.bridge.parts import (
    experts_of,
    linears_of,
    shape_of,
    unreadable_attention,
    unreadable_mlp,
    wrapped,
)
from engram_interp.models.components import ATTENTION, COMPONENT, MLP, UNEMBED
from engram_interp.models.experts import expert_sites
from engram_interp.models.lens import TransformerBridge
from engram_interp.models.memory import share_memory
from engram_interp.models.sites import Input, Site, component_of, expert_of, is_bias, is_key, layer_of, lens_site

_HEADS_APART = {
    "W_O": "(head d_head) d_model -> head d_head d_model",
    "W_Q": "d_model (head d_head) -> head d_model d_head",
    "b_Q": "(head d_head) -> head d_head",
}
_HEADS_APART |= dict.fromkeys(("W_K", "W_V"), _HEADS_APART["W_Q"])
_HEADS_APART |= dict.fromkeys(("b_K", "b_V"), _HEADS_APART["b_Q"])


def block_sites(model: TransformerBridge, layer: int) -> Iterator[Site]:
    """The matrices of one block."""
    block = model.blocks[layer]
    for component, linear in (linears_of(block, "attn") | linears_of(block, "mlp")).items():
        place = COMPONENT[component].place
        read = {"W_O": "z", "W_out": "post"}.get(component, "in")
        yield lens_site(component, layer, Input(f"{place}.{read}", layer), has_bias=linear.bias is not None)
    if (experts := experts_of(block)) is not None:
        yield from expert_sites(layer, len(experts.down_proj))


def unreadable(model: TransformerBridge) -> dict[tuple[str, int], str]:
    """Components of blocks that are not built of modules that multiply, and why."""
    found: dict[tuple[str, int], str] = {}
    for layer, block in enumerate(model.blocks):
        if why := unreadable_attention(block, model.cfg.n_heads, int(model.cfg.d_head)):
            found |= {(name, layer): f"layer {layer} {why}" for name in ATTENTION}
        if why := unreadable_mlp(block):
            found |= {(name, layer): f"the MLP of layer {layer} {why}" for name in MLP}
    return found


def find(model: TransformerBridge, key: str) -> Tensor | None:
    """A view of the tensor at a key, in TransformerLens's shape; None if the model has none."""
    if not is_key(key):
        return None
    name, layer, expert = key.rpartition(".")[2], layer_of(key), expert_of(key)
    if layer is not None and layer >= len(model.blocks):
        return None
    if layer is not None and expert is not None:
        return expert_weight(experts_of(model.blocks[layer]), expert, name)
    linear = _linear(model, component_of(key), layer)
    tensor = None if linear is None else tensor_of(linear, "bias" if is_bias(key) else "weight")
    if tensor is None:
        return None
    if not is_bias(key) and not isinstance(linear, Conv1D):
        tensor = tensor.T
    pattern = _HEADS_APART.get(name)
    return tensor if pattern is None else einops.rearrange(tensor, pattern, d_head=int(model.cfg.d_head))


def not_editable(model: TransformerBridge, keys: Iterable[str]) -> dict[str, str]:
    """The keys whose tensors cannot be edited, and why."""
    found = {}
    for key in filter(is_key, keys):
        layer, expert = layer_of(key), expert_of(key)
        linear = None if expert is not None else _linear(model, component_of(key), layer)
        if linear is not None and (why := why_not_editable(linear)) is not None:
            found[key] = why
    return found


def shape(model: TransformerBridge, site: Site) -> tuple[int, int] | None:
    """Outputs and inputs of a matrix, without reading it; None of an expert's."""
    linear = None if site.expert is not None else _linear(model, site.component, site.layer)
    return None if linear is None else shape_of(linear)


def _linear(model: TransformerBridge, component: str, layer: int | None) -> Any:
    if component == UNEMBED:
        return wrapped(model.unembed)
    if layer is None:
        return None
    return linears_of(model.blocks[layer], COMPONENT[component].place).get(component)


def untie(model: TransformerBridge) -> Callable[[], None]:
    """Give the unembedding a weight of its own if it is the embedding's.

    Returns:
        A function that ties the two again.
    """
    head = wrapped(model.unembed)
    tied = head.weight
    if not share_memory(tied, wrapped(model.embed).weight):
        return lambda: None
    head.weight = nn.Parameter(tied.detach().clone(), requires_grad=tied.requires_grad)

    def tie_again() -> None:
        head.weight = tied

    return tie_again
