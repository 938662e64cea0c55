import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engram_interp import Concept, decompose, extract, localize
from engram_interp.engrams.factors import ConceptSum, Factor, Packed
from engram_interp.linalg.total import Total
from engram_interp.maps.decomposition import Decomposition
from engram_interp.models import adapt
from engram_interp.models.loading import bridge_of
from tests import huggingface
from tests.conftest import build, tokens


def rows_of(n: int, seed: int, pos: int = 9) -> list:
    given = tokens(n, pos, seed=seed)
    return list(Concept.from_tokens(given, given, given % 3 > 0).target)


def concepts() -> dict[str, list]:
    """Of few and of many examples, so that some are kept as rows and some as moments."""
    return {"A": rows_of(1, 1), "B": rows_of(25, 2), "C": rows_of(3, 3, pos=5), "rest": rows_of(90, 4)}


def relative_error(found, expected) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())


@pytest.mark.parametrize("names", [{"A"}, {"B"}, {"A", "B"}, {"A", "C", "rest"}])
def test_any_subset_is_the_engram_extracted_for_it(any_model, names):
    given = concepts()
    target = [example for name in given if name in names for example in given[name]]
    reference = [example for name in given if name not in names for example in given[name]]
    parts, direct = decompose(any_model, given), extract(any_model, Concept(target, reference))
    found = parts.engram(names)
    assert list(found) == list(direct)
    for key in direct:
        assert relative_error(found[key], direct[key]) < 1e-5, key
    assert found.options == direct.options


def test_a_subsets_ablation_is_that_of_its_extracted_engram(llama):
    given = concepts()
    target = given["A"] + given["B"]
    edited = decompose(llama, given).ablate({"B", "A"}, alpha=0.7)
    direct = extract(llama, Concept(target, given["C"] + given["rest"])).ablate(llama, alpha=0.7)
    for mine, theirs in zip(edited.parameters(), direct.parameters()):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


def test_all_parts_add_up_to_the_weight_in_the_directions_that_the_data_has(any_model):
    # sum_i W S_i S^pinv = W Pi; on rank-deficient data Pi is not the identity.
    given = {name: examples[:1] for name, examples in concepts().items()}
    parts = decompose(any_model, given)
    whole = sum(list(parts.values())[1:], start=parts["A"])
    adapter = adapt(any_model)
    n_deficient = 0
    for part in parts._parts(list(parts), adapter, parts.solve):
        site = part.site
        Pi = part.dW @ part.data.kept.Pi
        expected = part.weight(Pi)
        assert relative_error(site.layout.to_matrix(whole[site.key]), expected) < 1e-5, site.key
        if site.bias is not None and site.bias in whole:
            assert relative_error(whole[site.bias].flatten(), Pi[:, -1]) < 1e-5
        n_deficient += part.data.kept.U.shape[1] < len(part.data.S)
    assert n_deficient


def test_engrams_of_subsets_are_sums_of_engrams(gpt2):
    parts = decompose(gpt2, concepts())
    both, summed = parts.engram({"A", "C"}), parts["A"] + parts["C"]
    for key in both:
        torch.testing.assert_close(both[key], summed[key], rtol=1e-4, atol=1e-6)


