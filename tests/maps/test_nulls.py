from itertools import groupby

import pytest
import torch

from engram_interp import Concept, collect, filters, localize, testbed
from engram_interp.engrams.parts import Prepared, parts
from engram_interp.maps import set_norms as set_norms_module
from engram_interp.maps.null_sets import N_BOOTSTRAPS, random_sets, rows_of_sets
from engram_interp.maps.nulls import Compared, OfSets, significance
from engram_interp.maps.quantities import FISHER, GAIN, METRICS, OBLIQUE, WNORM
from engram_interp.maps.scores import Measured
from engram_interp.maps.set_norms import few_rows, set_norms
from engram_interp.models import adapt
from engram_interp.options import Run, Solve
from engram_interp.statistics.rows import collect_rows
from tests.conftest import build, token_concept, tokens


def norms_of(prepared, solve, found, sets):
    """Every matrix with the norms of the engrams of all sets."""
    for name, readers in groupby(parts(prepared, solve, False), key=lambda part: part.site.input):
        some = list(readers)
        norms = set_norms(some, found[name], rows_of_sets(found[name], sets))
        yield from zip(some, norms.engrams, strict=True)


@pytest.fixture(params=[True, False], ids=["by rows", "by moments"])
def way(request, monkeypatch):
    """Makes norms by products of rows, or by moments."""
    monkeypatch.setattr(set_norms_module, "few_rows", lambda *_: request.param)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("variant", ["llama", "gpt2", "attn_only"])
@pytest.mark.parametrize("n", [4, 60], ids=["fewer rows than dimensions", "more"])
def test_the_norms_of_a_set_are_those_of_its_own_engram(variant, n):
    # The oracle extracts the engram of the set itself, against all other examples.
    model = build(variant)
    rows, mask = tokens(150, 9), tokens(150, 9) % 3 > 0
    concept = Concept.from_tokens(rows[:n], rows[n:], mask[:n], mask[n:])
    adapter = adapt(model)
    found = collect_rows(adapter, adapter.sites(), adapter.encode_concept(concept), Run(progress=False))
    sets = random_sets(n, 150, draws=19, seed=3)
    chosen = sets[7]
    others = torch.tensor([i for i in range(150) if i not in set(chosen.tolist())])
    oracle = Concept.from_tokens(rows[chosen], rows[others], mask[chosen], mask[others])
    prepared = Prepared(adapter, collect(model, oracle), adapter.sites())
    for part, norms in norms_of(prepared, Solve(), found, sets):
        torch.testing.assert_close(norms[WNORM][7], WNORM.norms(part, part.W_plus), rtol=2e-3, atol=1e-5)
        torch.testing.assert_close(norms[FISHER][7], FISHER.norms(part, part.W_plus), rtol=2e-3, atol=1e-5)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("variant", ["llama", "gpt2", "attn_only"])
@pytest.mark.parametrize("n", [4, 60], ids=["fewer rows than dimensions", "more"])
@pytest.mark.parametrize("g", [filters.soft, filters.power(2)], ids=repr)
def test_what_a_matrix_passes_of_a_projector_is_their_product(variant, n, g):
    # The oracle forms M = U lam^-1/2 U^T S_r U lam^-1/2 U^T of one set, W M of every matrix and head, and P_r.
    model = build(variant)
    rows, mask = tokens(150, 9), tokens(150, 9) % 3 > 0
    concept = Concept.from_tokens(rows[:n], rows[n:], mask[:n], mask[n:])
    adapter = adapt(model)
    found = collect_rows(adapter, adapter.sites(), adapter.encode_concept(concept), Run(progress=False))
    prepared = Prepared(adapter, collect(model, concept), adapter.sites())
    sets = random_sets(n, 150, draws=19, seed=3)
    for name, readers in groupby(parts(prepared, Solve(filter=g), False), key=lambda part: part.site.input):
        some = list(readers)
        norms = set_norms(some, found[name], rows_of_sets(found[name], sets))
        data = some[0].data
        X = found[name].X[torch.isin(found[name].example, sets[7])].double()
        X = torch.cat([X, torch.ones_like(X[:, :1])], dim=1) if data.absorbed else X
        root = (data.kept.U / data.kept.lam.sqrt()) @ data.kept.U.T
        lam, V = torch.linalg.eigh(root @ X.T @ X @ root)
        M = (V * g(lam.clamp(0, 1))) @ V.T
        torch.testing.assert_close(norms.M[7], M.norm(), rtol=1e-3, atol=1e-5)
        if g == filters.soft:
            P = X.T @ X @ data.solution.solve(torch.eye(len(M)))
            torch.testing.assert_close(norms.P_plus[7], P[:, : len(P) - data.absorbed].norm(), rtol=1e-3, atol=1e-5)
        for part, passed, whole in zip(some, norms.passed, norms.whole, strict=True):
            expected = [part.dW @ M] if part.heads is None else [part.dW @ M, *_heads_of(part, M)]
            torch.testing.assert_close(passed[7], torch.stack([one.norm() for one in expected]), rtol=2e-3, atol=1e-5)
            assert whole[0].item() == pytest.approx(float((part.dW @ data.kept.Pi).norm()), rel=1e-4)


