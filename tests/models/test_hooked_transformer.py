"""Every recorded input, multiplied by its matrix, is what TransformerLens itself computed with that matrix."""

import pytest
import torch
from torch import nn

from engram_interp import Concept, collect, extract, localize, names_filter
from engram_interp.concepts.concept import Batch
from engram_interp.models import adapt
from engram_interp.models.base import Adapter
from engram_interp.models.sites import ATTENTION, component_of, layer_of, to_matrix
from tests.conftest import VARIANTS, as_batch, build, folded, hooked_only, token_concept, tokens

pytestmark = hooked_only


def record(adapter: Adapter, rows: torch.Tensor) -> dict[str, torch.Tensor]:
    seen: dict[str, torch.Tensor] = {}
    inputs = {site.input for site in adapter.sites()}
    adapter.run(as_batch(rows), inputs, lambda name, x, _routed: seen.__setitem__(name, x.detach().clone()))
    return seen


def product_hook(key: str, gated: bool) -> str | None:
    """The hook point that carries the product of a matrix."""
    block = f"blocks.{layer_of(key)}"
    return {
        "W_Q": f"{block}.attn.hook_q",
        "W_K": f"{block}.attn.hook_k",
        "W_V": f"{block}.attn.hook_v",
        "W_gate": f"{block}.mlp.hook_pre",
        "W_in": f"{block}.mlp.{'hook_pre_linear' if gated else 'hook_pre'}",
        "W_O": f"{block}.hook_attn_out",
        "W_out": f"{block}.hook_mlp_out",
    }.get(component_of(key))


def check_products(model: nn.Module) -> None:
    adapter, rows = adapt(model), tokens(3, 7)
    logits, cache = model.run_with_cache(rows)
    inputs = record(adapter, rows)
    cfg = model.cfg
    normed_after = cfg.use_normalization_before_and_after or cfg.original_architecture == "Olmo2ForCausalLM"
    n_checked = 0
    for site in adapter.sites():
        if site.component in ("W_O", "W_out") and normed_after:
            continue
        product = inputs[site.input] @ to_matrix(site.component, adapter.parameter(site.key)).T
        if site.bias is not None:
            product = product + adapter.parameter(site.bias).flatten()
        hook = product_hook(site.key, cfg.gated_mlp)
        actual = logits if hook is None else cache[hook]
        if hook is None and cfg.output_logits_soft_cap > 0:
            product = cfg.output_logits_soft_cap * torch.tanh(product / cfg.output_logits_soft_cap)
        actual = actual.flatten(2) if site.component in ATTENTION else actual
        torch.testing.assert_close(product, actual, rtol=1e-4, atol=1e-5)
        n_checked += 1
    assert n_checked >= 4 * cfg.n_layers


@pytest.mark.parametrize("variant", VARIANTS)
def test_inputs_are_what_the_matrices_multiply(variant):
    check_products(build(variant))


@pytest.mark.parametrize("variant", ["llama", "gpt2", "parallel", "attn_only", "sandwich"])
def test_inputs_are_what_the_matrices_multiply_after_processing(variant):
    model = folded(build(variant))
    assert adapt(model).info.processing.startswith("folded")
    check_products(model)


@pytest.mark.parametrize("setting", ["use_attn_result", "use_hook_mlp_in", "ungroup_grouped_query_attention"])
def test_settings_that_add_hooks_change_nothing(setting):
    model = build("llama")
    before = record(adapt(model), tokens(2, 5))
    getattr(model, f"set_{setting}")(True)
    after = record(adapt(model), tokens(2, 5))
    for name in before:
        torch.testing.assert_close(after[name], before[name])


def test_the_gated_bias_is_added_behind_the_gate_and_is_no_bias_of_W_in():
    biases = {site.component: site.bias for site in adapt(build("llama")).sites(layers=0)}
    assert biases["W_in"] is None
    assert biases["W_gate"] is None
    assert biases["W_out"] == "blocks.0.mlp.b_out"


