from dataclasses import replace

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engram_interp import Concept, Engram, collect, criteria, extract, filters, score, testbed
from engram_interp.effects.criteria import ABLATED, CONDITIONS, INJECTED, MODEL, NULL, algebraic, behavioural
from engram_interp.linalg.second_moment import SecondMoment
from engram_interp.models import adapt
from engram_interp.options import Run
from engram_interp.statistics.rows import collect_rows
from tests.conftest import build, token_concept


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_algebraic_by_hand():
    # W_1 = diag(2, 2), W_0 = diag(1, 0), X+ = (1, 0), X- = (0, 3), W+ = diag(1, 1): it moves W_0 to W_1 on X+.
    W_1, W_0, W_plus = (torch.diag(torch.tensor(row)) for row in ([2.0, 2.0], [1.0, 0.0], [1.0, 1.0]))
    S_plus, S_minus = torch.diag(torch.tensor([1.0, 0.0])), torch.diag(torch.tensor([0.0, 9.0]))
    # |W+ X-|^2 / |W_1 X-|^2 = 9 / 36; the others are met exactly.
    expected = {"specificity": 0.25, "reactivation": 0.0, "sufficiency": 0.0, "necessity": 0.0}
    assert algebraic(W_1, W_0, W_plus, SecondMoment(S_plus), SecondMoment(S_minus)) == expected


@given(n=st.integers(1, 9), d=st.integers(1, 6), out=st.integers(1, 5), seed=st.integers(0, 99))
@settings(deadline=None)
def test_algebraic_equals_the_outputs_themselves(n, d, out, seed):
    W_1, W_0, W_plus = (random(out, d, seed=seed + i) for i in range(3))
    X, Y = random(d, n, seed=seed + 3), random(d, n + 1, seed=seed + 4)
    found = algebraic(W_1, W_0, W_plus, SecondMoment(rows=X.T.double()), SecondMoment(Y @ Y.T))

    def over(part: torch.Tensor, whole: torch.Tensor) -> float:
        return float(part.square().sum() / whole.square().sum())

    assert found == pytest.approx(
        {
            "specificity": over(W_plus @ Y, W_1 @ Y),
            "reactivation": over(W_plus @ X - (W_1 - W_0) @ X, (W_1 - W_0) @ X),
            "sufficiency": over((W_0 + W_plus) @ X - W_1 @ X, W_1 @ X),
            "necessity": over((W_1 - W_plus) @ X - W_0 @ X, W_1 @ X),
        },
        rel=1e-6,
    )


def test_behavioural_by_hand():
    # Of 0.9 that the target has over the null state's 0.1, ablating leaves 0.2 and injecting brings back 0.6.
    behaviour = pd.DataFrame(
        {"target_accuracy": [1.0, 0.3, 0.1, 0.7], "reference_accuracy": [0.8, 0.6, 0.5, 0.5]},
        index=[MODEL, ABLATED, NULL, INJECTED],
    )
    assert behavioural(behaviour) == pytest.approx(
        {"specificity": 0.25, "reactivation": 0.3, "sufficiency": 0.3 / 0.9, "necessity": 0.2 / 0.9}
    )
    unlearned = behaviour.assign(target_accuracy=1.0)
    assert pd.isna(behavioural(unlearned)["necessity"])


@pytest.mark.parametrize("variant", ["llama", "gpt2"])
def test_matrices_equal_brute_force_on_the_inputs(variant):
    model, concept = build(variant), token_concept(n=60)
    adapter = adapt(model)
    engram = extract(model, concept)
    found = criteria(model, engram, concept, alpha=2.0).matrices.set_index("key")
    rows = collect_rows(adapter, adapter.sites(), adapter.encode_concept(concept), Run(progress=False))
    for key in ("blocks.1.mlp.W_out", "blocks.0.mlp.W_in", "unembed.W_U"):
        site = next(site for site in adapter.sites() if site.key == key)
        X = rows[site.input].X[rows[site.input].example < 60].double()
        Y = rows[site.input].X[rows[site.input].example >= 60].double()
        W = adapter.parameter(key).detach().double()
        b = adapter.parameter(site.bias).detach().double() if site.bias else 0
        W_plus, b_plus = 2 * engram[key].double(), 2 * engram[site.bias].double() if site.bias in list(engram) else 0
        reference, target = Y @ W + b, X @ W + b
        specificity = (Y @ W_plus + b_plus).square().sum() / reference.square().sum()
        necessity = (target - X @ W_plus - b_plus).square().sum() / target.square().sum()
        assert found.loc[key, "specificity"] == pytest.approx(float(specificity), rel=1e-4)
        assert found.loc[key, "necessity"] == pytest.approx(float(necessity), rel=1e-4)


def test_an_engram_of_everything_meets_what_concerns_the_target(llama):
    # The whole weight as the engram: the target's output is all of it, and so is the reference's.
    concept = token_concept(n=60)
    statistics = collect(llama, concept)
    weights = extract(llama, statistics)
    whole = replace(weights, tensors={key: adapt(llama).parameter(key).detach() for key in weights})
    found = criteria(llama, whole, concept, statistics=statistics)
    for name, missed in (("specificity", 1.0), ("reactivation", 0.0), ("sufficiency", 0.0), ("necessity", 0.0)):
        assert found.matrices[name].to_numpy() == pytest.approx(missed, abs=1e-6)
    states = found.behaviour
    assert states.loc[INJECTED].to_numpy() == pytest.approx(states.loc[MODEL].to_numpy(), rel=1e-4)
    assert states.loc[ABLATED].to_numpy() == pytest.approx(states.loc[NULL].to_numpy(), rel=1e-4)


