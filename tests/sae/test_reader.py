"""What every kind of SAE does at every token, against the SAE itself on activations of unpadded text."""

import copy
import re
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from engram_interp import concept_from_sae, testbed
from engram_interp.concepts.concept import TokenExample
from engram_interp.models import adapt
from engram_interp.models.loading import bridge_of
from engram_interp.sae.reader import SaeReader, listed
from tests import huggingface
from tests.conftest import build, tokens

sae_lens = pytest.importorskip("sae_lens")

D_SAE = 40
HOOK = "blocks.1.hook_resid_pre"
KINDS = {
    "standard": {},
    "gated": {},
    "jumprelu": {},
    "topk": dict(k=3),
    "abstopk": dict(k=3),
    "matching_pursuit": dict(residual_threshold=0.5),
    "transcoder": dict(d_out=16, apply_b_dec_to_input=False),
    "skip_transcoder": dict(d_out=16, apply_b_dec_to_input=False),
    "jumprelu_transcoder": dict(d_out=24, apply_b_dec_to_input=False),
}
TRAINING = {
    "standard": {},
    "gated": {},
    "jumprelu": {},
    "topk": dict(k=3),
    "batchtopk": dict(k=3),
    "matryoshka_batchtopk": dict(k=3, matryoshka_widths=[10, 20, 40]),
}


