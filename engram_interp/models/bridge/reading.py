"""Where in a `TransformerBridge`'s pass is each input seen, and in which cached activation?

A bridge is a Hugging Face model behind TransformerLens's names. Inputs are read in front of the Hugging Face module
that multiplies, `nn.Linear` or `Conv1D`, not at hook points: some of these do not run in compatibility mode.

| input | read in front of | in a cache |
|---|---|---|
| `blocks.i.attn.in` (Q, K, V) | `attn.q`'s module | `attn.q.hook_in` |
| `blocks.i.attn.z` (O) | `attn.o`'s module | `attn.hook_z` |
| `blocks.i.mlp.in` (gate, in) | `mlp.in`'s module | `mlp.in.hook_in` |
| `blocks.i.mlp.post` (out) | `mlp.out`'s module | `mlp.out.hook_in` |
| `blocks.i.mlp.experts.e.in` (gate, in) | `experts`, the tokens sent to expert `e` | |
| `blocks.i.mlp.experts.e.post` (out) | `experts`, computed as the expert does | |
| `unembed.in` (U) | `unembed`'s module | `unembed.hook_in` |

A gated MLP with processed weights multiplies without its modules. There `mlp.hook_in` and `mlp.out.hook_in` carry both
of its inputs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from torch import nn

from engram_interp.models.bridge.experts import experts_hook
from engram_interp.models.bridge.parts import experts_of, linears_of, multiplies_by_itself, name_prefix, wrapped
from engram_interp.models.components import COMPONENT
from engram_interp.models.hooks import HOOK, PRE_HOOK, Hook, Record, Stopped, blocks_needed
from engram_interp.models.lens import TransformerBridge
from engram_interp.models.sites import Input

_READERS = {"attn.in": "W_Q", "attn.z": "W_O", "mlp.in": "W_in", "mlp.post": "W_out"}
_CACHED = {
    "attn.in": "attn.q.hook_in",
    "attn.z": "attn.hook_z",
    "mlp.in": "mlp.{}in.hook_in",
    "mlp.post": "mlp.{}out.hook_in",
}


def hooks(model: TransformerBridge, inputs: Collection[Input], note: Record) -> Iterator[Hook]:
    """The hooks that pass inputs on."""
    of_experts: dict[int, list[Input]] = {}
    for one in inputs:
        if one.layer is None:
            yield _pre_hook(wrapped(model.unembed), one, note)
        elif one.expert is not None:
            of_experts.setdefault(one.layer, []).append(one)
        else:
            yield _hook(model.blocks[one.layer], one, note)
    for layer, own in of_experts.items():
        yield experts_hook(experts_of(model.blocks[layer]), own, note)


def _hook(block: nn.Module, one: Input, note: Record) -> Hook:
    component = _READERS[one.reads]
    place = COMPONENT[component].place
    if place == "mlp" and multiplies_by_itself(block):
        mlp: Any = block._modules["mlp"]
        point = mlp.hook_in if one.reads == "mlp.in" else mlp.out.hook_in
        return point, lambda _m, _args, activation: note(one, activation), HOOK
    return _pre_hook(linears_of(block, place)[component], one, note)


def _pre_hook(module: nn.Module, one: Input, note: Record) -> Hook:
    return module, lambda _m, args, _kwargs: note(one, args[0]), PRE_HOOK


def stop_after(model: TransformerBridge, inputs: Collection[Input]) -> Hook:
    """The hook that ends a pass once all inputs were seen. It must be added after the hooks that read them."""
    n = blocks_needed(inputs, len(model.blocks))
    # The unembedding's own module, not its bridge: the hook that reads its input is on it too, and runs first.
    stop = model.blocks[n] if n < len(model.blocks) else wrapped(model.unembed)

    def end(*_: object) -> None:
        raise Stopped

    return stop, end, PRE_HOOK


def cached_at(model: TransformerBridge, one: Input) -> str:
    """The hook point whose activation is an input."""
    if one.layer is None:
        return "unembed.hook_in"
    block = model.blocks[one.layer]
    if one.reads == "mlp.in" and multiplies_by_itself(block):
        return f"blocks.{one.layer}.mlp.hook_in"
    return f"blocks.{one.layer}.{_CACHED[one.reads].format(name_prefix(block._modules.get('mlp')))}"