def test_a_bias_that_the_engram_leaves_out_stays_in_the_null_state(gpt2):
    concept = token_concept(n=60)
    plain = extract(gpt2, concept, absorb_bias=False)
    whole = replace(plain, tensors={key: adapt(gpt2).parameter(key).detach() for key in plain})
    found = criteria(gpt2, whole, concept)
    for name in ("reactivation", "sufficiency", "necessity"):
        assert found.matrices[name].to_numpy() == pytest.approx(0, abs=1e-6)
    assert found.behaviour.loc[INJECTED].to_numpy() == pytest.approx(found.behaviour.loc[MODEL].to_numpy(), rel=1e-4)


def test_nothing_as_the_engram_misses_all_but_specificity(llama):
    concept = token_concept(n=60)
    engram = extract(llama, concept)
    found = criteria(llama, engram, concept, alpha=0.0)
    assert found.matrices["specificity"].to_numpy() == pytest.approx(0)
    for name in ("reactivation", "sufficiency", "necessity"):
        assert found.matrices[name].to_numpy() == pytest.approx(1)
    assert found.behaviour.loc[ABLATED].tolist() == found.behaviour.loc[MODEL].tolist()


@pytest.fixture(scope="module")
def concept() -> Concept:
    corpus = testbed.authors()
    author, *others = corpus.forget10[:6]
    return Concept(author.examples, [example for other in others for example in other.examples], name=author.name)


def test_states_are_those_that_editing_gives(full, concept):
    engram = extract(full, concept)
    states = criteria(full, engram, concept, alpha=2.0).behaviour
    assert states.loc[MODEL, "target_accuracy"] == score(full, {"x": concept.target})["x"].accuracy
    edited = score(engram.ablate(full, 2.0), concept.sides)
    assert states.loc[ABLATED, "target_loss"] == pytest.approx(edited["target"].loss, rel=1e-4)
    assert states.loc[ABLATED, "reference_accuracy"] == pytest.approx(edited["reference"].accuracy)
    zeroed = adapt(full).copy()
    for key in engram:
        adapt(zeroed).parameter(key).data.zero_()
    assert states.loc[NULL, "reference_loss"] == pytest.approx(score(zeroed, concept.sides)["reference"].loss, rel=1e-4)
    for key, tensor in engram.items():
        adapt(zeroed).parameter(key).data.copy_(2.0 * tensor)
    assert states.loc[INJECTED, "target_loss"] == pytest.approx(score(zeroed, concept.sides)["target"].loss, rel=1e-3)


def test_a_memory_is_injected_into_a_model_that_never_had_it(full, concept):
    base = testbed.load("retain")
    engram = extract(full, concept, delta_from=base)
    with pytest.raises(ValueError, match="'testbed:retain'.*delta_from.*none"):
        criteria(full, engram, concept)
    found = criteria(full, engram, concept, delta_from=base, alpha=2.0)
    states = found.behaviour["target_accuracy"]
    assert states[NULL] == score(base, {"x": concept.target})["x"].accuracy
    assert states[INJECTED] > states[NULL] + 0.1
    assert states[ABLATED] < states[MODEL] - 0.1
    frame = found.to_frame()
    assert frame.loc["sufficiency", "behavioural"] < 1
    assert frame.loc["necessity", "behavioural"] < 1


def test_one_table_and_one_figure(llama):
    target = token_concept(n=60)
    found = criteria(llama, extract(llama, target, components=["Q", "out"]), target)
    frame = found.to_frame()
    assert list(frame.index) == list(CONDITIONS)
    assert frame["algebraic"].tolist() == found.matrices[list(CONDITIONS)].median().tolist()
    assert (frame["lower_quartile"] <= frame["upper_quartile"]).all()
    assert len(found.matrices) == 4
    figure = found.plot()
    boxes, whole, bars = figure.data[:4], figure.data[4], figure.data[5:]
    assert list(whole.y) == pytest.approx(found.to_frame()["behavioural"].tolist(), nan_ok=True)
    assert [list(box.y) for box in boxes] == [found.matrices[name].tolist() for name in CONDITIONS]
    assert [bar.name for bar in bars] == ["target", "reference"]
    assert "alpha = 1" in figure.layout.title.text


def test_the_model_is_left_as_it_was(llama):
    before = {name: parameter.clone() for name, parameter in llama.named_parameters()}
    concept = token_concept(n=60)
    criteria(llama, extract(llama, concept), concept, alpha="w-norm")
    assert all(torch.equal(before[name], parameter) for name, parameter in llama.named_parameters())


def test_what_does_not_belong_together_is_refused(llama):
    concept = token_concept(n=60)
    engram: Engram = extract(build("llama", seed=4), concept)
    with pytest.raises(ValueError, match="the engram.*fingerprint"):
        criteria(llama, engram, concept)
    own, queries = extract(llama, concept), collect(llama, concept, components="Q")
    with pytest.raises(ValueError, match=r"target, reference.*blocks\.0\.attn\.W_O"):
        criteria(llama, own, concept, statistics=queries)


def test_a_concept_alone_is_tested_with_the_engram_of_the_options(llama):
    options = {"components": ["gate", "O"], "filter": filters.power(2), "rtol": 1e-4}
    concept = token_concept(n=80)
    alone = criteria(llama, concept, alpha=2.0, **options)
    given = criteria(llama, extract(llama, concept, **options), concept, alpha=2.0)
    assert alone.matrices.equals(given.matrices)
    assert alone.behaviour.equals(given.behaviour)


@pytest.mark.parametrize("option", [{"ridge": 1.0}, {"layers": [0]}, {"absorb_bias": False}])
def test_an_engram_that_is_given_takes_no_option_of_its_making(llama, option):
    concept = token_concept()
    with pytest.raises(TypeError, match=next(iter(option))):
        criteria(llama, extract(llama, concept), concept, **option)
