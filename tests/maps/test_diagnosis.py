import pytest
import torch

from engram_interp import Concept, collect, decompose, diagnose, extract, filters, localize
from engram_interp.maps.diagnosis import DIAGNOSED
from engram_interp.models import adapt
from engram_interp.models.loading import bridge_of
from tests import huggingface
from tests.conftest import build, token_concept, tokens


def numbers(frame):
    return frame[[name for name in DIAGNOSED if name in frame]].to_numpy()


def test_every_input_is_factorised_twice_whatever_is_looked_at(llama, monkeypatch):
    calls = []
    eigh = torch.linalg.eigh
    monkeypatch.setattr(torch.linalg, "eigh", lambda S: calls.append(len(S)) or eigh(S))
    found = diagnose(llama, token_concept())
    found.filtered([filters.soft, filters.power(2), filters.hard(0.5)])
    found.plot()
    found.plot_matrix("blocks.0.mlp.W_gate")
    assert len(calls) == 2 * len(found.inputs)


def test_wnorms_are_the_maps_at_every_cut(gpt2):
    statistics = collect(gpt2, token_concept())
    found = diagnose(gpt2, statistics, rtols=[1e-4, 0.02])
    assert found.to_frame()["wnorm"].tolist() == pytest.approx(localize(gpt2, statistics).to_frame()["wnorm"].tolist())
    for rtol in (1e-4, 0.02):
        expected = localize(gpt2, statistics, rtol=rtol).to_frame()
        curve = found.wnorms[found.wnorms["rtol"] == rtol].set_index("key").loc[expected["key"], "wnorm"]
        assert curve.tolist() == pytest.approx(expected["wnorm"].tolist(), rel=1e-6)
    at_cut = diagnose(gpt2, statistics, rtol=0.02).to_frame()
    assert at_cut["wnorm"].tolist() == pytest.approx(expected["wnorm"].tolist())
    assert (at_cut["rank"] < at_cut["d"]).all()


def test_what_the_engram_carries_is_measured_on_the_inputs_themselves(llama):
    concept = token_concept()
    row = diagnose(llama, concept, components="in", layers=1).to_frame().iloc[0]
    statistics = collect(llama, concept)
    moments = [statistics.groups[side][row["input"]].matrix(ones=False) for side in ("target", "reference")]
    P = moments[0] @ torch.linalg.pinv(sum(moments), hermitian=True)
    W = adapt(llama).parameter("blocks.1.mlp.W_in").detach().double().T
    for side, S in zip(("target", "reference"), moments):
        X = torch.linalg.cholesky(S)
        assert row[f"output_{side}"] == pytest.approx(float((W @ P @ X).norm() ** 2 / (W @ X).norm() ** 2))
        assert row[f"{side}_passes"] == pytest.approx(float((P @ X).norm() ** 2 / X.norm() ** 2))


DEFICIENT = {
    "one token": Concept.from_tokens(tokens(1, 1, seed=1), tokens(1, 1, seed=2)),
    "fewer tokens than dimensions": Concept.from_tokens(tokens(2, 3, seed=1), tokens(2, 3, seed=2)),
    "the same tokens": Concept.from_tokens(tokens(1, 4).expand(9, 4), tokens(1, 4).expand(5, 4)),
}


@pytest.mark.parametrize("concept", DEFICIENT.values(), ids=list(DEFICIENT))
def test_deficient_data_are_diagnosed(any_model, concept):
    found = diagnose(any_model, concept)
    assert torch.tensor(numbers(found.to_frame()).astype(float)).isfinite().all()
    assert (found.to_frame()["rank"] < found.to_frame()["d"]).all()
    for spectra in found.spectra.values():
        assert ((spectra.shares >= 0) & (spectra.shares <= 1)).all()


def test_a_target_that_is_a_third_of_the_same_data_owns_a_third():
    model, rows = huggingface.make("Llama"), tokens(20, 6)
    found = diagnose(bridge_of("tiny", model), Concept.from_tokens(rows, rows.repeat(2, 1)))
    assert found.target_share == pytest.approx(1 / 3)
    for spectra in found.spectra.values():
        assert spectra.shares.tolist() == pytest.approx([1 / 3] * spectra.rank, rel=1e-3)
    frame = found.to_frame()
    assert frame["obliqueness"].tolist() == pytest.approx([1] * len(frame), rel=1e-3)
    assert frame["wnorm"].tolist() == pytest.approx([1 / 3] * len(frame), rel=1e-3)
    assert frame["output_target"].tolist() == pytest.approx([1 / 9] * len(frame), rel=1e-3)


