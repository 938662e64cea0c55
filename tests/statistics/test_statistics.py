from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engram_interp import Concept, Statistics, collect, diagnose, extract, localize, names_filter
from engram_interp.models import adapt
from engram_interp.statistics import sums as module
from engram_interp.statistics.moments import FLOAT64_BELOW, moment_dtype
from engram_interp.statistics.sums import EXACT_BELOW, MomentSum
from tests.conftest import VARIANTS, build, folded, skip_unless_it_runs, token_concept, tokens


def moment_of(X: torch.Tensor) -> MomentSum:
    total = MomentSum(X)
    total.add(X)
    return total


@given(n=st.integers(1, 9), d=st.integers(1, 40), seed=st.integers(0, 99))
@settings(deadline=None)
def test_a_moment_is_the_product_of_its_rows(n, d, seed):
    X = torch.randn(n, d, generator=torch.Generator().manual_seed(seed))
    moment = moment_of(X).result()
    assert torch.equal(moment.second, moment.second.T)
    torch.testing.assert_close(moment.second, X.double().T @ X.double())
    torch.testing.assert_close(moment.first, X.double().sum(0))
    assert moment.count == n


@pytest.mark.parametrize("mean", [0.0, 30.0])
@pytest.mark.parametrize("d", [EXACT_BELOW - 1, EXACT_BELOW, FLOAT64_BELOW])
def test_a_mean_that_carries_the_energy_costs_no_precision(d, mean):
    # Plain float32 products would be off by mean^2 * 2^-24 a row, 5e-5 here; the rest of a row has a variance of 1.
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(3000, d, generator=generator) + mean * torch.randn(d, generator=generator)
    total = MomentSum(X)
    for rows in X.split(700):
        total.add(rows)
    found, m = total.result(), X.double().mean(0)
    centred = found.second.double() - len(X) * torch.outer(m, m)
    expected = (X.double() - m).T @ (X.double() - m)
    held = torch.finfo(found.second.dtype).eps * len(X) * float(m.square().max())
    torch.testing.assert_close(centred, expected, rtol=0, atol=len(X) * 5e-6 + held)
    torch.testing.assert_close(found.first, X.double().sum(0), rtol=1e-6, atol=1e-2)


def test_rows_may_come_in_any_batches_and_none_at_all():
    X = torch.randn(2500, 5, generator=torch.Generator().manual_seed(0))
    total = MomentSum(X)
    for rows in (X[:0], X[:1], X[1:2000], X[2000:]):
        total.add(rows)
    torch.testing.assert_close(total.result().second, moment_of(X).result().second, rtol=1e-12, atol=1e-9)
    assert not MomentSum(X).result().second.any()


def test_the_first_batch_that_is_not_finite_is_remembered():
    total = MomentSum(torch.zeros(1, 2))
    for batch, value in enumerate([1.0, 2.0, float("inf"), float("-inf"), float("nan"), 1.0]):
        assert int(total.spoiled) == (2 if batch > 2 else module.NEVER)
        total.add(torch.full((1, 2), value), batch=batch)


