import numpy as np
import pandas as pd
import pytest
import torch

from engram_interp import (
    PAPER,
    AblationStudy,
    AllBut,
    Concept,
    Only,
    ablation_study,
    collect,
    extract,
    score,
    testbed,
)
from engram_interp.effects.ablation import PAPER_UNGATED, answers
from engram_interp.models import adapt
from engram_interp.models.sites import component_of
from tests.conftest import token_concept


def edited_keys(engram) -> set[str]:
    return {key for key, tensor in engram.items() if tensor.count_nonzero()}


@pytest.mark.parametrize(
    ("subset", "expected"),
    [
        (Only(), {"Q", "K", "V", "O", "gate", "in", "out", "U"}),
        (Only(["Q", "K"]), {"Q", "K"}),
        (AllBut(["Q", "K", "gate"]), {"V", "O", "in", "out", "U"}),
        (AllBut("U"), {"Q", "K", "V", "O", "gate", "in", "out"}),
    ],
)
def test_a_subset_by_component(llama, subset, expected):
    part = subset.of(extract(llama, token_concept()))
    assert {component_of(key) for key in edited_keys(part)} == {f"W_{name}" for name in expected}


def test_a_subset_by_layer_matrix_and_head(llama):
    engram = extract(llama, token_concept())
    everything = edited_keys(engram)
    first = {key for key in everything if key.startswith("blocks.0.")}
    assert edited_keys(Only(layers=[0]).of(engram)) == first
    assert edited_keys(AllBut(layers=0).of(engram)) == everything - first
    key = "blocks.1.mlp.W_gate"
    assert edited_keys(Only(keys=key).of(engram)) == {key}
    assert edited_keys(AllBut(keys=[key]).of(engram)) == everything - {key}
    query = "blocks.1.attn.W_Q"
    only, but = (kind("Q", layers=1, heads=[2]).of(engram)[query] for kind in (Only, AllBut))
    assert only[[0, 1, 3]].count_nonzero() == 0
    assert but[2].count_nonzero() == 0
    torch.testing.assert_close(only + but, engram[query])


def test_only_and_all_but_add_up_to_the_engram(gpt2):
    engram = extract(gpt2, token_concept())
    for options in ({"components": ["Q", "in"]}, {"layers": 1}, {"keys": "blocks.0.mlp.W_out"}):
        both = Only(**options).of(engram) + AllBut(**options).of(engram)
        assert all(torch.equal(both[key], engram[key]) for key in engram)


@pytest.fixture(scope="module")
def concept() -> Concept:
    corpus = testbed.authors()
    author, *others = corpus.forget10[:6]
    return Concept(author.examples, [example for other in others for example in other.examples], name=author.name)


def test_the_papers_subsets_score_as_those_edits_do(full, concept):
    study = ablation_study(full, concept, alpha=2.0)
    frame = study.to_frame()
    assert list(frame.index) == ["unedited", *PAPER]
    engram = extract(full, concept)
    for name, part in (("Q/K only", engram.select(["Q", "K"])), ("all linear projections", engram)):
        expected = answers(part.ablate(full, 2.0), concept)
        for column in frame:
            assert frame.loc[name, column] == pytest.approx(np.mean(expected[column]), abs=1e-4)
    assert frame.loc["unedited", "target loss"] == pytest.approx(np.mean(answers(full, concept)["target loss"]))
    assert frame.loc["all linear projections", "target accuracy"] < frame.loc["unedited", "target accuracy"]
    assert ((study.table["low"] <= study.table["value"]) & (study.table["value"] <= study.table["high"])).all()


def test_a_strength_by_w_norm_is_over_all_matrices(llama):
    # A subset is a part of the whole edit: its largest strength is not 1 unless the largest W-Norm is in it.
    concept = token_concept()
    engram = extract(llama, concept)
    alphas = engram.alphas("w-norm")
    found = ablation_study(llama, concept, {"keys": Only("K")}, alpha="w-norm").to_frame().loc["keys"]
    edited = engram.select("K").ablate(llama, {key: alphas[key] for key in alphas if key.endswith("W_K")})
    assert found["target loss"] == pytest.approx(np.mean(answers(edited, concept)["target loss"]), rel=1e-5)


def test_one_pass_for_the_statistics_whatever_the_number_of_subsets(llama, monkeypatch):
    calls = []
    monkeypatch.setattr(
        "engram_interp.engrams.parts.collect",
        lambda *given, **options: calls.append(given) or collect(*given, **options),
    )
    ablation_study(llama, token_concept(), {str(layer): Only(layers=layer) for layer in (0, 1)})
    assert len(calls) == 1


