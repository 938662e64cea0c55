import pytest
import torch

from engram_interp import extract
from engram_interp.models import adapt
from tests.conftest import build, hooked_only, token_concept, tokens
from tests.models.hooked.tiny import mixture

pytestmark = hooked_only


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


def test_a_missing_parameter_is_named():
    with pytest.raises(ValueError, match=r"blocks\.9\.mlp\.W_in"):
        adapt(build("llama")).parameter("blocks.9.mlp.W_in")
