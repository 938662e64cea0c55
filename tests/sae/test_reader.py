"""What every kind of SAE does at every token, against the SAE itself on activations of unpadded text."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from engram_interp.concepts.concept import TokenExample
from engram_interp.models import adapt
from engram_interp.models.loading import bridge_of
from engram_interp.options import Run
from engram_interp.sae.ranking import rates
from engram_interp.sae.reader import SaeReader
from tests import huggingface
from tests.sae.saes import D_SAE, KINDS, RUN, check, examples, make, sae_lens


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_sae(llama, kind):
    sae = make(kind)
    check(llama, sae, sae)


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
    (reading, *_) = reader.readings(examples(), range(D_SAE), RUN)
    _, cache = llama.run_with_cache(examples()[0].tokens[None], names_filter=hook)
    flat = cache[hook][0].flatten(1)
    text = reading.text
    with torch.no_grad():
        assert torch.allclose(reading.activation[text], reader.sae.encode(flat)[text], atol=1e-5)

    apart = make("standard", 32, hook)
    apart.cfg.reshape_activations = "hook_z"
    apart.turn_on_forward_pass_hook_z_reshaping()
    (same, *_) = SaeReader(adapt(llama), apart).readings(examples(), range(D_SAE), RUN)
    assert torch.allclose(same.activation, reading.activation, atol=1e-5)
    assert apart.d_head == 8

    one = SaeReader(adapt(llama), make("standard", 8, hook, hook_head_index=2))
    (reading, *_) = one.readings(examples(), range(D_SAE), RUN)
    with torch.no_grad():
        assert torch.allclose(reading.activation[text], one.sae.encode(cache[hook][0, :, 2])[text], atol=1e-5)
    for head, d in ((4, 8), (-1, 8), (0, 9)):
        with pytest.raises(ValueError, match=rf"head {head} of {d} .*\[4, 8\]"):
            SaeReader(adapt(llama), make("standard", d, hook, hook_head_index=head)).readings(examples(), [0], RUN)


def test_a_bridge_is_read_at_the_same_names():
    hf = huggingface.make("Llama")
    bridge = bridge_of("tiny", hf)
    d_model = bridge.cfg.d_model
    sae = make("standard", d_model, "blocks.1.hook_resid_pre")
    corpus = [replace(example, tokens=example.tokens % bridge.cfg.d_vocab) for example in examples()]
    readings = SaeReader(adapt(bridge), sae).readings(corpus, range(D_SAE), RUN)
    for example, reading in zip(corpus, readings, strict=True):
        with torch.no_grad():
            states = hf(example.tokens[None], output_hidden_states=True).hidden_states[1][0]
            expected = sae.encode(states)
        assert torch.allclose(reading.activation[reading.text], expected[reading.text], atol=1e-4)
    one = SaeReader(adapt(bridge), make("standard", 8, "blocks.1.attn.hook_z", hook_head_index=2))
    _, cache = bridge.run_with_cache(corpus[0].tokens[None], names_filter="blocks.1.attn.hook_z")
    (reading, *_) = one.readings(corpus, range(D_SAE), RUN)
    with torch.no_grad():
        expected = one.sae.encode(cache["blocks.1.attn.hook_z"][0].flatten(1)[:, 16:24])
    assert torch.allclose(reading.activation[reading.text], expected[reading.text], atol=1e-4)
    mlp_in = SaeReader(adapt(bridge), make("transcoder", d_model, "blocks.1.hook_mlp_in"))
    assert mlp_in.readings(corpus, [0], RUN)
    assert not bridge.cfg.use_hook_mlp_in


def test_a_wide_sae_is_run_on_few_examples_at_a_time(llama, monkeypatch):
    sae = make("topk")
    whole = SaeReader(adapt(llama), sae).readings(examples(), [3], Run(batch_size=12, progress=False))
    monkeypatch.setattr("engram_interp.sae.reader.ENCODED_AT_ONCE", 1)
    one_by_one = SaeReader(adapt(llama), sae).readings(examples(), [3], Run(batch_size=12, progress=False))
    for a, b in zip(whole, one_by_one, strict=True):
        assert torch.allclose(a.activation, b.activation, atol=1e-6)


def test_features_are_whole_numbers_that_it_has(llama):
    reader = SaeReader(adapt(llama), make("standard"))
    for numbers in ([5, 5, 3], torch.tensor([5, 5, 3]), np.array([5, 5, 3]), pd.Series([5.0, 5.0, 3.0])):
        assert reader.features(numbers) == (5, 3)
    for number in (5, torch.tensor(5), np.int64(5), np.float64(5.0)):  # the last is what a row of a table gives
        assert reader.features(number) == (5,)
    mask = torch.arange(40) == 5
    for wrong in (1.5, True, mask, mask.numpy(), [True, False], "3", None, torch.tensor([[5], [3]]), [0.5]):
        with pytest.raises(TypeError, match=r"feature.* 0 to 39.*got"):
            reader.features(wrong)
    for wrong in (40, -1, [], [3, 40]):
        with pytest.raises(ValueError, match=r"feature.* 0 to 39.*got"):
            reader.features(wrong)


def test_another_width_or_place_is_refused(llama):
    read = lambda sae: SaeReader(adapt(llama), sae).readings(examples(), [0], RUN)  # noqa: E731
    with pytest.raises(ValueError, match=r"20 .*blocks\.1\.hook_resid_pre.* 16"):
        read(make("standard", 20))
    with pytest.raises(ValueError, match=r"'blocks\.7\.hook_resid_pre'.*blocks"):
        read(make("standard", hook="blocks.7.hook_resid_pre"))
    with pytest.raises(ValueError, match=r"blocks\.1\.attn\.hook_pattern"):
        read(make("standard", hook="blocks.1.attn.hook_pattern"))
    with pytest.raises(RuntimeError, match=r"blocks\.1\.attn\.hook_result"):
        read(make("standard", hook="blocks.1.attn.hook_result"))


def test_features_that_are_not_finite_are_refused(llama):
    sae = make("standard")
    sae.b_enc.data[4] = torch.inf
    reader = SaeReader(adapt(llama), sae)
    with pytest.raises(ValueError, match=r"blocks\.1\.hook_resid_pre are not finite"):
        reader.readings(examples(), [4], RUN)
    with pytest.raises(ValueError, match="are not finite"):
        rates(reader, {"target": examples()}, 0.0, RUN)


def test_what_is_no_text_may_be_anything(llama):
    llama.embed.W_E.data[1] *= 1e5  # as BOS in many models, and more than half precision holds
    corpus = [TokenExample(torch.tensor([1, 6, 7, 8]), torch.tensor([False, True, True, True]))]
    reader = SaeReader(adapt(llama), make("standard").to(torch.float16))
    (reading,) = reader.readings(corpus, range(D_SAE), RUN)
    assert reading.activation.isfinite().all()
    assert not reading.activation[0].any()
    assert reading.activation[1:].any()


def test_a_spliced_model_says_how_to_take_the_sae_out(llama):
    spliced = sae_lens.HookedSAETransformer(llama.cfg)
    sae = make("standard")
    reader = SaeReader(adapt(spliced), sae)
    expected = reader.readings(examples(), [0], RUN)
    spliced.add_sae(sae)
    with pytest.raises(ValueError, match=r"'custom' at blocks\.1\.hook_resid_pre.* reset_saes"):
        reader.readings(examples(), [0], RUN)
    spliced.reset_saes()
    again = reader.readings(examples(), [0], RUN)
    assert all(torch.equal(a.activation, b.activation) for a, b in zip(expected, again))