@given(
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=6), d=st.integers(1, 12), absorbed=st.booleans(),
    seed=st.integers(0, 99),
)  # fmt: skip
@settings(deadline=None)
def test_a_concept_is_kept_as_whichever_is_smaller(sizes, d, absorbed, seed):
    X = torch.randn(sum(sizes), d, generator=torch.Generator().manual_seed(seed))
    total = ConceptSum(absorbed)
    for rows in X.split(sizes):
        total.add(rows)
    kept = total.result(X[:0])
    extended = torch.cat([X, torch.ones(len(X), 1)], dim=1).double() if absorbed else X.double()
    D = d + absorbed
    assert kept.n_floats <= min(D * (D + 1) // 2, len(X) * d) or len(X) * d <= D * (D + 1) // 2
    assert kept.n_floats == min(D * (D + 1) // 2, len(X) * d)
    torch.testing.assert_close(kept.matrix, extended.T @ extended, rtol=1e-6, atol=1e-6)


def test_what_is_kept_is_no_more_than_the_moments_and_no_more_than_the_tokens(llama):
    parts = decompose(llama, concepts())
    n_tokens = sum(parts.counts.values())
    widths = adapt(llama).widths(parts.n_floats)
    for name, d in widths.items():
        assert parts.n_floats[name] <= min(4 * d * (d + 1) // 2, n_tokens * d)
    kinds = {type(parts.kept[concept]["blocks.0.attn.in"]) for concept in parts}
    assert kinds == {Factor, Packed}


def test_engrams_are_made_when_they_are_asked_for(llama, monkeypatch):
    calls = []
    monkeypatch.setattr(
        Total, "_solve", lambda total, rtol, solve=Total._solve: calls.append(rtol) or solve(total, rtol)
    )
    parts = decompose(llama, concepts())
    assert not calls
    parts["A"], parts.engram({"B", "C"}), parts.localize("A")
    assert len(calls) == 9  # one an input, for all engrams together


def test_the_map_of_a_part_is_the_map_of_its_concept(gpt2):
    given = concepts()
    reference = [example for name in ("A", "C", "rest") for example in given[name]]
    found = decompose(gpt2, given).localize("B").to_frame()
    direct = localize(gpt2, Concept(given["B"], reference)).to_frame()
    assert found["key"].tolist() == direct["key"].tolist()
    for quantity in ("wnorm", "excess", "fisher", "fisher_excess"):
        assert found[quantity].to_numpy() == pytest.approx(direct[quantity].to_numpy(), rel=1e-4)


@pytest.mark.parametrize("variant", ["llama", "gpt2"])
def test_the_difference_from_another_model_is_decomposed_too(variant):
    model, base, given = build(variant), build(variant, seed=5), concepts()
    reference = [example for name in ("A", "C", "rest") for example in given[name]]
    found = decompose(model, given, delta_from=base)["B"]
    direct = extract(model, Concept(given["B"], reference), delta_from=base)
    for key in direct:
        assert relative_error(found[key], direct[key]) < 1e-5, key


def test_experts_that_a_concept_never_reaches_own_nothing():
    model = bridge_of("tiny", huggingface.make("Mixtral"))
    given = {"one": rows_of(1, 5, pos=3), "rest": rows_of(40, 2)}
    parts, direct = decompose(model, given), extract(model, Concept(given["one"], given["rest"]))
    found = parts["one"]
    unreached = [name for name, kept in parts.kept["one"].items() if not kept.n_floats]
    assert unreached
    for key in direct:
        torch.testing.assert_close(found[key], direct[key], rtol=1e-4, atol=1e-6)


def test_each_example_goes_through_the_model_once(llama, monkeypatch):
    seen = []
    run = type(adapt(llama)).run
    monkeypatch.setattr(
        type(adapt(llama)), "run", lambda self, batch, *rest: seen.append(len(batch.tokens)) or run(self, batch, *rest)
    )
    parts = decompose(llama, concepts(), batch_size=16)
    for name in parts:
        parts[name]
    assert sum(seen) == 1 + 25 + 3 + 90


def test_a_model_that_was_edited_meanwhile_is_refused(llama):
    parts = decompose(llama, concepts())
    engram = parts["A"]
    with engram.ablated(llama, alpha=0.5), pytest.raises(RuntimeError, match="weights have changed"):
        parts["B"]
    assert parts["B"].name == "B"
    adapt(llama).parameter("blocks.0.mlp.W_in").data.neg_()  # of the same norm
    with pytest.raises(RuntimeError, match="weights have changed"):
        parts["B"]


def test_a_bias_that_changes_is_noticed(gpt2):
    parts = decompose(gpt2, concepts())
    adapt(gpt2).parameter("blocks.0.attn.b_Q").data.mul_(5)
    with pytest.raises(RuntimeError, match="weights have changed"):
        parts["A"]


def test_asking_whether_a_concept_is_there_makes_no_engram(llama, monkeypatch):
    parts = decompose(llama, concepts())
    monkeypatch.setattr(Decomposition, "engram", None)
    assert "A" in parts
    assert "Z" not in parts


def test_too_few_positions_are_said(llama, caplog):
    decompose(llama, {"A": rows_of(1, 1), "B": rows_of(2, 2)})
    assert "up to 32 dimensions" in caplog.text


def test_unknown_names_are_refused(llama):
    parts = decompose(llama, concepts())
    assert repr(parts).startswith("Decomposition('A', 'B', 'C', 'rest'; 15 matrices of")
    with pytest.raises(KeyError, match="'Z'.*'A', 'B', 'C', 'rest'"):
        parts["Z"]
    with pytest.raises(ValueError, match=r"'A', 'B', 'C', 'rest'.*'A', 'Z'"):
        parts.engram({"A", "Z"})
    with pytest.raises(ValueError, match="'A'.*none"):
        parts.ablate(set())
    with pytest.raises(ValueError, match="concepts.*none"):
        decompose(llama, {})
    with pytest.raises(ValueError, match=r"A .*\[\]"):
        decompose(llama, {"A": [], "B": ["x"]})


def test_an_activation_that_is_not_finite_is_named(llama):
    with torch.no_grad():
        llama.blocks[1].mlp.W_gate.fill_(float("inf"))
    with pytest.raises(ValueError, match=r"blocks\.1\.mlp\.W_out, batch 0"):
        decompose(llama, concepts())


def test_some_of_its_matrices_have_the_same_engrams(llama):
    parts = decompose(llama, concepts())
    some = parts.select(["Q", "out"], layers=[1])
    whole = parts["A"]
    assert list(some["A"]) == ["blocks.1.attn.W_Q", "blocks.1.mlp.W_out"]
    for key, tensor in some["A"].tensors.items():
        assert torch.equal(tensor, whole.tensors[key])
    with pytest.raises(ValueError, match="components=K"):
        some.select("K")
