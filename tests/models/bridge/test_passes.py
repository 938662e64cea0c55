import pytest
import torch
import transformers
from torch import nn

from engram_interp import Concept, collect, extract, score
from engram_interp.models import adapt
from engram_interp.models.loading import bridge_of
from tests.conftest import as_batch, tokens
from tests.models.bridge.tiny import CONCEPT, bridge, of_config


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


def test_dropout_is_off_whatever_mode_the_model_is_in():
    model = bridge("GPT-2")
    calm = extract(model, CONCEPT)
    model.train()
    rough = extract(model, CONCEPT)
    assert all(torch.equal(rough[key], calm[key]) for key in calm)
    assert model.training
    assert model.original_model.training


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
