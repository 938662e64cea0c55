from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engram_interp import Concept, collect, extract
from engram_interp.linalg.total import Total
from engram_interp.models import adapt
from engram_interp.models.loading import bridge_of
from engram_interp.models.sites import is_bias
from tests import huggingface
from tests.conftest import build, folded, token_concept, tokens


def masked_tokens(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    rows = tokens(n, 12, d_vocab=60, seed=seed)
    return rows, rows % 5 > 1


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    found, expected = found.detach().double(), expected.detach().double()
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("family", ["Llama", "GPT-2"])
@pytest.mark.parametrize("n", [3, 60], ids=["rank deficient", "full rank"])
def test_every_engram_equals_brute_force_on_hugging_face_inputs(family, n):
    hf = huggingface.make(family)
    (target, target_mask), (reference, reference_mask) = masked_tokens(n, 1), masked_tokens(2 * n, 2)
    expected = huggingface.brute_force(hf, target, reference, target_mask, reference_mask)
    found = extract(bridge_of("tiny", hf), Concept.from_tokens(target, reference, target_mask, reference_mask))
    assert set(found) == set(expected)
    for key in expected:
        assert relative_error(found[key], expected[key]) < 1e-4, key


def extended(adapter, site, with_bias: bool) -> torch.Tensor:
    """The matrix of the formulas in float64, its bias as the last column."""
    W = site.layout.to_matrix(adapter.parameter(site.key).detach()).double()
    if not with_bias:
        return W
    return torch.cat([W, adapter.parameter(site.bias).detach().double().flatten()[:, None]], dim=1)


def test_ablating_all_of_it_leaves_what_the_reference_owns(any_model):
    # (W - W+) Pi = W S- (S+ + S-)^pinv, with Pi the directions that the data has: all of them, on full-rank data.
    statistics = collect(any_model, token_concept(n=120))
    engram = extract(any_model, statistics)
    adapter, edited = adapt(any_model), adapt(engram.ablate(any_model, alpha=1.0))
    n_full_rank = 0
    for site in adapter.sites():
        with_bias = site.bias is not None and site.bias in engram
        S = statistics.total(site.input).matrix(with_bias)
        S_minus = statistics.groups["reference"][site.input].matrix(with_bias)
        inverse = torch.linalg.pinv(S, rtol=len(S) * 2.0**-23, hermitian=True)
        found = extended(edited, site, with_bias) @ S @ inverse
        assert relative_error(found, extended(adapter, site, with_bias) @ S_minus @ inverse) < 1e-4, site.key
        n_full_rank += int(torch.linalg.matrix_rank(S)) == len(S)
    assert n_full_rank > 0


def test_folding_a_norm_moves_the_engram_with_the_weight():
    # Folding maps x -> x / w and W -> W diag(w); on full-rank data W+ -> W+ diag(w).
    raw = build("llama")
    processed = folded(raw)
    concept = token_concept(n=120)
    before, after = extract(raw, concept), extract(processed, concept)
    for layer in (0, 1):
        gain = raw.blocks[layer].ln2.w
        for component in ("W_gate", "W_in"):
            key = f"blocks.{layer}.mlp.{component}"
            assert relative_error(after[key], before[key] * gain[:, None]) < 1e-4


def test_the_same_call_gives_the_same_bits(llama):
    concept = token_concept()
    first, second = extract(llama, concept), extract(llama, concept)
    assert all(torch.equal(first[key], second[key]) for key in first)


@given(batch_size=st.integers(1, 120))
@settings(max_examples=8, deadline=None)
def test_the_batch_size_changes_rounding_only(batch_size):
    model, concept = build("gpt2"), token_concept()
    whole, split = extract(model, concept), extract(model, concept, batch_size=batch_size)
    for key in whole:
        assert relative_error(split[key], whole[key]) < 1e-4


def test_statistics_serve_in_place_of_the_concept(gpt2):
    concept = token_concept()
    direct, by_statistics = extract(gpt2, concept), extract(gpt2, collect(gpt2, concept))
    assert all(torch.equal(direct[key], by_statistics[key]) for key in direct)


def test_a_selection_is_the_same_engrams(any_model):
    concept = token_concept()
    everything, some = extract(any_model, concept), extract(any_model, concept, components=["Q", "O"], layers=[1])
    assert {key for key in some if not is_bias(key)} == {"blocks.1.attn.W_Q", "blocks.1.attn.W_O"}
    for key in some:
        assert relative_error(some[key], everything[key]) < 1e-5


def test_without_absorption_the_bias_stays_out(gpt2):
    concept = token_concept()
    absorbed, plain = extract(gpt2, concept), extract(gpt2, concept, absorb_bias=False)
    assert any(is_bias(key) for key in absorbed)
    assert not any(is_bias(key) for key in plain)
    assert relative_error(plain["blocks.1.mlp.W_out"], absorbed["blocks.1.mlp.W_out"]) > 1e-3


def test_a_model_without_biases_has_none_in_its_engram(llama):
    assert not any(is_bias(key) for key in extract(llama, token_concept()))


def test_the_cut_drops_directions(llama):
    concept = token_concept()
    full, coarse = extract(llama, concept), extract(llama, concept, rtol=0.3)
    key = "blocks.1.mlp.W_gate"
    assert torch.linalg.matrix_rank(coarse[key]) < torch.linalg.matrix_rank(full[key])
    with pytest.raises(ValueError, match=r"rtol.* 2\.0$"):
        extract(llama, concept, rtol=2.0)


@pytest.mark.parametrize("variant", ["llama", "gpt2"])
def test_delta_from_takes_the_engram_of_the_difference(variant):
    model, base, concept = build(variant), build(variant, seed=5), token_concept(n=120)
    statistics = collect(model, concept)
    delta = extract(model, statistics, delta_from=base)
    # The base model with the statistics of the model: W P - W_0 P = (W - W_0) P.
    own, bases = extract(model, statistics), extract(base, _of(base, statistics))
    for key in delta:
        assert relative_error(delta[key], own[key] - bases[key]) < 1e-4
    unmoved = extract(model, statistics, delta_from=model)
    assert all(not tensor.count_nonzero() for tensor in unmoved.values())
    assert unmoved.wnorm()["blocks.0.mlp.W_in"] == 0


def _of(model, statistics):
    return replace(statistics, info=adapt(model).info)


def test_delta_from_another_shape_or_processing_is_refused(llama):
    concept = token_concept()
    with pytest.raises(ValueError, match=r"blocks\.0\.mlp\.W_gate.*\[16, 24\].*\[16, 32\].*delta_from"):
        extract(llama, concept, delta_from=build("llama", d_mlp=32))
    with pytest.raises(ValueError, match="delta_from.*folded.*raw"):
        extract(llama, concept, delta_from=folded(llama))


def test_statistics_must_be_the_models_own_and_hold_what_is_asked(llama):
    statistics = collect(llama, token_concept(), components=["Q"], layers=[0])
    assert list(extract(llama, statistics)) == ["blocks.0.attn.W_Q"]
    assert list(extract(llama, statistics, components="K", layers=0)) == ["blocks.0.attn.W_K"]
    assert list(extract(llama, statistics, layers=0)) == ["blocks.0.attn.W_Q"]
    assert list(extract(llama, statistics, components="V")) == ["blocks.0.attn.W_V"]
    with pytest.raises(ValueError, match=r"blocks.0.attn.W_Q.*components=None, layers=1"):
        extract(llama, statistics, layers=1)
    with pytest.raises(ValueError, match=r"blocks\.0\.mlp\.W_in"):
        extract(llama, statistics, components=["in"], layers=[0])
    with pytest.raises(ValueError, match="the statistics.*fingerprint"):
        extract(build("llama", seed=3), statistics)
    with pytest.raises(ValueError, match="'target'.*reference"):
        extract(llama, replace(statistics, groups={"reference": statistics.groups["reference"]}))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_reduced_precision_models_have_float32_engrams_near_the_float32_ones(dtype):
    concept = token_concept(n=120)
    reduced = build("llama", dtype=dtype)
    engram = extract(reduced, concept)
    assert all(tensor.dtype == torch.float32 for tensor in engram.values())
    exact = build("llama")
    for mine, theirs in zip(exact.parameters(), reduced.parameters()):
        mine.data = theirs.data.float()
    reference = extract(exact, concept)
    # Activations carry 8 (bf16) or 11 (fp16) bits; the whole engram agrees to a few of their roundings.
    for key in engram:
        assert relative_error(engram[key], reference[key]) < (0.1 if dtype == torch.bfloat16 else 0.02), key


MODELS = {"llama": lambda: build("llama"), "gpt2": lambda: build("gpt2"), "folded": lambda: folded(build("gpt2"))}


@pytest.mark.parametrize("kind", MODELS)
def test_one_factorisation_an_input(monkeypatch, kind):
    model = MODELS[kind]()
    # Folding moves b_V into b_O: V has no bias left, but still shares its input, and its row of ones, with Q and K.
    calls = []
    monkeypatch.setattr(
        Total, "_solve", lambda total, rtol, solve=Total._solve: calls.append(rtol) or solve(total, rtol)
    )
    extract(model, token_concept())
    # Two blocks of four inputs (Q, K, V; O; gate, in; out) and the unembedding.
    assert len(calls) == 9


def test_weights_that_are_not_finite_are_named(llama):
    llama.unembed.W_U.data[0, 0] = float("inf")
    with pytest.raises(ValueError, match=r"unembed\.W_U.*finite"):
        extract(llama, token_concept())


@pytest.mark.parametrize("width", [512, 767, 768, 1100])
def test_wide_models_equal_brute_force_too(width):
    model = build("gpt2", d_mlp=width, n_layers=1)
    rows, mask = tokens(400, 9), tokens(400, 9) % 3 > 0
    found = extract(model, Concept.from_tokens(rows[:100], rows[100:], mask[:100], mask[100:]), components="out")
    X = model.run_with_cache(rows)[1]["blocks.0.mlp.hook_post"].detach().double()
    X = torch.cat([X, torch.ones_like(X[..., :1])], dim=-1)
    S_plus, S_minus = (x.T @ x for x in (X[:100][mask[:100]], X[100:][mask[100:]]))
    W = torch.cat([model.blocks[0].mlp.W_out.detach(), model.blocks[0].mlp.b_out.detach()[None]]).double()
    W_plus = W.T @ S_plus @ torch.linalg.pinv(S_plus + S_minus, rtol=(width + 1) * 2.0**-23, hermitian=True)
    assert relative_error(found["blocks.0.mlp.W_out"], W_plus[:, :-1].T) < 1e-4
    assert relative_error(found["blocks.0.mlp.b_out"], W_plus[:, -1]) < 1e-4
