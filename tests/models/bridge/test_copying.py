import gc

import pytest
import torch

from engram_interp import extract
from engram_interp.models import adapt
from tests.conftest import tokens
from tests.models.bridge.tiny import CONCEPT, bridge


@pytest.mark.parametrize("family", ["Llama", "GPT-2", "GPT-J"])
def test_a_copy_outlives_its_original(family):
    model, rows = bridge(family), tokens(3, 6)
    expected = model(rows)
    twin = adapt(model).copy()
    del model
    gc.collect()
    torch.testing.assert_close(twin(rows), expected, rtol=0, atol=0)


def test_an_edited_model_outlives_the_one_that_was_edited():
    model, rows = bridge("GPT-2"), tokens(3, 6)
    engram = extract(model, CONCEPT)
    with engram.ablated(model, 0.5):
        expected = model(rows)
    edited = engram.ablate(model, 0.5)
    del model
    gc.collect()
    torch.testing.assert_close(edited(rows), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("family", ["Llama", "GPT-2"])
def test_hooks_on_a_copy_see_the_copys_passes_alone(family):
    model, rows = bridge(family), tokens(3, 6)
    model.set_use_hook_mlp_in(True)
    twin = adapt(model).copy()
    seen = []
    name = "blocks.1.hook_mlp_in"
    for one in (model, twin):
        one.hook_dict[name].add_hook(lambda activation, hook, one=one: seen.append(one))
    twin(rows)
    assert seen
    assert all(one is twin for one in seen)
