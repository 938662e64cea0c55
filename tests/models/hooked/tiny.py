"""Tiny mixtures, and everything that a model reads."""

import torch
from torch import nn

from engram_interp.models import Adapter
from tests.conftest import as_batch, build


def record(adapter: Adapter, rows: torch.Tensor) -> dict[str, torch.Tensor]:
    seen: dict[str, torch.Tensor] = {}
    inputs = {site.input for site in adapter.sites()}
    adapter.run(as_batch(rows), inputs, lambda name, x, _routed: seen.__setitem__(name, x.detach().clone()))
    return seen


def mixture(**overrides) -> nn.Module:
    llama_like = dict(normalization_type="RMS", positional_embedding_type="rotary", rotary_dim=8, act_fn="silu")
    return build("gpt2", **{**llama_like, "gated_mlp": True, "num_experts": 4, "experts_per_token": 2, **overrides})
