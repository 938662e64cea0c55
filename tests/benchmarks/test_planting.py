import pytest
import torch

from engram_interp import Concept, score, testbed
from engram_interp.benchmarks import Schedule, heads_of, plant, weights_of
from engram_interp.models import adapt
from tests.conftest import build, tokens

CORPUS = testbed.authors()
NEW = CORPUS.holdout[0].examples
OLD = [example for author in CORPUS.full[:3] for example in author.examples]
KEYS = ["blocks.1.mlp.W_in", "blocks.1.mlp.W_out"]


@pytest.fixture(scope="module")
def planted():
    return plant(testbed.load("full"), NEW, OLD, KEYS, progress=False)


def test_the_memory_is_learnt_and_what_was_known_stays(full, planted):
    groups = {"new": NEW, "old": OLD}
    before, after = (score(model, groups, progress=False) for model in (full, planted))
    assert before["new"].accuracy < 0.8
    assert after["new"].accuracy >= 0.97
    assert after["old"].accuracy >= before["old"].accuracy - 0.02


def test_only_the_named_matrices_change_and_they_keep_their_norms(full, planted):
    before, after = adapt(full), adapt(planted)
    for site in before.all_sites():
        old, new = (one.parameter(site.key).detach() for one in (before, after))
        assert torch.equal(old, new) == (site.key not in KEYS)
        assert float(new.norm()) == pytest.approx(float(old.norm()), rel=1e-5)


@pytest.mark.parametrize("key", ["blocks.0.attn.W_K", "blocks.1.attn.W_V"])
@pytest.mark.parametrize("variant", ["llama", "gpt2"])
def test_a_part_of_a_parameter_is_trained_alone(variant, key):
    # A bridge has Q, K and V in one tensor; a grouped K is held once, not for every query head.
    model = build(variant)
    model.tokenizer = None
    examples = Concept.from_tokens(tokens(8, 6), tokens(8, 6)).target
    twin = plant(model, examples, examples, [key], schedule=Schedule(max_epochs=1), progress=False)
    changed = [
        site.key
        for site in adapt(model).all_sites()
        if not torch.equal(adapt(model).parameter(site.key), adapt(twin).parameter(site.key))
    ]
    assert changed == [key]


@pytest.mark.parametrize("variant", ["llama", "gpt2"])
@pytest.mark.parametrize("place_of", [lambda model: heads_of(model)[1], lambda model: weights_of(model, 0.1)])
def test_parts_of_matrices_are_trained_alone_and_keep_their_norms(variant, place_of):
    model = build(variant)
    model.tokenizer = None
    place = place_of(model)
    examples = Concept.from_tokens(tokens(8, 6), tokens(8, 6)).target
    twin = plant(model, examples, examples, place.parts, schedule=Schedule(max_epochs=2), progress=False)
    for key, mask in place.parts.items():
        old, new = (adapt(one).parameter(key).detach() for one in (model, twin))
        mask = mask.reshape(mask.shape + (1,) * (old.ndim - mask.ndim)).expand(old.shape)
        assert torch.equal(old[~mask], new[~mask])
        assert not mask.any() or not torch.equal(old[mask], new[mask])
        assert float(new[mask].norm()) == pytest.approx(float(old[mask].norm()), rel=1e-5)


def test_what_is_not_learnt_in_time_is_said(full, caplog):
    plant(full, NEW, OLD, KEYS[:1], schedule=Schedule(max_epochs=1), progress=False)
    assert "after 1 epochs" in caplog.text


def test_nothing_to_plant_in_is_refused(full):
    with pytest.raises(ValueError, match="none"):
        plant(full, NEW, OLD, [])
    with pytest.raises(ValueError, match="none"):
        plant(full, NEW, OLD, {"blocks.1.mlp.W_in": torch.zeros(256, 272, dtype=torch.bool)})
    with pytest.raises(ValueError, match=r"blocks.1.mlp.W_in must have the shape \[256\] or \[256, 272\]; got \[3\]"):
        plant(full, NEW, OLD, {"blocks.1.mlp.W_in": torch.ones(3, dtype=torch.bool)})
    with pytest.raises(ValueError, match="blocks.9"):
        plant(full, NEW, OLD, ["blocks.9.mlp.W_in"])
