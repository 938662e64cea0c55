import pytest
import torch
from torch import nn

from engram_interp.models import adapt
from engram_interp.models.bridge.parts import wrapped
from engram_interp.models.memory import norms_and_embeddings, share_memory, shared
from tests.models.bridge.tiny import bridge


def test_views_share_memory_if_they_have_an_entry_in_common():
    whole = torch.zeros(4, 6)
    assert share_memory(whole, whole.T)
    assert share_memory(whole[:, 2:4], whole[1:2])
    assert not share_memory(whole[:, :3], whole[:, 3:])  # side by side, their ranges of memory cross
    assert not share_memory(whole[:2], whole[2:])
    assert not share_memory(whole, torch.zeros(4, 6))
    assert not share_memory(torch.zeros(0), torch.zeros(0))


def test_pairs_are_found_for_the_keys_alone():
    whole = torch.zeros(4, 6)
    tensors = {"a": whole[:2], "b": whole[1:3], "c": whole[2:], "d": torch.zeros(2)}
    assert list(shared(["b", "d"], tensors)) == [("b", "a"), ("b", "c")]
    assert list(shared([], tensors)) == []


def test_norms_and_embeddings_are_found_and_matrices_are_not():
    found = norms_and_embeddings(
        {"embed": nn.Embedding(3, 2), "blocks.0.ln1": nn.LayerNorm(2), "blocks.0.mlp.in": nn.Linear(2, 2)}
    )
    assert set(found) == {"embed.weight", "blocks.0.ln1.weight", "blocks.0.ln1.bias"}


def test_an_edit_that_would_reach_another_weight_is_refused_with_both_names():
    model = bridge("Llama")
    adapt(model).require_unshared(["blocks.0.mlp.W_in", "unembed.W_U"])
    one, other = (wrapped(block.mlp._modules["in"]) for block in model.blocks)
    other.weight = one.weight
    with pytest.raises(ValueError, match=r"blocks\.0\.mlp\.W_in and blocks\.1\.mlp\.W_in"):
        adapt(model).require_unshared(["blocks.0.mlp.W_in"])
    adapt(model).require_unshared(["blocks.0.mlp.W_out"])


def test_an_unembedding_that_is_the_embedding_is_no_hindrance():
    adapter = adapt(bridge("GPT-2"))
    assert share_memory(adapter.parameter("unembed.W_U"), adapter.W_E)
    adapter.require_unshared(["unembed.W_U"])