def _heads_of(part, M):
    """`W_h M` of every head: a block of rows of `W M`, or a block of columns of `W` times `M`."""
    if part.heads.along == "rows":
        return part.heads.of(part.dW @ M)
    columns = (len(M) - part.data.absorbed) // part.heads.n
    return [
        part.dW[:, i * columns : (i + 1) * columns] @ M[i * columns : (i + 1) * columns] for i in range(part.heads.n)
    ]


def test_the_cheaper_way_is_taken():
    # Multiply-adds for width 100 and 50 outputs: 4800 against 1.04e6 for 4 rows, 3e8 against 1.1e7 for 1000 rows.
    assert few_rows(4, 100, 50)
    assert not few_rows(1000, 100, 50)


@pytest.mark.parametrize("variant", ["llama", "gpt2"])
def test_at_most_ten_of_a_hundred_random_targets_are_significant(variant):
    model, components = build(variant), ["Q", "O", "out"]
    rows = tokens(60, 7)
    generator = torch.Generator().manual_seed(0)
    significant = dict.fromkeys(("p_value", "fisher_p_value"), 0)
    for seed in range(100):
        order = torch.randperm(60, generator=generator)
        concept = Concept.from_tokens(rows[order[:8]], rows[order[8:]])
        wmap = localize(model, concept, null="resampled", draws=99, seed=seed, components=components)
        for name in significant:
            significant[name] += int(wmap.to_frame()[name].min() <= 0.05)
    assert max(significant.values()) <= 10, significant


def test_a_memory_is_significant_and_random_examples_of_the_same_people_are_not(full):
    corpus = testbed.authors()
    author, *others = corpus.forget10
    pairs = [example for other in others for example in other.examples]
    memory = localize(full, Concept(author.examples, pairs), null="resampled", draws=99, layers=[0])
    assert memory.p_values[0].min() == pytest.approx(0.01)
    assert memory.grid("fisher_p_value")[0].min() == pytest.approx(0.01)
    mixed = Concept(pairs[::19], [pair for i, pair in enumerate(pairs) if i % 19] + author.examples)
    assert localize(full, mixed, null="resampled", draws=99, layers=[0]).p_values[0].min() > 0.05


def test_ties_are_no_evidence(llama, caplog):
    # Of nine examples there are nine sets of eight, so a p-value is 1 / 9 or more; of equal examples, all are equal.
    rows = tokens(9, 8)
    few = localize(llama, Concept.from_tokens(rows[:8], rows[8:]), null="resampled", draws=99).to_frame()
    assert "9 sets of 8 of the 9 examples" in caplog.text
    assert few[["p_value", "fisher_p_value"]].to_numpy().min() > 0.05
    alike = tokens(1, 9)
    equal = localize(llama, Concept.from_tokens(alike.repeat(4, 1), alike.repeat(20, 1)), null="resampled", draws=99)
    assert (equal.to_frame()[["p_value", "fisher_p_value"]] == 1).all(axis=None)
    assert equal.to_frame()["excess"].to_numpy() == pytest.approx(1, abs=1e-4)


