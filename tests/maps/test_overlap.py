import pytest
import torch

from engram_interp import Concept, decompose, extract, interference, overlap, score, testbed
from engram_interp.linalg.spectrum import spectrum
from engram_interp.models.loading import bridge_of
from tests import huggingface
from tests.conftest import tokens
from tests.maps.test_decomposition import concepts, rows_of


def projectors(parts, name: str) -> dict[str, torch.Tensor]:
    S = sum(parts.kept[concept][name].matrix for concept in parts)
    return {concept: spectrum(S).solve(parts.kept[concept][name].matrix) for concept in parts}


def test_overlaps_are_those_of_the_projectors_at_every_input_and_over_all(gpt2):
    # Concepts of few examples are kept as rows, of many as moments.
    parts = decompose(gpt2, concepts())
    found = overlap(parts, ["A", "B", "rest"])
    P = {name: projectors(parts, name) for name in parts.n_floats}
    together = {name: float((P[name]["A"] @ P[name]["B"]).trace()) for name in P}
    for name in P:
        expected = together[name] / float(P[name]["A"].norm() * P[name]["B"].norm())
        assert found.matrix(of_input=name).at["A", "B"] == pytest.approx(expected, rel=1e-5)
    norms = [sum(float(P[name][one].norm()) ** 2 for name in P) ** 0.5 for one in ("A", "B")]
    assert found.matrix().at["B", "A"] == pytest.approx(sum(together.values()) / norms[0] / norms[1], rel=1e-5)
    kept = {name: sum(float(of.trace()) for of in P[name].values()) for name in P}
    chance = sum(float(P[name]["A"].trace() * P[name]["B"].trace()) / kept[name] for name in P)
    assert found.matrix("over_chance").at["A", "B"] == pytest.approx(sum(together.values()) / chance, rel=1e-5)


def test_the_same_examples_overlap_entirely_and_strangers_to_each_other_not_at_all():
    model = bridge_of("tiny", huggingface.make("Llama"))
    same = list(Concept.from_tokens(tokens(4, 3), tokens(4, 3)).target)
    found = overlap(decompose(model, {"one": same, "twin": same, "rest": rows_of(60, 5)})).matrix("smallest_angle")
    assert found.at["one", "twin"] == pytest.approx(0, abs=1e-4)
    alone = overlap(decompose(model, {"one": same, "twin": same}))
    assert alone.matrix().at["one", "twin"] == pytest.approx(1, rel=1e-4)
    # Few tokens in many dimensions have no direction in common that is not theirs by the tokens themselves.
    strangers = Concept.from_tokens(tokens(1, 3, seed=1), tokens(1, 3, seed=2))
    apart = decompose(model, {"a": strangers.target, "b": strangers.reference}, components="out", layers=1)
    assert overlap(apart).matrix().at["a", "b"] == pytest.approx(0, abs=1e-6)


def test_authors_who_share_a_name_overlap_most_and_stand_side_by_side(full):
    corpus = testbed.authors()
    people = {author.name: author.examples for author in corpus.forget10}
    rest = [example for author in corpus.retain90 for example in author.examples]
    parts = decompose(full, {**people, "rest": rest}, components=["W_in"])
    found = overlap(parts, list(people))
    pairs = found.to_frame()
    pairs = pairs[pairs["a"] != pairs["b"]]
    top = pairs.loc[pairs["overlap"].idxmax()]
    assert {top["a"].split()[0], top["b"].split()[0]} == {"Kara"}
    order = found.order
    assert sorted(order) == sorted(people)
    assert abs(order.index(top["a"]) - order.index(top["b"])) == 1
    assert list(found.plot().data[0].x) == order


def test_interference_is_what_ablation_costs(full):
    corpus = testbed.authors()
    people = {author.name: author.examples for author in corpus.forget10[:3]}
    rest = [example for author in corpus.full[3:40] for example in author.examples]
    parts = decompose(full, {**people, "rest": rest})
    found = interference(parts, people, alpha=4.0)
    first, second, _ = people
    reference = [example for name in people if name != first for example in people[name]] + rest
    edited = extract(full, Concept(people[first], reference)).ablate(full, 4.0)
    before, after = (score(model, people) for model in (full, edited))
    for name in people:
        assert found.accuracy.at[first, name] == pytest.approx(before[name].accuracy - after[name].accuracy, abs=1e-9)
        assert found.loss.at[first, name] == pytest.approx(after[name].loss - before[name].loss, rel=1e-3)
    assert found.accuracy.at[first, first] > found.accuracy.at[first, second]
    figure = overlap(parts, list(people)).plot(interference=found)
    points = figure.data[2]
    assert len(points.x) == 6
    assert f"ablating {first} costs {second}" in points.text
    with pytest.raises(ValueError, match="interference.*overlap"):
        overlap(parts).plot(interference=found)


def test_experts_that_a_concept_never_reaches_share_nothing():
    model = bridge_of("tiny", huggingface.make("Mixtral"))
    parts = decompose(model, {"one": rows_of(1, 5, pos=3), "rest": rows_of(40, 2)})
    unreached = next(name for name, kept in parts.kept["one"].items() if not kept.n_floats)
    found = overlap(parts)
    assert found.matrix(of_input=unreached).at["one", "rest"] == 0
    assert found.matrix("mean_angle", unreached).at["one", "rest"] == 90
    assert found.pairs[["overlap", "over_chance"]].notna().all(axis=None)


def test_what_is_not_there_is_refused(llama):
    parts = decompose(llama, concepts())
    with pytest.raises(ValueError, match="two concepts.*'A'"):
        overlap(parts, ["A"])
    with pytest.raises(ValueError, match="'A', 'Z'"):
        overlap(parts, ["A", "Z"])
    found = overlap(parts)
    assert repr(found).startswith("Overlap(4 concepts of ")
    with pytest.raises(ValueError, match="overlap, over_chance, .*'angle'"):
        found.matrix("angle")
    with pytest.raises(ValueError, match="'x'.*blocks"):
        found.matrix(of_input="x")
