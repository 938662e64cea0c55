import math

import pytest
import torch

import engram_interp as ei
from engram_interp import Concept, testbed
from engram_interp.engrams.rewriting import rewriting
from engram_interp.linalg.spectrum import spectrum
from engram_interp.models import adapt
from engram_interp.models.sites import component_of, to_matrix
from tests.conftest import build, tokens


def data(n_plus=3, n_minus=40, d=6, out=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    W, V = (torch.randn(out, size, generator=generator, dtype=torch.float64) for size in (d, n_plus))
    plus, minus = (torch.randn(d, n, generator=generator, dtype=torch.float64) for n in (n_plus, n_minus))
    return W, V, plus, minus


def test_the_papers_equation_32():
    W, V, plus, minus = data()
    kept = spectrum(plus @ plus.T + minus @ minus.T, 0.0)
    expected = (V @ plus.T + W @ minus @ minus.T) @ torch.linalg.pinv(plus @ plus.T + minus @ minus.T)
    torch.testing.assert_close(W + rewriting(W, V, plus, kept), expected)


def test_tabula_rasa_is_v_star_of_zero():
    W, V, plus, minus = data()
    kept = spectrum(plus @ plus.T + minus @ minus.T, 0.0)
    engram = W @ kept.soft_projector(plus @ plus.T)
    torch.testing.assert_close(rewriting(W, torch.zeros_like(V), plus, kept), -engram)


@pytest.mark.parametrize("weight", [0.1, 1.0, 30.0])
def test_a_weight_is_so_many_copies_of_the_target(weight):
    W, V, plus, minus = data()
    kept = spectrum(plus @ plus.T + minus @ minus.T, 0.0)
    heavy = weight * plus @ plus.T + minus @ minus.T
    expected = (weight * V @ plus.T + W @ minus @ minus.T) @ torch.linalg.inv(heavy)
    torch.testing.assert_close(W + rewriting(W, V, plus, kept, weight), expected)


def test_one_key_without_bound_is_romes_rank_one_update():
    W, V, plus, minus = data(n_plus=1)
    C = minus @ minus.T
    k, v = plus[:, 0], V[:, 0]
    step = torch.linalg.solve(C, k)
    rome = W + torch.outer(v - W @ k, step) / (k @ step)
    kept = spectrum(plus @ plus.T + C, 0.0)
    found = W + rewriting(W, V, plus, kept, math.inf)
    torch.testing.assert_close(found, rome)
    torch.testing.assert_close(found @ k, v)
    torch.testing.assert_close(W + rewriting(W, V, plus, kept, 1e9), rome, rtol=1e-5, atol=1e-6)


def test_without_bound_every_output_is_as_chosen_and_nothing_else_moves_more_than_it_must():
    W, V, plus, minus = data()
    kept = spectrum(plus @ plus.T + minus @ minus.T, 0.0)
    change = rewriting(W, V, plus, kept, math.inf)
    torch.testing.assert_close((W + change) @ plus, V)
    # Any other exact change moves the reference more: add what leaves the target alone.
    null = torch.eye(6, dtype=torch.float64) - plus @ torch.linalg.pinv(plus)
    other = change + 0.1 * torch.randn(4, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64) @ null
    torch.testing.assert_close((W + other) @ plus, V)
    assert (change @ minus).norm() < (other @ minus).norm()


def test_the_same_key_twice_is_no_obstacle():
    W, V, plus, minus = data(n_plus=2)
    plus, V = plus[:, [0, 0]], V[:, [0, 0]]
    kept = spectrum(plus @ plus.T + minus @ minus.T, 0.0)
    torch.testing.assert_close((W + rewriting(W, V, plus, kept, math.inf)) @ plus, V)


@pytest.mark.parametrize("weight", [0, -1.0, float("nan")])
def test_a_weight_is_above_zero(weight):
    W, V, plus, _ = data()
    with pytest.raises(ValueError, match="weight is how much the target counts against the reference"):
        rewriting(W, V, plus, spectrum(plus @ plus.T), weight)


@pytest.mark.parametrize("variant", ["llama", "gpt2"])
def test_zero_values_are_the_engram(variant):
    model = build(variant)
    concept = Concept.from_tokens(tokens(6, 7), tokens(20, 9))
    keys = ["blocks.1.attn.W_Q", "blocks.0.mlp.W_out"]
    adapter = adapt(model)
    n = 6 * 7
    values = {key: torch.zeros(n, len(to_matrix(component_of(key), adapter.parameter(key)))) for key in keys}
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
    with pytest.raises(ValueError, match="each example needs one to be like, with as many counted tokens"):
        ei.values_like(full, [one.example], [(other.question, "in")], layer=3)
    with pytest.raises(ValueError, match="each example needs one to be like"):
        ei.values_like(full, [one.example], [other.example, other.example], layer=3)


def test_what_is_not_written_as_it_is_put_out_is_refused():
    model = build("post_norm")
    examples = Concept.from_tokens(tokens(2, 4), tokens(2, 4)).target
    with pytest.raises(ValueError, match="changes it before it is added"):
        ei.values_like(model, examples, examples, layer=0)


def test_values_of_other_shapes_and_other_keys_are_refused(llama):
    concept = Concept.from_tokens(tokens(2, 4), tokens(6, 4))
    with pytest.raises(ValueError, match=r"values are \[8 16\], got \[7, 16\]"):
        ei.rewrite(llama, concept, {"blocks.1.mlp.W_out": torch.zeros(7, 16)})
    with pytest.raises(ValueError, match="the values of blocks.1.mlp.W_out are not finite"):
        ei.rewrite(llama, concept, {"blocks.1.mlp.W_out": torch.full((8, 16), torch.nan)})
    with pytest.raises(ValueError, match="has no matrix blocks.9.mlp.W_out"):
        ei.rewrite(llama, concept, {"blocks.9.mlp.W_out": torch.zeros(8, 16)})
    with pytest.raises(ValueError, match="one or more matrices by key, got none"):
        ei.rewrite(llama, concept, {})
