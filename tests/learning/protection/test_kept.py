import pytest
import torch

import engram_interp as ei
from engram_interp.learning.protection.kept import COUNTED, EVERY, kept_of, token_shares
from engram_interp.models import adapt
from engram_interp.options import Run, Which
from tests.conftest import build, token_concept, tokens


def test_every_position_is_kept_also_the_first():
    model, concept = build("llama"), token_concept(4)
    every, counted = (kept_of(adapt(model), concept, how, Which(), Run()) for how in (EVERY, COUNTED))
    assert every.statistics.counts == {"target": 4 * 9, "reference": 8 * 11}
    assert counted.statistics.counts == ei.collect(model, concept).counts
    assert every.concept is concept


def test_several_concepts_are_told_apart_from_what_is_in_no_target():
    one = ei.Concept.from_tokens(tokens(2, seed=1), tokens(6, seed=2), name="one")
    other = ei.Concept(one.reference[:3], one.reference, "other", positions="answer")
    kept = kept_of(adapt(build("llama")), [one, other], EVERY, Which(), Run())
    assert kept.statistics.counts == {"target": 5 * 9, "reference": 3 * 9}
    assert kept.concept.name == "one + other"


def test_statistics_are_added_and_kept_as_they_are():
    model = build("llama")
    one, other = (ei.collect(model, token_concept(4, seed=seed)) for seed in (1, 2))
    kept = kept_of(adapt(model), [one, other], EVERY, Which(), Run())
    assert kept.statistics.counts["target"] == one.counts["target"] + other.counts["target"]
    with pytest.raises(TypeError, match="together"):
        kept_of(adapt(model), [one, token_concept(4)], EVERY, Which(), Run())


def test_a_token_is_owned_by_where_it_occurs():
    model = build("llama")
    target, reference = torch.tensor([[3, 4, 4]]), torch.tensor([[4, 5, 6], [7, 7, 7]])
    shares = token_shares(adapt(model), ei.Concept.from_tokens(target, reference))
    # 4 occurs twice in the target and once in the reference; 9 nowhere.
    assert [round(float(shares[token]), 4) for token in (3, 4, 5, 9)] == [1, 0.6667, 0, 0]
    assert token_shares(adapt(model), None) is None
