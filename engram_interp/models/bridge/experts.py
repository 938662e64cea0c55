"""The experts of a Mixtral-style mixture, whose matrices Hugging Face keeps in one tensor for all of them."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from engram_interp.models.base import PRE_HOOK, Hook, Record


def expert_weight(experts: Any, expert: int, name: str) -> Tensor | None:
    """A view of one expert's matrix in TransformerLens's shape; None where there is no such."""
    if experts is None or expert >= len(experts.down_proj):
        return None
    if name == "W_out":
        return experts.down_proj[expert].T
    gate, up = experts.gate_up_proj[expert].chunk(2)
    return {"W_gate": gate.T, "W_in": up.T}.get(name)


def experts_hook(experts: Any, layer: int, names: set[str], note: Record) -> Hook:
    """The input of each expert's matrices: the tokens sent to it, and what it makes of them in front of `W_out`."""

    def split(_module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
        given = dict(zip(("hidden_states", "top_k_index"), args, strict=False)) | kwargs
        x, sent = given["hidden_states"].flatten(0, -2), given["top_k_index"]
        for expert in range(len(experts.down_proj)):
            routed = (sent == expert).any(-1).nonzero().flatten()
            read, post = (f"blocks.{layer}.mlp.experts.{expert}.{kind}" for kind in ("in", "post"))
            if read in names:
                note(read, x[routed], routed)
            if post in names:
                note(post, experts._apply_gate(nn.functional.linear(x[routed], experts.gate_up_proj[expert])), routed)

    return experts, split, PRE_HOOK
