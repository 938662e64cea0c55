"""Every recorded input, multiplied by its matrix, is what TransformerLens itself computed with that matrix."""

import pytest
import torch
from torch import nn

from engram_interp import collect, localize
from engram_interp.models import adapt
from engram_interp.models.components import ATTENTION
from engram_interp.models.sites import component_of, layer_of
from tests.conftest import VARIANTS, build, folded, hooked_only, token_concept, tokens
from tests.models.hooked.tiny import mixture, record

pytestmark = hooked_only


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
        product = inputs[site.input] @ site.layout.to_matrix(adapter.parameter(site.key)).T
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
    assert names in caplog.text
