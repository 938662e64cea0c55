import pytest
import torch

from engram_interp.concepts.batches import batches
from engram_interp.concepts.concept import TokenExample
from engram_interp.models import adapt
from engram_interp.models.gradients import backward
from tests.conftest import build

TOKENS = torch.tensor([3, 7, 11, 2])


@pytest.mark.parametrize("variant", ["llama", "gpt2"])
def test_gradients_in_transformerlens_shape_are_those_of_finite_differences(variant):
    model = build(variant)
    adapter = adapt(model)
    (batch,) = batches({"x": [TokenExample(TOKENS, torch.ones(4).bool())]}, 1, False, "")
    keys = ["blocks.0.attn.W_Q", "blocks.0.attn.W_O", "blocks.1.mlp.W_in", "blocks.1.mlp.W_out"]
    found: dict[str, torch.Tensor] = {}
    backward(
        adapter, keys, lambda: adapter.logits(batch)[0, -1, 5], lambda key, gradient: found.update({key: gradient})
    )
    assert set(found) == set(keys)
    generator = torch.Generator().manual_seed(0)
    for key in keys:
        weight = adapter.parameter(key)
        direction = torch.randn(weight.shape, generator=generator)
        leads = []
        for step in (1e-2, -2e-2, 1e-2):
            with torch.no_grad():
                weight.add_(step * direction)
                leads.append(float(adapter.logits(batch)[0, -1, 5]))
        assert (leads[0] - leads[1]) / 2e-2 == pytest.approx(float((found[key] * direction).sum()), rel=0.02, abs=2e-3)


def test_a_weight_that_is_no_parameter_is_named(monkeypatch):
    model = build("llama")
    adapter = adapt(model)
    monkeypatch.setattr(adapter, "parameter", lambda key: torch.zeros(2, 2))
    with pytest.raises(ValueError, match=r"blocks\.0\.attn\.W_Q"):
        backward(adapter, ["blocks.0.attn.W_Q"], lambda: torch.zeros(()), lambda key, gradient: None)