def test_grouped_keys_and_values_live_in_the_unrepeated_parameters():
    model = build("llama")
    adapter = adapt(model)
    assert adapter.parameter("blocks.0.attn.W_K") is model.blocks[0].attn._W_K
    assert adapter.parameter("blocks.0.attn.b_V") is model.blocks[0].attn._b_V
    assert adapter.parameter("blocks.0.attn.W_K").shape == (2, 16, 8)


def test_the_pass_stops_at_the_last_block_that_is_asked_for_and_never_unembeds(monkeypatch):
    model = build("llama")
    ran = []
    for index, block in enumerate(model.blocks):
        block.register_forward_hook(lambda *_, index=index: ran.append(index))
    model.unembed.register_forward_hook(lambda *_: ran.append("unembed"))
    adapt(model).run(as_batch(tokens(2, 4)), ["blocks.0.mlp.in"], lambda *_: None)
    assert ran == [0]
    record(adapt(model), tokens(2, 4))
    assert ran == [0, 0, 1]


def test_predictions_are_the_models_logits(any_model):
    rows = tokens(3, 6)
    at = torch.zeros(3, 6, dtype=torch.bool)
    at[0, 2] = at[2, 5] = True
    adapter = adapt(any_model)
    logits = adapter.unembed(adapter.final(as_batch(rows), at))
    torch.testing.assert_close(logits, any_model(rows)[at], rtol=1e-4, atol=1e-5)


def test_what_comes_next_needs_no_second_look_at_what_was_seen(any_model):
    adapter, rows = adapt(any_model), tokens(2, 7)
    first, seen = adapter.next_logits(rows[:, :4])
    second, seen = adapter.next_logits(rows[:, 4:6], seen)
    third, _ = adapter.next_logits(rows[:, 6:], seen)
    with torch.no_grad():
        logits = any_model(rows)
    for found, position in ((first, 3), (second, 5), (third, 6)):
        torch.testing.assert_close(found, logits[:, position], atol=1e-4, rtol=1e-4)


