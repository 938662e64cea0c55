import pytest
import torch

import engram_interp as ei
from engram_interp import testbed
from engram_interp.models import adapt
from tests.conftest import build


@pytest.fixture(scope="module")
def models():
    return {name: testbed.load(name) for name in ("base", "full", "retain")}


def test_it_is_the_difference_of_weights(models):
    found = ei.task_vector(models["full"], models["full"], models["base"])
    assert len(found) == 29
    for key, tensor in found.items():
        full, base = (adapt(models[name]).parameter(key) for name in ("full", "base"))
        torch.testing.assert_close(tensor, full.detach() - base.detach())


def test_taken_from_the_fine_tuned_model_it_leaves_the_base(models):
    vector = ei.task_vector(models["full"], models["full"], models["base"])
    edited = vector.ablate(models["full"])
    for key in vector:
        torch.testing.assert_close(
            adapt(edited).parameter(key), adapt(models["base"]).parameter(key), atol=1e-6, rtol=0
        )


def test_it_is_addressed_to_the_model_it_will_be_taken_from(models):
    vector = ei.task_vector(models["retain"], models["full"], models["base"], components=["Q", "gate"], layers=[1])
    assert list(vector) == ["blocks.1.attn.W_Q", "blocks.1.mlp.W_gate"]
    vector.ablate(models["retain"], 0.5)
    with pytest.raises(ValueError, match="fingerprint"):
        vector.ablate(models["base"])


def test_biases_go_along():
    one, other = build("gpt2"), build("gpt2")
    with torch.no_grad():
        adapt(one).parameter("blocks.0.attn.b_Q").add_(0.25)
    vector = ei.task_vector(one, one, other)
    bias = vector["blocks.0.attn.b_Q"]
    torch.testing.assert_close(bias, torch.full_like(bias, 0.25))


def test_models_of_other_shapes_are_refused(models):
    with pytest.raises(ValueError, match=r"\[.*\].*\[.*\]"):
        ei.task_vector(models["full"], build("llama"), models["base"], components="Q", layers=0)