def test_an_expert_that_no_random_set_reaches_keeps_the_closed_form():
    sets = torch.zeros(1 + 19 + N_BOOTSTRAPS, 1, dtype=torch.float64)
    sets[0] = sets[-N_BOOTSTRAPS:] = 16.0
    drawn = Compared(unit=torch.tensor([0.01]), target=torch.tensor([16.0]), sets=sets, fallback=1.0)
    compared = dict.fromkeys((*METRICS, GAIN, OBLIQUE), drawn)
    found = significance({"key": {}}, {"key": OfSets(compared, Measured(sets, sets))}, n_target=2)["key"]
    assert found["excess"].tolist() == [16.0]
    assert found["expected"].tolist() == pytest.approx([0.01])
    assert found["p_value"].tolist() == [pytest.approx(1 / 20)]


def test_one_example_has_no_interval_and_few_counted_positions_are_enough(llama):
    rows = tokens(13, 6)
    counts = torch.zeros(13, 6, dtype=torch.bool)
    counts[0, 2] = counts[5, 3] = True
    concept = Concept.from_tokens(rows[:1], rows[1:], counts[:1], counts[1:])
    frame = localize(llama, concept, null="resampled", draws=19, components="gate", rtol=1e-2).to_frame()
    assert frame[["low", "high", "fisher_low", "fisher_high"]].isna().all(axis=None)
    assert frame["excess"].notna().all()


def test_the_same_seed_gives_the_same_numbers(llama):
    concept = token_concept()
    first, second, other = (localize(llama, concept, null="resampled", draws=19, seed=s).to_frame() for s in (1, 1, 2))
    assert first.equals(second)
    assert not first["p_value"].equals(other["p_value"]) or not first["low"].equals(other["low"])


def test_intervals_hold_the_excess_and_shrink_with_more_examples(llama):
    few, many = (localize(llama, token_concept(n), null="resampled", draws=19).to_frame() for n in (10, 160))
    for frame in (few, many):
        assert ((frame["low"] <= frame["excess"]) & (frame["excess"] <= frame["high"])).all()
        assert (
            (frame["fisher_low"] <= frame["fisher_excess"]) & (frame["fisher_excess"] <= frame["fisher_high"])
        ).all()
    assert (many["high"] - many["low"]).median() < (few["high"] - few["low"]).median()


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("variant", ["llama", "gpt2"])
@pytest.mark.parametrize("g", [filters.power(2), filters.hard(0.2), filters.over(0.1)], ids=repr)
@pytest.mark.parametrize("ridge", [0.0, 5.0])
def test_the_norms_of_a_set_under_a_filter_are_those_of_its_own_engram(variant, g, ridge):
    # The oracle extracts the filtered engram of the set itself, by an eigendecomposition of its own M.
    model = build(variant)
    rows, mask = tokens(150, 9), tokens(150, 9) % 3 > 0
    concept = Concept.from_tokens(rows[:20], rows[20:], mask[:20], mask[20:])
    adapter = adapt(model)
    found = collect_rows(adapter, adapter.sites(), adapter.encode_concept(concept), Run(progress=False))
    sets = random_sets(20, 150, draws=19, seed=3)
    chosen = sets[7]
    others = torch.tensor([i for i in range(150) if i not in set(chosen.tolist())])
    oracle = Concept.from_tokens(rows[chosen], rows[others], mask[chosen], mask[others])
    prepared = Prepared(adapter, collect(model, oracle), adapter.sites())
    for part, norms in norms_of(prepared, Solve(filter=g, ridge=ridge), found, sets[7:8]):
        torch.testing.assert_close(norms[WNORM][0], WNORM.norms(part, part.W_plus), rtol=5e-3, atol=1e-5)
        torch.testing.assert_close(norms[FISHER][0], FISHER.norms(part, part.W_plus), rtol=5e-3, atol=1e-5)


def test_a_null_of_zero_has_no_excess_unless_it_is_resampled(llama):
    # n/N is 1/3 here, so that a target with nothing of its own has nothing above 0.9.
    options = {"filter": filters.hard(0.9), "components": "gate"}
    analytic = localize(llama, token_concept(), **options).to_frame()
    assert (analytic["expected"] == 0).all()
    assert analytic.loc[analytic["wnorm"] > 0, "excess"].isna().all()
