"""Where in a `HookedTransformer`'s pass is each input seen?

Inputs are read in front of the modules that multiply, not at the hook points whose names suggest them:
`ln1.hook_normalized` lacks the norm's gain unless the norm is folded, and `hook_mlp_in` and `hook_q_input` lie in front
of the norm.

| input | read at |
|---|---|
| `blocks.i.attn.in` (Q, K, V) | pre-hook of `blocks[i].attn` |
| `blocks.i.attn.z` (O) | output of `attn.hook_z`, heads side by side |
| `blocks.i.mlp.in` (gate, in) | pre-hook of `blocks[i].mlp` |
| `blocks.i.mlp.post` (out) | output of `mlp.hook_post` |
| `blocks.i.mlp.experts.e.in` (gate, in) | pre-hook of `mlp.experts[e]` |
| `blocks.i.mlp.experts.e.post` (out) | output of `mlp.experts[e].hook_post` |

A Shortformer adds positions to what Q and K read, not to what V reads, so V has an input `blocks.i.attn.v_in` there. An
expert reads the tokens that `mlp.hook_expert_indices` sends to it. `unembed.in` needs no hook: it is `ln_final` of the
last residual stream.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn
from transformer_lens import HookedTransformer

from engram_interp.models.hooks import HOOK, PRE_HOOK, Hook, Record
from engram_interp.models.sites import Input


def hooks(model: HookedTransformer, one: Input, note: Record) -> Iterator[Hook]:
    """The hooks that pass on one input of a block."""
    block = model.get_submodule(f"blocks.{one.layer}")
    if one.expert is not None:
        yield from _expert_hooks(block.get_submodule("mlp"), one, one.expert, note)
        return
    match one.reads:
        case "attn.in" | "attn.v_in":
            argument = "query_input" if one.reads == "attn.in" else "value_input"
            yield block.get_submodule("attn"), lambda _m, _args, kwargs: note(one, kwargs[argument]), PRE_HOOK
        case "attn.z":
            yield block.get_submodule("attn.hook_z"), lambda _m, _args, z: note(one, z.flatten(-2)), HOOK
        case "mlp.in":
            yield block.get_submodule("mlp"), lambda _m, args, _kwargs: note(one, args[0]), PRE_HOOK
        case _:
            yield block.get_submodule("mlp.hook_post"), lambda _m, _args, post: note(one, post), HOOK


def _expert_hooks(mlp: nn.Module, one: Input, expert: int, note: Record) -> Iterator[Hook]:
    """Which tokens are sent to an expert, then what it reads of them. The tokens keep the order of `torch.where`."""
    sent: list[Tensor] = []

    def route(_module: nn.Module, _args: object, indices: Tensor) -> None:
        sent[:] = [(indices == expert).T.nonzero()[:, 1]]

    yield mlp.get_submodule("hook_expert_indices"), route, HOOK
    module = mlp.get_submodule(f"experts.{expert}")
    if one.reads == "mlp.in":
        yield module, lambda _m, args, _kwargs: note(one, args[0], sent[0]), PRE_HOOK
    else:
        yield module.get_submodule("hook_post"), lambda _m, _args, post: note(one, post, sent[0]), HOOK
