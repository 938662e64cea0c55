"""Blocks that are built differently are refused by name, and the rest can be had."""

import pytest
import torch
from torch import nn

from engram_interp import extract
from tests.models.bridge.tiny import CONCEPT, bridge, of_config


def test_mixtures_with_shared_experts_are_refused_by_name_and_the_rest_can_be_had():
    model = of_config(
        "Qwen2MoeConfig", num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24,
        shared_expert_intermediate_size=24,
    )  # fmt: skip
    with pytest.raises(NotImplementedError, match="W_gate, W_in, W_out of 'tiny'.*MLP of layer 0.*mixture"):
        extract(model, CONCEPT)
    assert len(extract(model, CONCEPT, components=["Q", "K", "V", "O", "U"]).weight_norms) == 9


def test_latent_attention_is_refused_by_name():
    model = of_config(
        "DeepseekV3Config", num_key_value_heads=4, q_lora_rank=16, kv_lora_rank=16, qk_rope_head_dim=4, v_head_dim=8,
        qk_nope_head_dim=4, n_routed_experts=4, n_shared_experts=1, num_experts_per_tok=2, first_k_dense_replace=2,
        n_group=1, topk_group=1, moe_intermediate_size=24,
    )  # fmt: skip
    with pytest.raises(NotImplementedError, match=r"W_Q of 'tiny'.*layer 0.*Q, .*1 more"):
        extract(model, CONCEPT, components=["Q"])
    assert list(extract(model, CONCEPT, components="out")) == ["blocks.0.mlp.W_out", "blocks.1.mlp.W_out"]


def test_blocks_with_and_without_experts_stand_side_by_side():
    model = of_config(
        "Qwen3MoeConfig", num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24, head_dim=8,
        mlp_only_layers=[0],
    )  # fmt: skip
    keys = list(extract(model, CONCEPT, components="out").weight_norms)
    assert keys == ["blocks.0.mlp.W_out", *(f"blocks.1.mlp.experts.{expert}.W_out" for expert in range(4))]


def test_heads_of_another_size_than_configured_are_refused():
    model = bridge()
    model.cfg.d_head = 4
    with pytest.raises(NotImplementedError, match="layer 0.*Q.*32.*O.*32.*4 heads of 4"):
        extract(model, CONCEPT, components="Q")


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8])
def test_quantised_weights_are_refused_by_name(dtype):
    model = bridge()
    linear = model.blocks[1].mlp.gate.original_component
    linear.weight = nn.Parameter(linear.weight.detach().to(dtype), requires_grad=False)
    with pytest.raises(NotImplementedError, match=f"MLP of layer 1.*{dtype}.*unquantised"):
        extract(model, CONCEPT)


def test_the_remedy_names_what_there_is():
    model = of_config("Qwen2MoeConfig", num_experts=4, num_experts_per_tok=2)
    with pytest.raises(NotImplementedError, match=r"components=\['W_Q', 'W_K', 'W_V', 'W_O', 'W_U'\]"):
        extract(model, CONCEPT)
