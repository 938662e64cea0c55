"""What can be done with a language model can be done with a plain module."""

import logging
import weakref

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import engram_interp as ei
from engram_interp.maps import null_pass
from engram_interp.models import adapt
from tests.models.torch_module.oracle import relative_error


@pytest.fixture(scope="module")
def pictures() -> TensorDataset:
    """Three classes of noisy 6 x 6 pictures, each bright in a place of its own."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(240) % 3
    x = 0.5 * torch.randn(240, 2, 6, 6, generator=generator)
    for label in range(3):
        x[y == label, :, 2 * label : 2 * label + 2] += 1.0
    return TensorDataset(x, y)


@pytest.fixture(scope="module")
def classifier(pictures) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 8, 3, stride=2, groups=2), nn.ReLU(), nn.Flatten(),
        nn.Linear(32, 3),
    )  # fmt: skip
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    x, y = pictures.tensors
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model


def test_a_class_is_forgotten_and_the_others_stay(classifier, pictures):
    concept = ei.Concept.from_dataset(pictures, 1)
    engram = ei.extract(classifier, concept)
    choice = ei.choose_alpha(classifier, engram, concept, keep=0.9)
    before = ei.score(classifier, concept.sides)
    with engram.ablated(classifier, choice.alpha):
        after = ei.score(classifier, concept.sides)
    assert before["target"].accuracy > 0.95
    assert after["target"].accuracy < 0.5
    assert after["reference"].accuracy > 0.9
    assert choice.chosen["kept_low"] >= 0.9
    assert ei.score(classifier, concept.sides) == before


def test_a_strength_is_chosen_by_any_function_also_without_labels(classifier, pictures):
    x, y = pictures.tensors
    concept = ei.Concept.from_batches(x[y == 1].split(16), x[y != 1].split(16))
    engram = ei.extract(classifier, concept)
    plain = classifier(x).detach()

    def closeness(model, batch):
        return 1 / (1 + (model(batch.inputs) - classifier_of(batch)).square().sum(1)).detach()

    def classifier_of(batch):
        rows = [(x == one).flatten(1).all(1).nonzero()[0, 0] for one in batch.inputs]
        return plain[torch.stack(rows)]

    choice = ei.choose_alpha(classifier, engram, concept, keep=0.8, measure=closeness, start=0.1)
    assert 0 < choice.alpha < 8
    assert choice.measure == "closeness"


def test_parts_of_a_labelled_dataset_are_its_classes_and_add_up(classifier, pictures):
    parts = ei.decompose(classifier, pictures)
    assert list(parts) == ["0", "1", "2"]
    own = ei.extract(classifier, ei.Concept.from_dataset(pictures, 2))
    for key in own:
        assert relative_error(parts["2"][key], own[key]) < 1e-4, key
    together = parts.engram(["0", "1", "2"])
    weight = dict(classifier.named_parameters())
    assert all(relative_error(together[key], weight[key]) < 1e-3 for key in ("0.weight", "2.weight"))
    assert ei.overlap(parts).matrix().shape == (3, 3)
    assert (ei.complement(parts).to_frame()["unowned"] < 1e-6).all()
    assert len(parts.localize("1").to_frame()) == 4
    cost = ei.interference(parts, {"1": ei.Concept.from_dataset(pictures, 1).target,
                                   "2": ei.Concept.from_dataset(pictures, 2).target}, alpha=3.0)  # fmt: skip
    assert cost.accuracy.loc["1", "1"] > 0.5 > cost.accuracy.loc["1", "2"]


def test_a_map_has_modules_in_call_order_with_channels_and_groups(classifier, pictures):
    wmap = ei.localize(classifier, ei.Concept.from_dataset(pictures, 1))
    frame = wmap.to_frame()
    assert frame["key"].tolist() == ["0.weight", "2.weight[0]", "2.weight[1]", "5.weight"]
    assert frame["layer"].tolist() == [0, 1, 1, 2]
    assert frame["expert"].tolist()[1:3] == [0, 1]
    assert wmap.components == ("0", "2", "5")
    assert wmap.heads("0").shape == (3, 6)
    assert wmap.heads("2")[1].isfinite().sum() == 8  # channels are numbered through all groups
    engram = ei.extract(classifier, ei.Concept.from_dataset(pictures, 1))
    assert wmap["2.weight"] == pytest.approx(engram.wnorm()["2.weight"])
    assert wmap.wnorm.shape == (3, 3)
    assert wmap.plot("fisher_excess").layout.title.text.startswith("Fisher share over its analytic null of '1'")
    assert wmap.plot_heads().layout.title.text.startswith("W-Norm by channel or head of '1'")
    (bars,) = wmap.plot("fisher_excess").data
    assert list(bars.y) == frame["key"].tolist()
    (rows,) = wmap.plot_heads().data
    assert list(rows.y) == ["0", "2"]
    assert [len(row) for row in rows.z] == [8, 8]
    assert [len(row) for row in wmap.plot_experts().data[0].z] == [2]


def test_the_null_of_random_pictures_and_that_of_other_classes(classifier, pictures):
    concept = ei.Concept.from_dataset(pictures, 1)
    drawn = ei.localize(classifier, concept, null="resampled", draws=19)
    assert drawn.to_frame()["p_value"].between(0.05, 1).all()
    # A class is no random set of pictures: it stands out.
    assert drawn.to_frame()["gain"].max() > 1
    blocks = {"target": [0] * 80, "reference": [1 + i % 20 for i in range(160)]}
    siblings = ei.localize(classifier, concept, groups=blocks, gradient=True)
    assert siblings.null == "siblings"
    assert siblings.to_frame()["reliance"].notna().all()


def test_diagnoses_criteria_studies_and_task_vectors(classifier, pictures):
    concept = ei.Concept.from_dataset(pictures, 1)
    found = ei.diagnose(classifier, concept)
    assert len(found.to_frame()) == 4
    assert len(found.plot().data[0].y) == 4
    missed = ei.criteria(classifier, concept, alpha=1.0).to_frame()["behavioural"]
    assert missed["specificity"] < 0.1
    study = ei.ablation_study(classifier, concept, {"first": ei.Only("0"), "rest": ei.AllBut("0")}, alpha=2.0)
    assert list(study.to_frame().index) == ["unedited", "first", "rest"]
    assert study.to_frame().loc["unedited", "target accuracy"] > 0.95
    base = adapt(classifier).copy()
    nn.init.normal_(base[5].weight)
    learnt = ei.task_vector(classifier, classifier, base)
    torch.testing.assert_close(learnt["5.weight"], classifier[5].weight.detach() - base[5].weight.detach())
    delta = ei.extract(classifier, concept, delta_from=base)
    assert float(delta["0.weight"].norm()) == 0
    assert float(delta["5.weight"].norm()) > 0


def test_engrams_and_statistics_come_back_from_files(classifier, pictures, tmp_path):
    concept = ei.Concept.from_dataset(pictures, 1)
    statistics, engram = ei.collect(classifier, concept), ei.extract(classifier, concept)
    statistics.save(tmp_path / "s.safetensors")
    engram.save(tmp_path / "e.safetensors")
    again = ei.Engram.load(tmp_path / "e.safetensors")
    places = [[(one.key, one.layer, one.block, one.layout) for one in found.sites] for found in (again, engram)]
    assert places[0] == places[1]
    assert all(torch.equal(again[key], engram[key]) for key in engram)
    # Another copy of the model, which no pass has gone through, knows the order of calls from the file.
    twin = adapt(classifier).copy()
    read = ei.Statistics.load(tmp_path / "s.safetensors")
    assert all(torch.equal(ei.extract(twin, read)[key], engram[key]) for key in engram)
    assert [site.layer for site in adapt(twin).all_sites()] == [0, 1, 1, 2]
    some = again.select(components="2", heads=[0, 5])
    assert set(some) == {"2.weight", "2.bias"}
    assert (some["2.weight"].flatten(1).norm(dim=1) > 0).nonzero().flatten().tolist() == [0, 5]
    edited = again.ablate(twin, {"0": 1.0, "5.weight": 0.5})
    torch.testing.assert_close(edited[5].weight, twin[5].weight - 0.5 * engram["5.weight"])
    assert torch.equal(edited[2].weight, twin[2].weight)
    other = nn.Sequential(nn.Linear(4, 3))
    with pytest.raises(ValueError, match="does not fit"):
        again.ablate(other)


def test_layers_are_depths_in_the_order_of_calls():
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.last, self.first = nn.Linear(4, 2), nn.Linear(3, 4)

        def forward(self, x):
            return self.last(self.first(x))

    model, concept = Backwards(), ei.Concept.from_batches([torch.randn(9, 3)], [torch.randn(9, 3)])
    assert list(ei.extract(model, concept, layers=0)) == ["first.weight", "first.bias"]
    assert ei.localize(model, concept).to_frame()["key"].tolist() == ["first.weight", "last.weight"]
    once = ei.Concept.from_batches(iter([torch.randn(9, 3)]), iter([torch.randn(9, 3)]))
    assert list(ei.extract(Backwards(), once, layers=1)) == ["last.weight", "last.bias"]
    with pytest.raises(ValueError, match="once"):
        ei.extract(Backwards(), once)


@pytest.mark.parametrize(
    ("model", "batch", "match"),
    [
        (nn.ReLU, torch.zeros(3, 4), "ReLU has no layer"),
        (lambda: nn.LazyLinear(3), torch.zeros(3, 4), "not initialised"),
        (lambda: nn.Linear(5, 3), torch.zeros(3, 4), r"refuses the batch target\[0\] to target\[2\]"),
        (lambda: nn.Linear(4, 3), torch.full((3, 4), torch.nan), r"non-finite.*weight, batch 0 \(target\[0\]"),
        (lambda: nn.Linear(4, 3), torch.zeros(0, 4), "empty"),
    ],
)
def test_bad_input_is_refused_by_name(model, batch, match):
    with pytest.raises(ValueError, match=match):
        ei.extract(model(), ei.Concept.from_batches([batch], [torch.ones(3, 4)]))


def test_labels_out_of_range_and_text_are_refused(classifier, pictures):
    x, _ = pictures.tensors
    concept = ei.Concept.from_batches([(x, torch.full((240,), 7))], [(x, torch.zeros(240).long())], labelled=True)
    with pytest.raises(ValueError, match="0 to 2.*have 7"):
        ei.score(classifier, concept.sides)
    with pytest.raises(TypeError, match="target is text"):
        ei.extract(classifier, ei.Concept(["a cat"], ["a dog"]))
    with pytest.raises(ValueError, match="labelled=True"):
        ei.extract(classifier, ei.Concept.from_batches([[x, torch.zeros(240)]], [[x, torch.zeros(240)]]))
    with pytest.raises(TypeError, match="language model"):
        ei.greedy_answers(classifier, ["a cat"])


def test_weights_that_are_computed_or_quantised_are_refused_by_name():
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), nn.Linear(4, 2))
    concept = ei.Concept.from_batches([torch.randn(9, 4)], [torch.randn(9, 4)])
    with pytest.raises(NotImplementedError, match=r"0.*parametrisation.*components=\['1'\]"):
        ei.extract(model, concept)
    assert set(ei.extract(model, concept, components="1")) == {"1.weight", "1.bias"}
    quantised = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    quantised[0].weight = nn.Parameter(torch.zeros(4, 4, dtype=torch.int8), requires_grad=False)
    with pytest.raises(NotImplementedError, match="int8"):
        ei.extract(quantised, concept)


def test_the_memory_that_statistics_take_is_said_before_the_pass(caplog):
    # 4608 inputs of 512 channels of 3 x 3: 85 MB in float32, for each of two groups.
    model = nn.Sequential(nn.Conv2d(512, 2, 3))
    concept = ei.Concept.from_batches([torch.randn(2, 512, 3, 3)], [torch.randn(2, 512, 3, 3)])
    with caplog.at_level(logging.INFO, logger="engram_interp"):
        ei.collect(model, concept)
    (said,) = [record.getMessage() for record in caplog.records if "statistics of" in record.getMessage()]
    assert "169.9 MB" in said


def test_a_pass_holds_no_batch():
    alive: list[weakref.ref] = []

    def batches():
        for _ in range(6):
            x = torch.randn(200, 8)
            alive.append(weakref.ref(x))
            yield x
            del x
            assert sum(one() is not None for one in alive) <= 2

    ei.extract(nn.Linear(8, 2), ei.Concept.from_batches(batches(), batches()))
    assert len(alive) == 12


def test_large_rows_are_kept_only_if_somebody_asks(monkeypatch, caplog):
    model, seen = ei.testbed.load_classifier(), ei.testbed.pictures("test")
    concept = ei.Concept.from_dataset(seen, "star split")
    monkeypatch.setattr(null_pass, "TOO_LARGE", 1e6)
    assert ei.localize(model, concept).null == "analytic"
    assert 'null="siblings"' in caplog.text
    assert ei.localize(model, concept, null="siblings", components="fc2").null == "siblings"


def test_a_study_of_a_plain_module_takes_its_modules_one_by_one(classifier, pictures):
    study = ei.ablation_study(classifier, ei.Concept.from_dataset(pictures, 1), alpha=2.0)
    assert list(study.to_frame().index) == ["unedited", "all modules", "0 only", "2 only", "5 only"]


def test_parts_of_a_parameter_can_be_selected_saved_added_and_tested(classifier, pictures, tmp_path):
    concept = ei.Concept.from_dataset(pictures, 1)
    engram = ei.extract(classifier, concept)
    second = engram.select(keys="2.weight[1]")
    assert float(second["2.weight"][:4].norm()) == 0
    torch.testing.assert_close(second["2.weight"][4:], engram["2.weight"][4:])
    weight = classifier[2].weight.detach().double()
    assert second.wnorm()["2.weight"] == pytest.approx(float(engram["2.weight"][4:].norm() / weight[4:].norm()))
    second.save(tmp_path / "e.safetensors")
    again = ei.Engram.load(tmp_path / "e.safetensors")
    assert again.wnorm() == second.wnorm()
    whole = engram.select(keys="2.weight[0]") + again
    torch.testing.assert_close(whole["2.weight"], engram["2.weight"])
    assert whole.wnorm()["2.weight"] == pytest.approx(engram.wnorm()["2.weight"])
    choice = ei.choose_alpha(classifier, engram.select("2"), concept, keep=0.9)
    assert choice.alpha > 0
    assert len(ei.criteria(classifier, second, concept).matrices) == 1


def test_a_measure_of_right_answers_needs_labels(classifier, pictures):
    x, y = pictures.tensors
    concept = ei.Concept.from_batches([x[y == 1]], [x[y != 1]])
    engram = ei.extract(classifier, concept)
    with pytest.raises(ValueError, match="accuracy.*labels"):
        ei.choose_alpha(classifier, engram, concept)
    wrong = ei.Concept.from_batches([(x[y == 1], y[y == 1])], [(x[y != 1], (y[y != 1] + 1) % 3)], labelled=True)
    with pytest.raises(ValueError, match="nothing to keep"):
        ei.choose_alpha(classifier, ei.extract(classifier, wrong), wrong)


def test_a_model_that_takes_whole_batches_only_and_one_under_inference_mode():
    class Graph(nn.Module):
        def __init__(self):
            super().__init__()
            self.out = nn.Linear(4, 2)

        @torch.inference_mode()
        def forward(self, A, x):
            return self.out(A @ x)

    model, batch = Graph(), (torch.randn(9, 9), torch.randn(9, 4))
    found = ei.extract(model, ei.Concept.from_batches([batch], [batch]), components="out")
    torch.testing.assert_close(found["out.weight"], 0.5 * model.out.weight.detach(), atol=1e-5, rtol=1e-4)


def test_scripted_and_compiled_modules_are_refused():
    concept = ei.Concept.from_batches([torch.randn(9, 4)], [torch.randn(9, 4)])
    compiled = nn.Sequential(nn.Linear(4, 2))
    compiled[0]._compiled_call_impl = lambda x: x  # as module.compile() leaves it
    with pytest.raises(NotImplementedError, match="compiled"):
        ei.extract(compiled, concept)