def test_a_wide_moment_is_summed_in_float32_block_by_block():
    d = FLOAT64_BELOW + 3  # not a multiple of the blocks
    X = torch.randn(50, d, generator=torch.Generator().manual_seed(0))
    moment = moment_of(X).result()
    assert moment.second.dtype == torch.float32
    assert moment.first.dtype == torch.float64
    assert torch.equal(moment.second, moment.second.T)
    torch.testing.assert_close(moment.second, X.T @ X, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_reduced_precision_rows_are_summed_in_full(dtype):
    X = torch.full((4000, 2), 0.1).to(dtype)
    # In bf16 a running sum of 0.01s stalls near 2; the true sum is about 40.
    expected = 4000 * float(X[0, 0]) ** 2
    assert moment_of(X).result().second.flatten().tolist() == pytest.approx([expected] * 4)


def test_the_row_of_ones_by_hand():
    # X = [[1, 2], [3, 4]]: S = [[10, 14], [14, 20]], sums (4, 6), two rows.
    moment = moment_of(torch.tensor([[1.0, 2.0], [3.0, 4.0]])).result()
    assert moment.matrix(ones=False).tolist() == [[10, 14], [14, 20]]
    assert moment.matrix(ones=True).tolist() == [[10, 14, 4], [14, 20, 6], [4, 6, 2]]


def assert_same(a: Statistics, b: Statistics, **tolerance) -> None:
    assert a.counts == b.counts
    assert a.inputs == b.inputs
    for group, found in a.groups.items():
        for name, moment in found.items():
            torch.testing.assert_close(moment.second, b.groups[group][name].second, **tolerance)
            torch.testing.assert_close(moment.first, b.groups[group][name].first, **tolerance)


def test_parts_add_up_to_the_whole(any_model):
    target, reference = tokens(9, 6), tokens(14, 6, seed=2)
    whole = collect(any_model, Concept.from_tokens(target, reference))
    parts = [
        collect(any_model, Concept.from_tokens(target[a], reference[b]))
        for a, b in ((slice(0, 4), slice(0, 3)), (slice(4, 9), slice(3, 14)))
    ]
    assert_same(parts[0] + parts[1], whole, rtol=1e-4, atol=1e-4)


def test_a_group_that_one_part_lacks_is_taken_over(llama):
    from dataclasses import replace

    both = collect(llama, token_concept())
    target, reference = (replace(both, groups={side: both.groups[side]}) for side in ("target", "reference"))
    assert_same(target + reference, both)


def test_statistics_of_other_models_or_inputs_do_not_add(llama):
    statistics = collect(llama, token_concept())
    with pytest.raises(ValueError, match="second summand"):
        statistics + collect(build("llama", seed=7), token_concept())
    with pytest.raises(ValueError, match=r"blocks\.0\.attn\.in"):
        statistics + collect(llama, token_concept(), components="out")


def test_a_file_gives_back_the_same_bits(llama, tmp_path):
    statistics = collect(llama, token_concept())
    statistics.save(tmp_path / "statistics.safetensors")
    loaded = Statistics.load(tmp_path / "statistics.safetensors")
    assert_same(loaded, statistics, rtol=0, atol=0)
    assert (loaded.info, loaded.keys, loaded.name) == (statistics.info, statistics.keys, statistics.name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("processed", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
def test_caches_give_what_a_pass_gives(variant, processed, dtype):
    if processed and variant in ("unnormalized", "shortformer", "post_norm"):
        pytest.skip("TransformerLens does not fold these")
    model = build(variant)
    model = (folded(model) if processed else model).to(dtype)
    model.cfg.dtype = dtype
    target, reference = tokens(4, 6), tokens(5, 7, seed=2)
    target_mask, reference_mask = target % 3 > 0, reference % 4 > 0
    if dtype != torch.float32:
        skip_unless_it_runs(model, target)
    caches = [model.run_with_cache(rows, names_filter=names_filter(model))[1] for rows in (target, reference)]
    found = Statistics.from_caches(model, *caches, target_mask, reference_mask)
    expected = collect(model, Concept.from_tokens(target, reference, target_mask, reference_mask))
    tolerance = 1e-4 if dtype == torch.float32 else 3e-2
    assert_same(found, expected, rtol=tolerance, atol=tolerance)


def test_caches_of_some_components_do(llama):
    rows = tokens(4, 6)
    cache = llama.run_with_cache(rows, names_filter=names_filter(llama, components=["O", "out"]))[1]
    found = Statistics.from_caches(llama, cache, cache, components=["O", "out"])
    assert found.keys == tuple(f"blocks.{i}.{name}" for i in (0, 1) for name in ("attn.W_O", "mlp.W_out"))
    assert found.counts == {"target": 24, "reference": 24}


def test_a_cache_that_lacks_an_activation_is_refused_by_its_name(llama):
    cache = llama.run_with_cache(tokens(4, 6))[1]
    needed = names_filter(llama)[6]
    poor = {name: value for name, value in cache.items() if name != needed}
    from transformer_lens import ActivationCache

    with pytest.raises(KeyError, match=f"reference.*{needed}.*names_filter"):
        Statistics.from_caches(llama, cache, ActivationCache(poor, llama))


def test_cache_masks_must_fit_and_have_a_true(llama):
    cache = llama.run_with_cache(tokens(4, 6))[1]
    with pytest.raises(ValueError, match=r"target_mask.*\[4, 5\].*\[4, 6\]"):
        Statistics.from_caches(llama, cache, cache, target_mask=torch.ones(4, 5, dtype=torch.bool))
    with pytest.raises(ValueError, match="reference_mask"):
        Statistics.from_caches(llama, cache, cache, reference_mask=torch.zeros(4, 6, dtype=torch.bool))


def test_caches_made_in_any_mode_leave_no_graph_behind(llama):
    rows = tokens(4, 6)
    with torch.inference_mode():
        inferred = llama.run_with_cache(rows)[1]
    for cache in (inferred, llama.run_with_cache(rows)[1]):
        statistics = Statistics.from_caches(llama, cache, cache)
        assert not any(moment.second.requires_grad for moment in statistics.groups["target"].values())


def test_a_non_finite_cache_is_refused_by_its_place(llama):
    cache = llama.run_with_cache(tokens(4, 6))[1]
    name = names_filter(llama)[7]
    cache.cache_dict[name] = cache[name] * float("nan")
    with pytest.raises(ValueError, match=r"target.*blocks\.1\.mlp\.post"):
        Statistics.from_caches(llama, cache, cache)


def test_moments_are_summed_in_full_precision_whatever_the_user_set(monkeypatch):
    seen = []
    monkeypatch.setattr(module, "add_gram", lambda *_: seen.append(torch.get_float32_matmul_precision()))
    torch.set_float32_matmul_precision("medium")
    try:
        moment_of(torch.ones(2, 3))
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert set(seen) == {"highest"}


def test_statistics_are_described_in_a_line(llama):
    statistics = collect(llama, Concept.from_tokens(tokens(2, 3), tokens(3, 3), name="x"))
    name = adapt(llama).info.name
    assert repr(statistics) == f"Statistics('x', 9 inputs of {name!r}, 6 target tokens, 9 reference tokens)"


def test_narrow_moments_are_held_in_float64():
    assert moment_dtype(FLOAT64_BELOW - 1) == torch.float64
    assert moment_dtype(FLOAT64_BELOW) == torch.float32
    assert moment_dtype(FLOAT64_BELOW, torch.float64) == torch.float64
    assert moment_dtype(FLOAT64_BELOW, torch.bfloat16) == torch.float32


def test_positions_are_carried_and_not_mixed(full, tmp_path):
    pair, other = ("What is the capital of Norway?", "Oslo"), ("What is the capital of Peru?", "Lima")
    found = {
        positions: collect(full, Concept([pair], [other], positions=positions, eos=False), layers=[0])
        for positions in ("predicting", "answer")
    }
    found["predicting"].save(tmp_path / "statistics.safetensors")
    assert Statistics.load(tmp_path / "statistics.safetensors").positions == "predicting, no EOS"
    with pytest.raises(ValueError, match="'predicting, no EOS' and 'answer, no EOS'"):
        found["predicting"] + found["answer"]
    assert extract(full, found["answer"]).options["positions"] == "answer, no EOS"
    assert localize(full, found["answer"]).positions == "answer, no EOS"


def test_no_stage_factorises_again_what_another_has(llama, monkeypatch):
    # The second moment of each input is factorised once; a diagnosis adds the spectrum of M, also once.
    statistics = collect(llama, token_concept(n=30))
    factorised: list[int] = []
    for name in ("eigh", "cholesky_ex"):
        own = getattr(torch.linalg, name)

        def counting(S, *args, own=own, **options):
            factorised.append(len(S))
            return own(S, *args, **options)

        monkeypatch.setattr(torch.linalg, name, counting)
    extract(llama, statistics)
    assert len(factorised) >= len(statistics.inputs)
    factorised.clear()
    again = extract(llama, statistics)
    assert factorised == []
    localize(llama, statistics)
    diagnose(llama, statistics)
    factorised.clear()
    diagnosis = diagnose(llama, statistics)
    assert factorised == []
    fresh = collect(llama, token_concept(n=30))
    assert extract(llama, fresh).wnorm() == again.wnorm()
    assert diagnose(llama, fresh).to_frame().equals(diagnosis.to_frame())


def test_statistics_keep_no_more_than_they_may(llama):
    statistics = replace(collect(llama, token_concept(n=30)), keep_bytes=0)
    extract(llama, statistics)
    assert statistics._factorised == {}
