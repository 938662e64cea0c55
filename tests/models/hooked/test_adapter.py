"""What a HookedTransformer can do wrong; that its inputs are right is in test_reading.py."""

import pytest
import torch

from engram_interp import Concept, collect, extract
from engram_interp.concepts.batches import Batch
from engram_interp.models import adapt
from engram_interp.models.sites import Input
from tests.conftest import as_batch, build, hooked_only, tokens
from tests.models.hooked.tiny import record

pytestmark = hooked_only


def test_the_pass_stops_at_the_last_block_that_is_asked_for_and_never_unembeds(monkeypatch):
    model = build("llama")
    ran = []
    for index, block in enumerate(model.blocks):
        block.register_forward_hook(lambda *_, index=index: ran.append(index))
    model.unembed.register_forward_hook(lambda *_: ran.append("unembed"))
    adapt(model).run(as_batch(tokens(2, 4)), [Input("mlp.in", 0)], lambda *_: None)
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
        adapt(model).run(as_batch(tokens(2, 4)), [Input("attn.in", 0), Input("mlp.post", 1)], fail)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_an_input_whose_module_does_not_run_is_an_error(monkeypatch):
    model = build("llama")
    monkeypatch.setattr(model.blocks[1], "apply_mlp", lambda x: x)
    with pytest.raises(RuntimeError, match=r"blocks\.1\.mlp\.in, blocks\.1\.mlp\.post"):
        collect(model, Concept.from_tokens(tokens(), tokens(seed=2)))


@pytest.mark.parametrize("flag", ["use_split_qkv_input", "use_attn_in"])
def test_inputs_split_by_head_are_refused(flag):
    model = build("gpt2")
    getattr(model, f"set_{flag}")(True)
    with pytest.raises(ValueError, match=f"{flag}.*model.set_{flag}\\(False\\)"):
        collect(model, Concept.from_tokens(tokens(), tokens(seed=2)))


def test_quantised_weights_are_refused():
    model = build("llama")
    model.cfg.load_in_4bit = True
    with pytest.raises(ValueError, match="load_in_4bit.*unquantised"):
        extract(model, Concept.from_tokens(tokens(), tokens(seed=2)))


def test_a_model_on_another_device_than_it_says_is_refused():
    model = build("llama")
    model.cfg.device = "cuda"
    with pytest.raises(ValueError, match=r"cfg.device.*'cuda'.*'cpu'.*model.to\('cuda'\)"):
        collect(model, Concept.from_tokens(tokens(), tokens(seed=2)))


def test_padding_in_a_model_that_attends_both_ways_is_refused():
    model = build("gpt2", attention_dir="bidirectional")
    with pytest.raises(ValueError, match="both directions"):
        collect(model, Concept.from_tokens(tokens(3, 5), tokens(3, 6)))
    assert collect(model, Concept.from_tokens(tokens(3, 5), tokens(3, 5))).counts == {"target": 15, "reference": 15}