def test_padding_changes_nothing_also_for_a_tokenizer_that_pads_on_the_left(full):
    # A first token that is also the padding token, which TransformerLens would take for padding on the left.
    rows = torch.cat([torch.full((1, 1), full.tokenizer.pad_token_id), tokens(1, 5, d_vocab=900)], dim=1)
    padded = torch.cat([rows, torch.full((1, 3), full.tokenizer.pad_token_id)], dim=1)
    real = torch.arange(9)[None] < 6
    batch = Batch(padded, real, real, *torch.zeros(2, 1, dtype=torch.long), ("x",))
    seen: dict[str, dict[str, torch.Tensor]] = {"bare": {}, "padded": {}}
    adapter = adapt(full)
    inputs = [site.input for site in adapter.sites()]
    plain: dict[str, torch.Tensor] = {}
    adapter.run(as_batch(rows), inputs, lambda key, x, _: plain.__setitem__(key, x))
    full.tokenizer.padding_side = "left"
    try:
        for name, given in (("bare", as_batch(rows)), ("padded", batch)):
            adapter.run(given, inputs, lambda key, x, _, name=name: seen[name].__setitem__(key, x))
    finally:
        full.tokenizer.padding_side = "right"
    for key, bare in seen["bare"].items():
        torch.testing.assert_close(bare, plain[key], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(seen["padded"][key][:, :6], bare, rtol=1e-4, atol=1e-5)


def test_hooks_are_gone_after_the_pass_also_after_an_error():
    model = build("llama")

    def fail(*_):
        raise RuntimeError("stop here")

    with pytest.raises(RuntimeError, match="stop here"):
        adapt(model).run(as_batch(tokens(2, 4)), ["blocks.0.attn.in", "blocks.1.mlp.post"], fail)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_an_input_whose_module_does_not_run_is_an_error(monkeypatch):
    model = build("llama")
    monkeypatch.setattr(model.blocks[1], "apply_mlp", lambda x: x)
    with pytest.raises(RuntimeError, match=r"no activation was seen for blocks\.1\.mlp\.in, blocks\.1\.mlp\.post"):
        collect(model, Concept.from_tokens(tokens(), tokens(seed=2)))


@pytest.mark.parametrize("flag", ["use_split_qkv_input", "use_attn_in"])
def test_inputs_split_by_head_are_refused(flag):
    model = build("gpt2")
    getattr(model, f"set_{flag}")(True)
    with pytest.raises(ValueError, match=f"{flag} is on, .*: call model.set_{flag}\\(False\\) first"):
        collect(model, Concept.from_tokens(tokens(), tokens(seed=2)))


def test_quantised_weights_are_refused():
    model = build("llama")
    model.cfg.load_in_4bit = True
    with pytest.raises(ValueError, match="quantised to 4 bits, .*: load it unquantised"):
        extract(model, Concept.from_tokens(tokens(), tokens(seed=2)))


def test_a_model_on_another_device_than_it_says_is_refused():
    model = build("llama")
    model.cfg.device = "cuda"
    with pytest.raises(
        ValueError, match=r"cfg.device is 'cuda', but its parameters are on 'cpu': .*model.to\('cuda'\)"
    ):
        collect(model, Concept.from_tokens(tokens(), tokens(seed=2)))


def mixture(**overrides) -> nn.Module:
    llama_like = dict(normalization_type="RMS", positional_embedding_type="rotary", rotary_dim=8, act_fn="silu")
    return build("gpt2", **{**llama_like, "gated_mlp": True, "num_experts": 4, "experts_per_token": 2, **overrides})


def test_every_expert_has_keys_of_its_own():
    model, concept = mixture(), token_concept()
    engram = extract(model, concept, components=["gate", "in", "out"])
    names = [
        f"blocks.{i}.mlp.experts.{e}.{name}" for i in (0, 1) for e in range(4) for name in ("W_gate", "W_in", "W_out")
    ]
    assert list(engram) == names
    assert engram["blocks.1.mlp.experts.3.W_out"].shape == (24, 16)
    assert list(engram.select("out", layers=0)) == [f"blocks.0.mlp.experts.{e}.W_out" for e in range(4)]
    logits = model(tokens())
    for key in names:
        with engram.ablated(model, alpha={key: 1.0}):
            assert not torch.equal(model(tokens()), logits), key


def test_experts_count_the_tokens_that_are_sent_to_them():
    statistics = collect(mixture(), token_concept())
    for layer in (0, 1):
        for group, n in statistics.counts.items():
            sent = [statistics.groups[group][f"blocks.{layer}.mlp.experts.{e}.in"].count for e in range(4)]
            assert sum(sent) == 2 * n
            assert max(sent) < n


def test_an_expert_that_nobody_is_sent_to_owns_nothing(caplog):
    model = mixture(n_layers=1)
    model.blocks[0].mlp.W_gate.weight.data[:] = 0  # all are equally probable, and the same two are always taken
    with caplog.at_level("WARNING", "engram_interp"):
        wmap = localize(model, token_concept(), components="out")
    idle = [expert for expert, wnorm in enumerate(wmap.experts("out")[0].tolist()) if wnorm == 0]
    assert len(idle) == 2
    names = ", ".join(f"blocks.0.mlp.experts.{expert}.post" for expert in idle)
    assert f"no position that counts was sent to {names}: what reads it has no engram" in caplog.text


def test_a_cache_has_no_experts():
    with pytest.raises(NotImplementedError, match=r"a cache does not hold blocks\.0\.mlp\.experts\.0\.in: collect it"):
        names_filter(mixture())
    assert names_filter(mixture(), components="O") == ["blocks.0.attn.hook_z", "blocks.1.attn.hook_z"]


def test_padding_in_a_model_that_attends_both_ways_is_refused():
    model = build("gpt2", attention_dir="bidirectional")
    with pytest.raises(ValueError, match="attends in both directions, .*: give examples of one length"):
        collect(model, Concept.from_tokens(tokens(3, 5), tokens(3, 6)))
    assert collect(model, Concept.from_tokens(tokens(3, 5), tokens(3, 5))).counts == {"target": 15, "reference": 15}


def test_a_missing_parameter_is_named():
    with pytest.raises(ValueError, match=r"'.*' has no parameter blocks\.9\.mlp\.W_in"):
        adapt(build("llama")).parameter("blocks.9.mlp.W_in")