def test_a_model_without_gates_has_w_in_in_their_place(gpt2):
    study = ablation_study(gpt2, token_concept())
    assert list(study.to_frame().index) == ["unedited", *PAPER_UNGATED]
    more = ablation_study(gpt2, token_concept(), {**PAPER, "queries": Only("Q")})
    assert list(more.to_frame().index) == ["unedited", *PAPER_UNGATED, "queries"]
    with pytest.raises(ValueError, match="W_gate"):
        ablation_study(gpt2, token_concept(), {"gates": Only("gate")})


def test_any_score_will_do_and_so_will_statistics(llama):
    statistics = collect(llama, token_concept())

    def size(model, given):
        assert given is statistics
        return {"size": [adapt(model).parameter("blocks.0.attn.W_Q").norm().item()]}

    study = ablation_study(llama, statistics, {"Q": Only("Q"), "K": Only("K")}, alpha=1.0, score=size)
    before, without_q, without_k = study.table["value"]
    assert without_q < before == without_k
    assert study.table["low"].isna().all()
    with pytest.raises(TypeError, match="Concept.*score"):
        ablation_study(llama, statistics)
    with pytest.raises(ValueError, match="score.*{}"):
        ablation_study(llama, statistics, score=lambda model, given: {})


def test_an_edit_too_weak_to_be_seen_is_said(full, concept, caplog):
    ablation_study(full, concept, {"layer 0": Only(layers=0)}, alpha=1e-6)
    assert "at alpha = 1e-06" in caplog.text
    caplog.clear()
    ablation_study(full, concept, {"all": Only()}, alpha=2.0)
    assert "no subset moves" not in caplog.text


def test_intervals_by_hand(llama):
    # The mean of n zeros and n ones is binomial: 0.5 within 1.96 * 0.5 / sqrt(2 n) at 95 %.
    values = [0.0, 1.0] * 200
    study = ablation_study(
        llama, token_concept(), {"all": Only()}, score=lambda model, given: {"x": torch.tensor(values)}
    )
    row = study.table.iloc[0]
    half = 1.96 * 0.5 / 400**0.5
    assert (row["value"], row["n"]) == (0.5, 400)
    assert (row["low"], row["high"]) == (pytest.approx(0.5 - half, abs=0.01), pytest.approx(0.5 + half, abs=0.01))


def test_the_figure_has_a_panel_a_score_and_every_subset_in_it(llama):
    study = ablation_study(llama, token_concept(), alpha=1.0)
    figure = study.plot()
    shown = [trace for trace in figure.data if trace.mode == "markers"]
    assert len(shown) == 4
    assert all(list(trace.y) == list(PAPER) for trace in shown)
    assert list(shown[0].x) == study.to_frame()["target accuracy"].iloc[1:].tolist()
    assert [line.x0 for line in figure.layout.shapes] == study.to_frame().loc["unedited"].tolist()
    assert "alpha = 1 (dashed: unedited)" in figure.layout.title.text


def test_the_model_is_restored_also_after_an_error(llama):
    before = {name: parameter.clone() for name, parameter in llama.named_parameters()}
    calls = []

    def failing(model, given):
        calls.append(model)
        if len(calls) == 2:
            raise RuntimeError("stop")
        return {"x": [1.0]}

    with pytest.raises(RuntimeError, match="stop"):
        ablation_study(llama, token_concept(), score=failing)
    assert all(torch.equal(before[name], parameter) for name, parameter in llama.named_parameters())


def test_subsets_without_a_name_of_their_own_are_refused(llama):
    with pytest.raises(ValueError, match="subsets.*'unedited'"):
        ablation_study(llama, token_concept(), {"unedited": Only()})
    with pytest.raises(ValueError, match=r"subsets.*\[\]"):
        ablation_study(llama, token_concept(), {})
    with pytest.raises(ValueError, match="AllBut"):
        ablation_study(llama, token_concept(), {"nothing": AllBut()})


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], 1.0, [[1.0], [2.0]]])
def test_a_score_that_is_not_a_number_an_example_is_refused(llama, values):
    with pytest.raises(ValueError, match="score 'x' of 'unedited'"):
        ablation_study(llama, token_concept(), score=lambda model, given: {"x": values})


def test_a_study_by_hand_as_a_frame():
    rows = [("unedited", "x", 1.0), ("unedited", "a", 2.0), ("part", "x", 3.0), ("part", "a", 4.0)]
    study = AblationStudy(pd.DataFrame(rows, columns=["subset", "score", "value"]))
    assert study.to_frame().to_numpy().tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert list(study.to_frame()) == ["x", "a"]


def test_scores_are_the_models_own(full, concept):
    found = answers(full, concept)
    total = score(full, concept.sides)["target"]
    assert np.mean(found["target accuracy"]) == pytest.approx(total.accuracy, abs=0.02)
    assert len(found["reference loss"]) == len(concept.reference)