def test_filters_are_read_off_the_spectra(llama):
    found = diagnose(llama, token_concept(), components="gate", layers=0)
    (spectra,) = found.spectra.values()
    x = spectra.shares
    table = found.filtered([filters.soft, torch.sqrt]).set_index("filter")
    assert table.at["soft", "taken"] == pytest.approx(found.inputs.at[0, "owned"])
    assert table.at["soft", "target_passes"] == pytest.approx(float((x**3).sum() / x.sum()))
    assert table.at["sqrt", "reference_passes"] == pytest.approx(float((x * (1 - x)).sum() / (1 - x).sum()))


@pytest.mark.parametrize("g", [lambda x: x.sum(), lambda x: x * torch.nan])
def test_a_filter_that_is_none_is_refused(llama, g):
    found = diagnose(llama, token_concept(), components="gate", layers=0)
    with pytest.raises(ValueError, match="filter"):
        found.filtered([g])


def test_a_part_is_diagnosed_as_its_concept(gpt2):
    concept = token_concept()
    parts = decompose(gpt2, {"mine": concept.target, "rest": concept.reference})
    found, direct = parts.diagnose("mine"), diagnose(gpt2, concept)
    assert found.to_frame()["key"].tolist() == direct.to_frame()["key"].tolist()
    assert numbers(found.to_frame()) == pytest.approx(numbers(direct.to_frame()), rel=1e-3)
    assert found.name == "mine"


def test_statistics_are_diagnosed_without_a_model(llama):
    statistics = collect(llama, token_concept())
    alone, whole = diagnose(statistics), diagnose(llama, statistics)
    assert alone.matrices is None
    assert numbers(alone.to_frame()) == pytest.approx(numbers(whole.inputs))
    other = diagnose(statistics, "reference")
    assert (alone.name, other.name) == (statistics.name, "reference")
    total = alone.inputs["owned"] + other.inputs["owned"]
    assert total.tolist() == pytest.approx(alone.inputs["rank"].tolist())  # P+ + P- = Pi
    with pytest.raises(ValueError, match="statistics alone"):
        alone.plot()
    with pytest.raises(ValueError, match="'mine'.*target, reference"):
        diagnose(statistics, "mine")
    with pytest.raises(TypeError, match="components, layers.*delta_from"):
        diagnose(statistics, layers=[0])
    with pytest.raises(TypeError, match="group.*Concept"):
        diagnose(statistics, token_concept())


def test_experts_share_a_cell():
    found = diagnose(bridge_of("tiny", huggingface.make("Mixtral")), token_concept())
    layer = found.matrices[(found.matrices["component"] == "W_in") & (found.matrices["layer"] == 1)]
    assert len(layer) > 1
    heatmap, unembed = found.plot("owned").data
    row = list(heatmap.y).index("W_in")
    assert heatmap.z[row][1] == pytest.approx(layer["owned"].mean(), rel=1e-6)
    assert unembed.z[0][0] == pytest.approx(found.matrices["owned"].iloc[-1], rel=1e-6)


def test_the_figure_of_a_matrix_shows_its_spectra_and_its_curve(llama):
    found = diagnose(llama, token_concept(), rtol=1e-3)
    figure = found.plot_matrix("blocks.1.attn.W_O")
    by_name = {trace.name: trace for trace in figure.data}
    curve = found.wnorms[found.wnorms["key"] == "blocks.1.attn.W_O"]
    assert list(by_name["W-Norm"].y) == curve["wnorm"].tolist()
    assert list(by_name["share"].y) == found.spectra["blocks.1.attn.z"].shares.flip(0).tolist()
    assert "W-Norm" not in {trace.name for trace in found.plot_matrix("blocks.1.attn.z").data}


