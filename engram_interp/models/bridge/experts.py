"""Where are a mixture's experts, whose matrices Hugging Face keeps in one tensor for all of them?"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import Tensor, nn

from engram_interp.models.hooks import PRE_HOOK, Hook, Record
from engram_interp.models.sites import Input


def expert_weight(experts: Any, expert: int, name: str) -> Tensor | None:
    """A view of one expert's matrix in TransformerLens's shape; None if there is no such expert or matrix."""
    if experts is None or expert >= len(experts.down_proj):
        return None
    if name == "W_out":
        return experts.down_proj[expert].T
    gate, up = experts.gate_up_proj[expert].chunk(2)
    return {"W_gate": gate.T, "W_in": up.T}.get(name)


def experts_hook(experts: Any, inputs: Collection[Input], note: Record) -> Hook:
    """The inputs of experts' matrices: the tokens sent to each, and what it makes of them in front of `W_out`."""
    by_expert: dict[int | None, list[Input]] = {}
    for one in inputs:
        by_expert.setdefault(one.expert, []).append(one)

    def split(_module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
        given = dict(zip(("hidden_states", "top_k_index"), args, strict=False)) | kwargs
        x, sent = given["hidden_states"].flatten(0, -2), given["top_k_index"]
        for expert, own in by_expert.items():
            routed = (sent == expert).any(-1).nonzero().flatten()
            for one in own:
                note(one, x[routed] if one.reads == "mlp.in" else _hidden(experts, expert, x[routed]), routed)

    return experts, split, PRE_HOOK


def _hidden(experts: Any, expert: int | None, x: Tensor) -> Tensor:
    return experts._apply_gate(nn.functional.linear(x, experts.gate_up_proj[expert]))
