"""What a bridge can do wrong; that its inputs are right is in test_families.py."""

import pytest
import torch
import transformers
from torch import nn
from transformers import AutoModelForCausalLM

from engram_interp import Concept, collect, extract, score
from engram_interp.models import adapt
from engram_interp.models.loading import bridge_of
from tests import huggingface
from tests.conftest import as_batch, token_concept, tokens

CONCEPT = Concept.from_tokens(tokens(), tokens(seed=2))


def bridge(family: str = "Llama", **overrides) -> nn.Module:
    return bridge_of(f"tiny-{family}", huggingface.make(family, **overrides))


def of_config(name: str, **options) -> nn.Module:
    sizes = dict(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=48,
        vocab_size=60, max_position_embeddings=32, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    hf = AutoModelForCausalLM.from_config(getattr(transformers, name)(**{**sizes, **options})).eval()
    hf.config.architectures = [type(hf).__name__]
    return bridge_of("tiny", hf)


@pytest.mark.parametrize("flag", ["use_split_qkv_input", "use_attn_in"])
def test_inputs_split_by_head_are_refused(flag):
    model = bridge("GPT-2")
    getattr(model, f"set_{flag}")(True)
    with pytest.raises(ValueError, match=f"{flag} is on, .*: call model.set_{flag}\\(False\\) first"):
        collect(model, CONCEPT)


def test_an_input_whose_module_does_not_run_is_an_error():
    model = bridge()
    model.blocks[1].mlp.forward = lambda x: x
    with pytest.raises(RuntimeError, match=r"no activation was seen for blocks\.1\.mlp\.in, blocks\.1\.mlp\.post"):
        collect(model, CONCEPT)


def test_hooks_are_gone_after_the_pass_also_after_an_error():
    model = bridge()
    collect(model, CONCEPT)
    before = {module: len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()}

    def fail(*_):
        raise ValueError("stop here")

    with pytest.raises(ValueError, match="stop here"):
        adapt(model).run(as_batch(tokens(2, 4)), ["blocks.0.attn.in", "blocks.1.mlp.post"], fail)
    after = {module: len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()}
    assert after == before


def test_the_pass_stops_behind_the_last_block_that_is_asked_for_and_never_unembeds():
    model, ran = bridge(), []
    for index, block in enumerate(model.blocks):
        block.register_forward_hook(lambda *_, index=index: ran.append(index))
    model.unembed.register_forward_hook(lambda *_: ran.append("unembed"))
    collect(model, CONCEPT, layers=[0])
    assert set(ran) == {0}
    collect(model, CONCEPT)
    assert set(ran) == {0, 1}


@pytest.mark.parametrize("family", ["Llama", "Gemma-2", "GPT-J"])
def test_predictions_are_the_models_logits(family):
    model, rows = bridge(family), tokens(3, 6)
    at = torch.zeros(3, 6, dtype=torch.bool)
    at[0, 2] = at[2, 5] = True
    adapter = adapt(model)
    torch.testing.assert_close(
        adapter.unembed(adapter.final(as_batch(rows), at)), model(rows)[at], rtol=1e-4, atol=1e-5
    )


def test_logits_are_scaled_as_the_model_scales_them():
    # Granite divides its logits by 8, behind the unembedding.
    model, rows = of_config("GraniteConfig", logits_scaling=8.0), tokens(3, 6)
    everywhere = torch.ones(3, 6, dtype=torch.bool)
    adapter = adapt(model)
    found = adapter.unembed(adapter.final(as_batch(rows), everywhere)).view(3, 6, -1)
    torch.testing.assert_close(found, model(rows), rtol=1e-4, atol=1e-5)


def test_padding_changes_nothing():
    model = bridge("OPT")
    rows = tokens(6, 5)
    longer = Concept.from_tokens(tokens(6, 9), tokens(6, 9, seed=3))
    apart = extract(model, collect(model, Concept.from_tokens(rows, rows)) + collect(model, longer))
    shorter = Concept.from_tokens(rows, rows)
    mixed = Concept([*shorter.target, *longer.target], [*shorter.reference, *longer.reference])
    together = extract(model, mixed, batch_size=24)
    for key in apart:
        torch.testing.assert_close(together[key], apart[key], rtol=1e-3, atol=1e-4)


def test_mixtures_with_shared_experts_are_refused_by_name_and_the_rest_can_be_had():
    model = of_config(
        "Qwen2MoeConfig", num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24,
        shared_expert_intermediate_size=24,
    )  # fmt: skip
    with pytest.raises(
        NotImplementedError, match="cannot read W_gate, W_in, W_out of 'tiny': the MLP of layer 0 is a mix"
    ):
        extract(model, CONCEPT)
    assert len(extract(model, CONCEPT, components=["Q", "K", "V", "O", "U"]).weight_norms) == 9


def test_mixtures_without_them_are_read():
    model = of_config("Qwen3MoeConfig", num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24, head_dim=8)
    statistics = collect(model, token_concept())
    sent = [statistics.groups["target"][f"blocks.0.mlp.experts.{expert}.in"].count for expert in range(4)]
    assert sum(sent) == 2 * statistics.counts["target"]


def test_latent_attention_is_refused_by_name():
    model = of_config(
        "DeepseekV3Config", num_key_value_heads=4, q_lora_rank=16, kv_lora_rank=16, qk_rope_head_dim=4, v_head_dim=8,
        qk_nope_head_dim=4, n_routed_experts=4, n_shared_experts=1, num_experts_per_tok=2, first_k_dense_replace=2,
        n_group=1, topk_group=1, moe_intermediate_size=24,
    )  # fmt: skip
    with pytest.raises(
        NotImplementedError, match=r"cannot read W_Q of 'tiny': layer 0 has no separate Q, .* \(and 1 more\)"
    ):
        extract(model, CONCEPT, components=["Q"])
    assert list(extract(model, CONCEPT, components="out")) == ["blocks.0.mlp.W_out", "blocks.1.mlp.W_out"]


def test_blocks_with_and_without_experts_stand_side_by_side():
    model = of_config(
        "Qwen3MoeConfig", num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24, head_dim=8,
        mlp_only_layers=[0],
    )  # fmt: skip
    keys = list(extract(model, CONCEPT, components="out").weight_norms)
    assert keys == ["blocks.0.mlp.W_out", *(f"blocks.1.mlp.experts.{expert}.W_out" for expert in range(4))]


def test_dropout_is_off_whatever_mode_the_model_is_in():
    model = bridge("GPT-2")
    calm = extract(model, CONCEPT)
    model.train()
    rough = extract(model, CONCEPT)
    assert all(torch.equal(rough[key], calm[key]) for key in calm)
    assert model.training
    assert model.original_model.training


@pytest.mark.parametrize(
    ("done", "seen"),
    [
        (dict(fold_ln=False, center_writing_weights=False, center_unembed=False), "value-folded"),
        (dict(fold_ln=False, fold_value_biases=False, center_unembed=False), "centred"),
        (dict(fold_ln=False, fold_value_biases=False, center_writing_weights=False), "unembedding-centred"),
        (dict(center_writing_weights=False, center_unembed=False), "folded"),
        (dict(no_processing=True), "raw"),
    ],
)
def test_each_way_of_processing_is_told_from_the_others(done, seen):
    model = bridge("GPT-2")
    engram = extract(model, CONCEPT, components="in")
    model.enable_compatibility_mode(disable_warnings=True, **done)
    assert adapt(model).info.processing == seen
    if seen == "raw":
        assert engram.ablate(model)(tokens()).isfinite().all()
        return
    with pytest.raises(ValueError, match=f"from raw weights of 'tiny-GPT-2', the model given has {seen} weights"):
        engram.ablate(model)
    if seen != "value-folded":  # whose edited copies have value biases again
        again = extract(model, CONCEPT)
        assert adapt(again.ablate(model)).info == again.info


def test_a_model_that_is_no_stack_of_blocks_is_refused():
    model = bridge()
    del model._modules["blocks"]
    with pytest.raises(NotImplementedError, match="'tiny-Llama' has no blocks: only language models"):
        collect(model, CONCEPT)


def test_a_missing_parameter_is_named():
    adapter = adapt(bridge())
    for key in ("blocks.9.mlp.W_in", "blocks.0.attn.b_Q", "blocks.0.mlp.experts.0.W_in"):
        with pytest.raises(ValueError, match=f"'tiny-Llama' has no parameter {key}"):
            adapter.parameter(key)


def test_scores_are_those_of_the_logits():
    model, rows = bridge(), tokens(8, 6)
    loss = nn.functional.cross_entropy(model(rows)[:, :-1].flatten(0, 1), rows[:, 1:].flatten())
    found = score(model, {"x": Concept.from_tokens(rows, rows).target})["x"]
    assert found.loss == pytest.approx(loss.item(), rel=1e-5)
    assert found.n_tokens == 40


def test_the_first_gpt_stays_causal():
    # Its bridge attends to what comes after where it is given a mask, also one without padding.
    hf = transformers.OpenAIGPTLMHeadModel(
        transformers.OpenAIGPTConfig(n_embd=32, n_layer=2, n_head=4, vocab_size=60, n_positions=32)
    ).eval()  # fmt: skip
    hf.config.architectures = ["OpenAIGPTLMHeadModel"]
    rows = tokens(4, 7)
    with torch.no_grad():
        expected = hf(rows).logits.flatten(0, 1)
    adapter = adapt(bridge_of("tiny", hf))
    found = adapter.unembed(adapter.final(as_batch(rows), torch.ones(4, 7, dtype=torch.bool)))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_heads_of_another_size_than_configured_are_refused():
    model = bridge()
    model.cfg.d_head = 4
    with pytest.raises(NotImplementedError, match="layer 0 has Q of width 32 and O of width 32, not 4 heads of 4"):
        extract(model, CONCEPT, components="Q")


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8])
def test_quantised_weights_are_refused_by_name(dtype):
    model = bridge()
    linear = model.blocks[1].mlp.gate.original_component
    linear.weight = nn.Parameter(linear.weight.detach().to(dtype), requires_grad=False)
    with pytest.raises(NotImplementedError, match="MLP of layer 1 has quantised weights .*: load it unquantised"):
        extract(model, CONCEPT)


def test_the_remedy_names_what_there_is():
    model = of_config("Qwen2MoeConfig", num_experts=4, num_experts_per_tok=2)
    with pytest.raises(NotImplementedError, match=r"Pass components=\['W_Q', 'W_K', 'W_V', 'W_O', 'W_U'\], or layers"):
        extract(model, CONCEPT)


def test_counts_are_those_of_the_concept_also_of_experts_alone():
    model, concept = bridge("Mixtral"), token_concept()
    everything, alone = (collect(model, concept, components=names) for names in (None, "in"))
    assert alone.counts == everything.counts
    assert (alone + alone).counts == {group: 2 * count for group, count in alone.counts.items()}
