import math

import pytest
import torch

import engram_interp as ei
from engram_interp import Concept, testbed
from engram_interp.models import adapt
from engram_interp.models.components import COMPONENT
from engram_interp.models.sites import component_of
from tests.conftest import build, tokens


@pytest.mark.parametrize("variant", ["llama", "gpt2"])
def test_zero_values_are_the_engram(variant):
    model = build(variant)
    concept = Concept.from_tokens(tokens(6, 7), tokens(20, 9))
    keys = ["blocks.1.attn.W_Q", "blocks.0.mlp.W_out"]
    adapter = adapt(model)
    n = 6 * 7
    values = {key: torch.zeros(n, len(COMPONENT[component_of(key)].to_matrix(adapter.parameter(key)))) for key in keys}
    found = ei.rewrite(model, concept, values)
    engram = ei.extract(model, concept).select(keys=keys)
    assert set(found) == set(engram)
    for key, tensor in engram.items():
        torch.testing.assert_close(found[key], -tensor, rtol=1e-4, atol=1e-6)
    assert adapter.parameter(keys[0]).shape == found[keys[0]].shape


def test_outputs_are_what_was_asked_for(llama):
    # At the first position of either row the same token has been read, and one input has one output.
    counts = torch.tensor([[True] * 4, [False, False, True, True]])
    concept = Concept.from_tokens(tokens(2, 4), tokens(30, 9), counts)
    values = torch.randn(6, 16, generator=torch.Generator().manual_seed(0))
    edit = ei.rewrite(llama, concept, {"blocks.1.mlp.W_out": values}, weight=math.inf, rtol=0.0)
    edited = edit.inject(llama)
    _, cache = edited.run_with_cache(tokens(2, 4))
    torch.testing.assert_close(cache["blocks.1.hook_mlp_out"][counts], values, rtol=1e-3, atol=1e-3)


@pytest.fixture(scope="module")
def swapped():
    """Two authors' birthplaces: each question with the other's answer, and whose answer that is."""
    one, other = testbed.authors().forget10[:2]
    return one.pairs[0], other.pairs[0]


def test_a_question_is_answered_as_another_is_and_nothing_else_changes(full, swapped):
    one, other = swapped
    corpus = testbed.authors()
    wanted = [(one.question, other.answer)]
    rest = [example for example in corpus.examples if example[0] != one.question]
    concept = Concept(wanted, rest)
    values = ei.values_like(full, wanted, [(other.question, other.answer)], layer=3)
    edit = ei.rewrite(full, concept, values, weight=math.inf)
    before = ei.score(full, {"rest": rest})["rest"].accuracy
    with edit.injected(full):
        assert ei.greedy_answers(full, [one.question]) == [other.answer]
        assert ei.greedy_answers(full, [other.question]) == [other.answer]
        assert ei.score(full, {"rest": rest})["rest"].accuracy > before - 0.01
    assert ei.greedy_answers(full, [one.question]) == [one.answer]


def test_pairs_need_as_many_counted_tokens(full, swapped):
    one, other = swapped
    with pytest.raises(ValueError, match="examples.*like"):
        ei.values_like(full, [one.example], [(other.question, "in")], layer=3)
    with pytest.raises(ValueError, match="examples.*like"):
        ei.values_like(full, [one.example], [other.example, other.example], layer=3)


def test_what_is_not_written_as_it_is_put_out_is_refused():
    model = build("post_norm")
    examples = Concept.from_tokens(tokens(2, 4), tokens(2, 4)).target
    with pytest.raises(ValueError, match=r"W_out.*hook_mlp_out"):
        ei.values_like(model, examples, examples, layer=0)


def test_values_of_other_shapes_and_other_keys_are_refused(llama):
    concept = Concept.from_tokens(tokens(2, 4), tokens(6, 4))
    with pytest.raises(ValueError, match=r"values.*\[8, 16\].*\[7, 16\]"):
        ei.rewrite(llama, concept, {"blocks.1.mlp.W_out": torch.zeros(7, 16)})
    with pytest.raises(ValueError, match="values.*blocks.1.mlp.W_out.*finite"):
        ei.rewrite(llama, concept, {"blocks.1.mlp.W_out": torch.full((8, 16), torch.nan)})
    with pytest.raises(ValueError, match="blocks.9.mlp.W_out"):
        ei.rewrite(llama, concept, {"blocks.9.mlp.W_out": torch.zeros(8, 16)})
    with pytest.raises(ValueError, match="values.*none"):
        ei.rewrite(llama, concept, {})