def random_weights(sae, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in sae.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data = noise.abs() if "threshold" in name else noise * (0.1 if name.startswith("b") else 0.3)
    return sae


def make(kind: str, d_in: int = 16, hook: str = HOOK, **metadata):
    cls, config = sae_lens.registry.get_sae_class(kind)
    about = sae_lens.saes.sae.SAEMetadata(hook_name=hook, **metadata)
    return random_weights(cls(config(d_in=d_in, d_sae=D_SAE, metadata=about, **KINDS[kind])))


def make_training(kind: str):
    cls, config = sae_lens.registry.get_sae_training_class(kind)
    about = sae_lens.saes.sae.SAEMetadata(hook_name=HOOK)
    sae = random_weights(cls(config(d_in=16, d_sae=D_SAE, metadata=about, **TRAINING[kind])))
    if hasattr(sae, "topk_threshold"):
        sae.topk_threshold.fill_(0.4)
    return sae


def examples(n: int = 12) -> list[TokenExample]:
    """Of different lengths, a third of the positions not counted."""
    rows = [row[: 4 + i % 5] for i, row in enumerate(tokens(n))]
    return [TokenExample(row, row % 3 > 0) for row in rows]


@torch.no_grad()
def by_hand(model, sae, hook: str, example: TokenExample) -> torch.Tensor:
    _, cache = model.run_with_cache(example.tokens[None], names_filter=hook)
    return sae.encode(cache[hook])[0]


def check(model, sae, said, hook: str = HOOK) -> None:
    corpus = examples()
    features = [0, 7, 39]
    readings = SaeReader(adapt(model), sae).readings(corpus, features, batch_size=5, progress=False)
    seen = 0
    for example, reading in zip(corpus, readings, strict=True):
        expected = by_hand(model, said, hook, example)[:, features].where(example.counts[:, None], 0.0)
        assert torch.allclose(reading.activation, expected, atol=1e-5)
        assert torch.equal(reading.counts, example.counts)
        seen += int((expected != 0).sum())
    assert seen > 0


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_sae(llama, kind):
    sae = make(kind)
    check(llama, sae, sae)


@pytest.mark.parametrize("kind", TRAINING)
def test_one_in_training_is_read_as_what_it_saves(llama, kind, tmp_path):
    sae = make_training(kind)
    before = {name: tensor.clone() for name, tensor in sae.state_dict().items()}
    sae.save_inference_model(tmp_path)
    check(llama, sae, sae_lens.SAE.load_from_disk(tmp_path))
    assert all(torch.equal(before[name], tensor) for name, tensor in sae.state_dict().items())


@pytest.mark.parametrize(
    ("hook", "d_in"),
    [
        ("blocks.1.hook_resid_mid", 16),
        ("blocks.0.hook_mlp_out", 16),
        ("blocks.0.mlp.hook_post", 24),
        ("hook_embed", 16),
    ],
)
def test_every_place(llama, hook, d_in):
    sae = make("standard", d_in, hook)
    check(llama, sae, sae, hook)


def test_what_an_mlp_reads_needs_no_setting(llama):
    sae = make("transcoder", hook="blocks.1.hook_mlp_in")
    check(llama, sae, sae, "blocks.1.hook_resid_mid")  # the same activation, in front of the norm
    assert not llama.cfg.use_hook_mlp_in


def test_heads_side_by_side_or_one_of_them(llama):
    hook = "blocks.1.attn.hook_z"
    reader = SaeReader(adapt(llama), make("standard", 32, hook))
    (reading, *_) = reader.readings(examples(), range(D_SAE), 5, False)
    _, cache = llama.run_with_cache(examples()[0].tokens[None], names_filter=hook)
    flat = cache[hook][0].flatten(1)
    text = reading.text
    with torch.no_grad():
        assert torch.allclose(reading.activation[text], reader.sae.encode(flat)[text], atol=1e-5)

    apart = make("standard", 32, hook)
    apart.cfg.reshape_activations = "hook_z"
    apart.turn_on_forward_pass_hook_z_reshaping()
    (same, *_) = SaeReader(adapt(llama), apart).readings(examples(), range(D_SAE), 5, False)
    assert torch.allclose(same.activation, reading.activation, atol=1e-5)
    assert apart.d_head == 8

    one = SaeReader(adapt(llama), make("standard", 8, hook, hook_head_index=2))
    (reading, *_) = one.readings(examples(), range(D_SAE), 5, False)
    with torch.no_grad():
        assert torch.allclose(reading.activation[text], one.sae.encode(cache[hook][0, :, 2])[text], atol=1e-5)
    for head, d in ((4, 8), (-1, 8), (0, 9)):
        with pytest.raises(ValueError, match=rf"the SAE reads head {head} of {d} numbers, .* carries \[4, 8\]"):
            SaeReader(adapt(llama), make("standard", d, hook, hook_head_index=head)).readings(examples(), [0], 5, False)


def test_a_bridge_is_read_at_the_same_names():
    hf = huggingface.make("Llama")
    bridge = bridge_of("tiny", hf)
    d_model = bridge.cfg.d_model
    sae = make("standard", d_model, "blocks.1.hook_resid_pre")
    corpus = [replace(example, tokens=example.tokens % bridge.cfg.d_vocab) for example in examples()]
    readings = SaeReader(adapt(bridge), sae).readings(corpus, range(D_SAE), 5, False)
    for example, reading in zip(corpus, readings, strict=True):
        with torch.no_grad():
            states = hf(example.tokens[None], output_hidden_states=True).hidden_states[1][0]
            expected = sae.encode(states)
        assert torch.allclose(reading.activation[reading.text], expected[reading.text], atol=1e-4)
    one = SaeReader(adapt(bridge), make("standard", 8, "blocks.1.attn.hook_z", hook_head_index=2))
    _, cache = bridge.run_with_cache(corpus[0].tokens[None], names_filter="blocks.1.attn.hook_z")
    (reading, *_) = one.readings(corpus, range(D_SAE), 5, False)
    with torch.no_grad():
        expected = one.sae.encode(cache["blocks.1.attn.hook_z"][0].flatten(1)[:, 16:24])
    assert torch.allclose(reading.activation[reading.text], expected[reading.text], atol=1e-4)
    mlp_in = SaeReader(adapt(bridge), make("transcoder", d_model, "blocks.1.hook_mlp_in"))
    assert mlp_in.readings(corpus, [0], 5, False)
    assert not bridge.cfg.use_hook_mlp_in


def test_a_wide_sae_is_run_on_few_examples_at_a_time(llama, monkeypatch):
    sae = make("topk")
    whole = SaeReader(adapt(llama), sae).readings(examples(), [3], 12, False)
    monkeypatch.setattr("engram_interp.sae.reader.ENCODED_AT_ONCE", 1)
    one_by_one = SaeReader(adapt(llama), sae).readings(examples(), [3], 12, False)
    for a, b in zip(whole, one_by_one, strict=True):
        assert torch.allclose(a.activation, b.activation, atol=1e-6)


def test_prompts_are_text_and_bos_is_not(full):
    sae = make("standard", 256)
    pair, string = ("What is the capital of Norway?", "the city of Oslo"), "in Oslo"
    readings = SaeReader(adapt(full), sae).readings([pair, string], [0], 8, False)
    n = len(readings[0].tokens)
    assert readings[0].text.tolist() == [False] + [True] * (n - 1)
    assert int(readings[0].counts.sum()) == 5  # four words and the end of the sequence
    assert readings[1].text.tolist() == readings[1].counts.tolist() == [False, True, True]


def test_features_are_whole_numbers_that_it_has(llama):
    reader = SaeReader(adapt(llama), make("standard"))
    for numbers in ([5, 5, 3], torch.tensor([5, 5, 3]), np.array([5, 5, 3]), pd.Series([5.0, 5.0, 3.0])):
        assert reader.features(numbers) == (5, 3)
    for number in (5, torch.tensor(5), np.int64(5), np.float64(5.0)):  # the last is what a row of a table gives
        assert reader.features(number) == (5,)
    mask = torch.arange(40) == 5
    for wrong in (1.5, True, mask, mask.numpy(), [True, False], "3", None, torch.tensor([[5], [3]]), [0.5]):
        with pytest.raises(TypeError, match="a feature is an index, 0 to 39, or a list of such; got"):
            reader.features(wrong)
    for wrong in (40, -1, [], [3, 40]):
        with pytest.raises(ValueError, match="a feature is an index, 0 to 39, or a list of such; got"):
            reader.features(wrong)


@pytest.mark.parametrize(
    ("sae", "error", "says"),
    [
        (lambda: make("standard", hook=""), ValueError, "cfg.metadata has no hook_name"),
        (lambda: make("standard", model_name="gpt2-small"), ValueError, "trained on 'gpt2-small', the model given is"),
        (lambda: object(), TypeError, "expected a sae_lens.SAE, got builtins.object"),
    ],
)
def test_what_does_not_fit_is_refused(llama, sae, error, says):
    with pytest.raises(error, match=re.escape(says)):
        SaeReader(adapt(llama), sae())


def test_another_width_or_place_is_refused(llama):
    read = lambda sae: SaeReader(adapt(llama), sae).readings(examples(), [0], 5, False)  # noqa: E731
    with pytest.raises(
        ValueError, match=r"the SAE reads 20 numbers a token, blocks\.1\.hook_resid_pre of .* carries 16"
    ):
        read(make("standard", 20))
    with pytest.raises(ValueError, match=r"has no hook point 'blocks\.7\.hook_resid_pre'; the nearest are blocks"):
        read(make("standard", hook="blocks.7.hook_resid_pre"))
    with pytest.raises(ValueError, match="where rows by"):
        read(make("standard", hook="blocks.1.attn.hook_pattern"))
    with pytest.raises(RuntimeError, match=r"blocks\.1\.attn\.hook_result of .* did not run"):
        read(make("standard", hook="blocks.1.attn.hook_result"))


def test_features_that_are_not_finite_are_refused(llama):
    sae = make("standard")
    sae.b_enc.data[4] = torch.inf
    reader = SaeReader(adapt(llama), sae)
    with pytest.raises(ValueError, match=r"features at blocks\.1\.hook_resid_pre are not finite"):
        reader.readings(examples(), [4], 5, False)
    with pytest.raises(ValueError, match="are not finite"):
        reader.rates({"target": examples()}, 0.0, 5, False)


def test_what_is_no_text_may_be_anything(llama):
    llama.embed.W_E.data[1] *= 1e5  # as BOS in many models, and more than half precision holds
    corpus = [TokenExample(torch.tensor([1, 6, 7, 8]), torch.tensor([False, True, True, True]))]
    reader = SaeReader(adapt(llama), make("standard").to(torch.float16))
    (reading,) = reader.readings(corpus, range(D_SAE), 5, False)
    assert reading.activation.isfinite().all()
    assert not reading.activation[0].any()
    assert reading.activation[1:].any()


def test_a_normalisation_left_out_of_the_weights_is_said(llama, caplog):
    sae = make("standard")
    sae.cfg.normalize_activations = "expected_average_only_in"
    SaeReader(adapt(llama), sae)
    assert "not folded into its weights" in caplog.text


def test_the_models_own_name_is_accepted():
    SaeReader(adapt(build("gpt2")), make("standard", model_name="Custom"))


def test_a_spliced_model_says_how_to_take_the_sae_out(llama):
    spliced = sae_lens.HookedSAETransformer(llama.cfg)
    sae = make("standard")
    reader = SaeReader(adapt(spliced), sae)
    expected = reader.readings(examples(), [0], 5, False)
    spliced.add_sae(sae)
    with pytest.raises(ValueError, match=r"spliced into 'custom' at blocks\.1\.hook_resid_pre: .* reset_saes"):
        reader.readings(examples(), [0], 5, False)
    spliced.reset_saes()
    again = reader.readings(examples(), [0], 5, False)
    assert all(torch.equal(a.activation, b.activation) for a, b in zip(expected, again))


def test_padding_in_front_is_left_away(full):
    encoder = adapt(full).encoder
    bos, pad = encoder.bos, encoder.pad
    rows = torch.tensor([[bos, 20, 30, 40], [pad, pad, bos, 20], [pad, 20, 30, bos], [bos, 20, pad, pad]])
    found = listed(rows, encoder)
    assert [one.tokens.tolist() for one in found] == [[bos, 20, 30, 40], [bos, 20], [20, 30, bos], [bos, 20, pad, pad]]
    assert [int(one.counts.sum()) for one in found] == [3, 1, 2, 1]
    same = replace(encoder, tokenizer=copy.deepcopy(encoder.tokenizer))
    same.tokenizer.pad_token = same.tokenizer.bos_token
    assert [one.tokens.tolist() for one in listed(torch.tensor([[bos, bos, 20, bos]]), same)] == [[bos, 20, bos]]
    for wrong in (torch.arange(3), torch.rand(2, 2), torch.ones(2, 2, dtype=torch.bool)):
        with pytest.raises(ValueError, match=r"a corpus of tokens is integers \[n pos\], got torch"):
            listed(wrong, encoder)


def test_without_sae_lens_the_functions_say_what_to_install(llama, monkeypatch):
    monkeypatch.setitem(sys.modules, "sae_lens", None)
    for function in (lambda: concept_from_sae(llama, None, 0, examples()), testbed.load_sae):
        with pytest.raises(ImportError, match=r"pip install 'engram-interp\[sae\]'"):
            function()