def test_what_is_not_there_is_refused(llama):
    found = diagnose(llama, token_concept(), components=["Q"])
    with pytest.raises(ValueError, match="rank, condition, .*'rang'"):
        found.plot("rang")
    with pytest.raises(ValueError, match=r"'blocks\.0\.attn\.W_O'.*blocks\.0\.attn\.W_Q, "):
        found.plot_matrix("blocks.0.attn.W_O")
    with pytest.raises(ValueError, match=r"rtol.* 2\.0$"):
        diagnose(llama, token_concept(), rtols=[2.0])
    with pytest.raises(TypeError, match="concept.*'target'"):
        diagnose(llama)


@pytest.mark.parametrize(
    "options", [{"ridge": 2.0}, {"filter": filters.power(2)}, {"ridge": 2.0, "filter": filters.clip(3)}]
)
def test_a_diagnosis_of_other_projectors_is_that_of_their_definition(gpt2, options):
    # By brute force: P = g(S+ (S + ridge)^-1) from the non-symmetric matrix's own eigenvectors.
    concept = token_concept(n=200)
    statistics = collect(gpt2, concept, components="in")
    found = diagnose(gpt2, statistics, absorb_bias=False, rtols=[1e-6], **options)
    for name, row in found.inputs.set_index("input").iterrows():
        S = statistics.total(name).matrix(False)
        S_plus = statistics.groups["target"][name].matrix(False)
        ridge, g = options.get("ridge", 0.0), options.get("filter", filters.soft)
        lam, V = torch.linalg.eig(S_plus @ torch.linalg.inv(S + ridge * torch.eye(len(S)).double()))
        P = (V * g(lam.real.clamp(0, 1)) @ torch.linalg.inv(V)).real
        assert row["owned"] == pytest.approx(P.trace().item(), rel=1e-4)
        passes = ((P @ S_plus) * P).sum() / S_plus.trace()
        assert row["target_passes"] == pytest.approx(passes.item(), rel=1e-4)
        cut = found.cuts[(found.cuts["input"] == name) & (found.cuts["rtol"] == 1e-6)]
        assert cut["target_passes"].item() == pytest.approx(passes.item(), rel=1e-3)


def test_a_ridge_or_filter_that_changes_nothing_gives_the_same_diagnosis(gpt2):
    plain = diagnose(gpt2, token_concept(n=200), components="in")
    other = diagnose(gpt2, token_concept(n=200), components="in", filter=filters.power(1))
    for one in ("inputs", "cuts", "wnorms", "matrices"):
        columns = getattr(plain, one).select_dtypes("float").columns
        assert getattr(other, one)[columns].to_numpy() == pytest.approx(
            getattr(plain, one)[columns].to_numpy(), rel=1e-4, abs=1e-6, nan_ok=True
        ), one


def massive(model) -> Concept:
    """Tokens of which one, a quarter of all, has an embedding a thousand times as large as the others'."""
    with torch.no_grad():
        adapt(model).W_E[7] *= 1e3
    rows = tokens(150, 12, seed=3)
    rows[:, ::4] = 7
    return Concept.from_tokens(rows[:50], rows[50:], name="massive")


def test_a_massive_activation_that_sets_the_cut_is_said_and_can_be_set_aside(caplog):
    unnormalized = build("unnormalized")
    concept = massive(unnormalized)
    options = {"components": ["Q"], "layers": [0], "rtol": 1e-4}
    with caplog.at_level("WARNING", "engram_interp"):
        found = diagnose(unnormalized, concept, **options)
        assert "outliers=0.01" in caplog.text
        row = found.inputs.iloc[0]
        assert f"keeps {row['rank']} of {row['d']}" in caplog.text
        caplog.clear()
        aside = diagnose(unnormalized, concept, **options, outliers=0.01)
        assert "outliers" not in caplog.text
    assert row["rank"] < row["rank_set_aside"] == aside.inputs.iloc[0]["rank"]
    assert row["leading"] > 100
    # The engram is that of the cut which the diagnosis names.
    cut = aside.inputs.iloc[0]["rtol"]
    same = extract(unnormalized, concept, **{**options, "rtol": float(cut)})
    for key, tensor in extract(unnormalized, concept, **options, outliers=0.01).items():
        assert torch.allclose(tensor, same[key], rtol=1e-4, atol=1e-6)
