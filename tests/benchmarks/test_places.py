import pytest
import torch

from engram_interp.benchmarks import heads_of, matrices_of, modules_of, weights_of
from engram_interp.models import adapt
from tests.conftest import build


def test_modules(full):
    places = modules_of(full)
    assert [place.name for place in places][:3] == ["MLP 0", "attention 0", "MLP 1"]
    assert places[2].keys == {f"blocks.1.mlp.{name}" for name in ("W_gate", "W_in", "W_out")}
    assert len(places) == 8


def test_two_modules_at_once(full):
    first, second = modules_of(full)[1:3]
    both = first & second
    assert both.keys == first.keys | second.keys
    assert (both.name, both.layer) == ("attention 0 and MLP 1", None)


def test_parts_are_not_joined(full):
    with pytest.raises(ValueError, match="head 0.0"):
        heads_of(full)[0] & modules_of(full)[0]


def test_matrices_are_those_of_the_blocks(full):
    places = matrices_of(full)
    assert len(places) == 28  # 4 layers x 7, without the unembedding
    assert places[0].keys == {"blocks.0.attn.W_Q"}


def test_a_head_has_its_queries_and_the_keys_and_values_that_it_reads(full):
    # Eight query heads on two key/value heads: head 5 reads the second.
    place = heads_of(full)[8 + 5]
    assert (place.name, place.layer) == ("head 1.5", 1)
    assert place.keys == {f"blocks.1.attn.{name}" for name in ("W_Q", "W_K", "W_V", "W_O")}
    chosen = {key: mask.nonzero().flatten().tolist() for key, mask in place.parts.items()}
    assert {key: which for key, which in chosen.items() if which} == {
        "blocks.1.attn.W_Q": [5], "blocks.1.attn.W_K": [1], "blocks.1.attn.W_V": [1], "blocks.1.attn.W_O": [5],
    }  # fmt: skip
    assert len(chosen) == 16  # all layers are ranked


def test_weights_at_random():
    model = build("gpt2")
    place, again, other = (weights_of(model, 0.05, seed) for seed in (0, 0, 1))
    adapter = adapt(model)
    assert all(mask.shape == adapter.parameter(key).shape for key, mask in place.parts.items())
    drawn = torch.cat([mask.flatten() for mask in place.parts.values()])
    assert float(drawn.double().mean()) == pytest.approx(0.05, abs=4 * (0.05 * 0.95 / len(drawn)) ** 0.5)
    assert all(torch.equal(mask, again.parts[key]) for key, mask in place.parts.items())
    assert not all(torch.equal(mask, other.parts[key]) for key, mask in place.parts.items())


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1])
def test_a_share_of_nothing_or_all_is_refused(full, share):
    with pytest.raises(ValueError, match=str(share)):
        weights_of(full, share)
