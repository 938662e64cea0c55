import copy
import itertools
import logging

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import engram_interp as ei
from engram_interp.models import adapt
from engram_interp.models.loading import as_language_model
from tests import huggingface
from tests.conftest import build, token_concept
from tests.learning.tracking.interrupted import Stopped, one_at_a_time, stopping

OPTIONS = dict(null="resampled", draws=19, progress=False)


def between(variant: str = "llama", shares=(0.0, 0.4, 1.0)) -> list[tuple[int, nn.Module]]:
    """Checkpoints on the way from one random model to another."""
    first, last = build(variant), build(variant, seed=1)
    found = []
    for share in shares:
        model = copy.deepcopy(first)
        with torch.no_grad():
            for p, q in zip(model.parameters(), last.parameters(), strict=True):
                p.lerp_(q, share)
        found.append((int(100 * share), model))
    return found


def concepts() -> list[ei.Concept]:
    one, other = token_concept(12), token_concept(12, seed=5)
    return [ei.Concept(one.target, one.reference, "one"), ei.Concept(other.target, one.reference, "other")]


@pytest.fixture(scope="module")
def steps() -> list[tuple[int, nn.Module]]:
    return between()


@pytest.fixture(scope="module")
def found(steps) -> ei.Trajectory:
    return ei.track(steps, concepts(), **OPTIONS)


def test_every_map_is_that_of_localize_to_the_bit(steps, found):
    for step, model in steps:
        for concept in concepts():
            wmap = ei.localize(model, concept, **OPTIONS)
            mine = found.map(concept.name, step)
            assert mine.table.equals(wmap.table)
            assert (mine.null, mine.n_layers, mine.counts, mine.positions) == (
                wmap.null, wmap.n_layers, wmap.counts, wmap.positions,
            )  # fmt: skip
    assert found.map().name == "one"


def test_answers_are_those_of_score(steps, found):
    for step, model in steps:
        for concept in concepts():
            for side, score in ei.score(model, concept.sides).items():
                row = found.answers.set_index(["step", "concept", "side"]).loc[(step, concept.name, side)]
                assert (row["accuracy"], row["loss"], row["n_tokens"]) == (score.accuracy, score.loss, score.n_tokens)


def test_changes_are_those_of_the_matrices_and_their_engrams(steps, found):
    concept, key = concepts()[0], "blocks.1.mlp.W_in"
    table = found.to_frame().set_index(["step", "concept", "key"])
    assert table.loc[(0, "one", key)][["moved", "delta"]].isna().all()
    for (_, before), (step, model) in itertools.pairwise(steps):
        W, W_before = (adapt(one).parameter(key).detach().double() for one in (model, before))
        engram = ei.extract(model, concept, delta_from=before)
        row = table.loc[(step, "one", key)]
        assert row["moved"] == pytest.approx(float((W - W_before).norm() / W.norm()), rel=1e-5)
        assert row["delta"] == pytest.approx(engram.wnorm()[key], rel=1e-5)


def test_engrams_are_compared_with_the_last_ones(steps, found):
    concept, key = concepts()[0], "blocks.0.attn.W_O"
    engrams = [ei.extract(model, concept)[key].double().flatten(0, 1) for _, model in steps]
    table = found.to_frame().set_index(["step", "concept", "key"])
    for (step, _), engram in zip(steps, engrams, strict=True):
        cosine = float((engram * engrams[-1]).sum() / engram.norm() / engrams[-1].norm())
        assert table.loc[(step, "one", key), "cosine"] == pytest.approx(cosine, abs=2e-4)
    last = table.loc[(100, "one", key)]
    assert (last["cosine"], last["subspace"]) == (pytest.approx(1, abs=1e-5), pytest.approx(1, abs=1e-5))
    assert 0 <= table.loc[(0, "one", key), "subspace"] < 1


def test_overlaps_are_those_of_a_decomposition(steps, found):
    both = concepts()
    groups = {one.name: one.target for one in both} | {"reference": both[0].reference}
    parts = ei.decompose(steps[1][1], groups)
    expected = ei.overlap(parts, ["one", "other"]).matrix().at["one", "other"]
    row = found.overlaps[found.overlaps["step"] == 40].iloc[0]
    assert row["overlap"] == pytest.approx(expected, rel=1e-6)
    assert len(found.overlaps) == len(steps)


def test_the_null_has_its_band(found):
    table = found.to_frame()
    assert (table["null_low"] <= table["expected"] * 1.0001).all()
    assert (table["null_high"] >= table["expected"] * 0.9999).all()


def test_a_checkpoint_that_cannot_be_read_is_named_and_the_rest_goes_on(steps, tmp_path, caplog):
    broken = copy.deepcopy(steps[0][1])
    with torch.no_grad():
        broken.embed.W_E.fill_(float("nan"))
    (tmp_path / "checkpoint-60").mkdir()
    given = [steps[0], (50, broken), tmp_path / "checkpoint-60", tmp_path / "checkpoint-70", steps[-1]]
    with caplog.at_level(logging.WARNING, "engram_interp"):
        found = ei.track(given, concepts()[0], **OPTIONS)
    assert found.steps["step"].tolist() == [0, 100]
    assert found.steps["since"].tolist()[1] == 0
    assert len(found.failed) == 3
    assert any("checkpoint-70" in name for name in found.failed)
    assert "checkpoint-60" in caplog.text
    assert "3 left out" in repr(found)


def test_no_checkpoint_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="checkpoint-7"):
        ei.track([tmp_path / "checkpoint-7"], concepts()[0], **OPTIONS)
    with pytest.raises(ValueError, match="there is none"):
        ei.track([], concepts()[0])


def test_checkpoints_of_other_shapes_are_refused(steps):
    with pytest.raises(ValueError, match="step 7 .* step 0: blocks.0.mlp.W_gate"):
        ei.track([steps[0], (7, build("llama", d_mlp=20))], concepts()[0], **OPTIONS)


def test_checkpoints_of_other_tokenizers_are_refused():
    texts = ei.Concept(["the city of Oslo"], ["What is the capital of Norway?", "Lima is in Peru."], "Oslo")
    model, other = ei.testbed.load("base"), ei.testbed.load("base")
    other.cfg.default_prepend_bos = not other.cfg.default_prepend_bos
    with pytest.raises(ValueError, match="tokenizer of step 1"):
        ei.track([model, other], texts, components="gate", layers=0, null="analytic", progress=False)


@pytest.mark.parametrize("stop_after", [0, 1, 2])
def test_an_interrupted_track_goes_on_and_ends_the_same(steps, found, tmp_path, stop_after):
    with pytest.raises(Stopped):
        ei.track(stopping(steps, stop_after), concepts(), folder=tmp_path, **OPTIONS)
    loaded = []
    rest = [(step, lambda step=step, model=model: loaded.append(step) or model) for step, model in steps]
    again = ei.track(rest, concepts(), folder=tmp_path, **OPTIONS)
    assert loaded == [step for step, _ in steps[stop_after:]]
    assert again.table.equals(found.table)
    assert again.answers.equals(found.answers)


def test_a_broken_file_is_measured_again(steps, found, tmp_path, caplog):
    ei.track(steps[:2], concepts(), folder=tmp_path, **OPTIONS)
    path = next(tmp_path.glob("step-*40.safetensors"))
    path.write_bytes(path.read_bytes()[:-9])
    with caplog.at_level(logging.WARNING, "engram_interp"):
        again = ei.track(steps, concepts(), folder=tmp_path, **OPTIONS)
    assert "step 40" in caplog.text
    assert again.steps["step"].tolist() == [0, 40, 100]


@pytest.mark.parametrize("change", ["options", "concept", "null"])
def test_a_folder_of_another_track_is_refused(steps, tmp_path, change):
    ei.track(steps[:1], concepts(), folder=tmp_path, **OPTIONS)
    options = {
        **OPTIONS,
        **({"ridge": 1.0} if change == "options" else {}),
        **({"draws": 29} if change == "null" else {}),
    }
    asked = [token_concept(13)] if change == "concept" else concepts()
    said = {"options": "solve", "concept": "concepts", "null": "compare"}[change]
    with pytest.raises(ValueError, match=said):
        ei.track(steps, asked, folder=tmp_path, **options)


def test_a_reference_may_serve_several_checkpoints_and_its_error_is_said(caplog):
    steps = between(shares=(0.0, 0.1, 0.2, 0.3, 0.4))
    with caplog.at_level(logging.INFO, "engram_interp"):
        found = ei.track(steps, concepts()[0], reuse_reference=2, progress=False)
    fresh = ei.track(steps, concepts()[0], null="analytic", progress=False)
    same = [found.map("one", step).table.equals(fresh.map("one", step).table) for step in (0, 10, 20, 30, 40)]
    assert same == [True, False, True, False, True]
    errors = found.steps["reference_error"].dropna()
    assert len(errors) == 2
    # The statistics of step 0 against those of step 20, with the target's own of step 20.
    model = steps[2][1]
    mixed = ei.collect(model, concepts()[0])
    stale = ei.collect(steps[0][1], concepts()[0])
    mixed.groups["reference"] = stale.groups["reference"]
    sizes = ei.localize(model, concepts()[0], null="analytic").to_frame()["wnorm"]
    off = (ei.localize(model, mixed).to_frame()["wnorm"] - sizes).abs() / sizes
    assert errors.iloc[0] == pytest.approx(off.max(), rel=1e-6)
    assert "step 20" in caplog.text


def test_the_last_checkpoint_reads_its_own_reference():
    steps = between(shares=(0.0, 0.1))
    found = ei.track(steps, concepts()[0], reuse_reference=9, progress=False)
    assert found.map().table.equals(ei.localize(steps[-1][1], concepts()[0], null="analytic").table)


def test_a_reference_that_is_kept_has_no_sets(steps):
    for options in (dict(null="siblings"), dict(gradient=True), dict(groups=[1])):
        with pytest.raises(ValueError, match="reuse_reference=2"):
            ei.track(steps, concepts()[0], reuse_reference=2, **options)


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ([], ValueError, "none"),
        ("author", TypeError, "str"),
        ({"a": 1}, TypeError, "int"),
    ],
)
def test_what_is_no_concept_is_refused(steps, given, error, said):
    with pytest.raises(error, match=said):
        ei.track(steps, given, **OPTIONS)


def test_concepts_of_one_name_and_iterators_are_refused(steps):
    one = concepts()[0]
    with pytest.raises(ValueError, match="one, one"):
        ei.track(steps, [one, one], **OPTIONS)
    once = ei.Concept.from_batches(iter([torch.rand(4, 3)]), [torch.rand(4, 3)])
    with pytest.raises(TypeError, match="iterator"):
        ei.track(steps, once, **OPTIONS)


@pytest.mark.parametrize("reuse", [1, 2])
def test_plain_modules_are_tracked(reuse):
    x, y = torch.randn(80, 6, generator=torch.Generator().manual_seed(0)), torch.arange(80) % 4
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 4))
    concept = ei.Concept.from_dataset(TensorDataset(x, y), target=1)
    states, optimizer = [], torch.optim.Adam(net.parameters(), lr=0.03)
    for step in range(41):
        if step % 20 == 0:
            states.append((step, {name: one.clone() for name, one in net.state_dict().items()}))
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    found = ei.track(states, concept, model=net, null="analytic", reuse_reference=reuse, progress=False)
    assert found.steps["step"].tolist() == [0, 20, 40]
    last = copy.deepcopy(net)
    last.load_state_dict(states[-1][1])
    assert found.map().table.equals(ei.localize(last, concept, null="analytic").table)
    target = found.answers[found.answers["side"] == "target"]["accuracy"].tolist()
    assert target[-1] == ei.score(last, concept.sides)["target"].accuracy
    assert found.plot("fisher").data
    assert found.animate("wnorm").frames


def test_batches_without_labels_have_no_answers():
    net = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 4))
    concept = ei.Concept.from_batches([torch.randn(30, 6)], [torch.randn(60, 6)])
    found = ei.track([net], concept, null="analytic", progress=False)
    assert not len(found.answers)
    assert found.formation()["learned"].isna().all()


def test_a_hugging_face_model_reads_text_with_its_tokenizer():
    hf = huggingface.make("Llama")
    tokenizer = ei.testbed.load("base").tokenizer
    hf.resize_token_embeddings(len(tokenizer))
    texts = ei.Concept(["the city of Oslo", "Oslo"], ["What is the capital of Norway?", "Lima is in Peru."], "Oslo")
    found = ei.track([hf], texts, tokenizer=tokenizer, null="analytic", progress=False)
    wmap = ei.localize(as_language_model(hf, tokenizer), texts, null="analytic")
    assert found.map().table.equals(wmap.table)
    assert "blocks.0.attn.W_Q" in found.map()


def test_streams_and_masks_of_tokens_serve_as_concepts(steps):
    class Endless:
        def __iter__(self):
            return iter(token_concept(4).reference)

    concept = ei.Concept(token_concept(4).target, Endless(), "stream")
    found = ei.track(steps[:2], concept, null="analytic", progress=False)
    assert found.map().table.equals(ei.localize(steps[1][1], concept, null="analytic").table)


def test_the_engram_of_a_difference_can_be_tracked(steps):
    base = steps[0][1]
    found = ei.track(steps, concepts()[0], delta_from=base, null="analytic", progress=False)
    first = found.to_frame().query("step == 0")
    assert (first["wnorm"] == 0).all()
    assert first["cosine"].isna().all()
    expected = ei.localize(steps[-1][1], concepts()[0], delta_from=base, null="analytic")
    assert found.map().table.equals(expected.table)


def test_one_model_is_in_memory_at_a_time(tmp_path):
    for _ in range(2):  # the second time all steps are there already
        alive = []
        ei.track(one_at_a_time(alive), concepts()[0], folder=tmp_path, null="analytic", progress=False)
        assert len(alive) == 3


def test_an_iterator_that_changes_one_model_is_measured_where_it_is():
    model, last = build("llama"), build("llama", seed=1)

    def changing():
        for step in range(3):
            yield step, model
            with torch.no_grad():
                for p, q in zip(model.parameters(), last.parameters(), strict=True):
                    p.lerp_(q, 0.3)

    plain = ei.track(changing(), concepts()[0], null="analytic", progress=False)
    model = build("llama")
    kept = ei.track(changing(), concepts()[0], reuse_reference=2, progress=False)
    assert kept.map(step=0).table.equals(plain.map(step=0).table)
    assert kept.map(step=2).table.equals(plain.map(step=2).table)
    assert kept.to_frame()["moved"].dropna().tolist() == plain.to_frame()["moved"].dropna().tolist()


def test_another_checkpoint_or_base_in_a_folder_is_refused(steps, tmp_path):
    options = dict(null="analytic", progress=False, folder=tmp_path)
    ei.track(steps[:2], concepts()[0], **options)
    with pytest.raises(ValueError, match="step 40"):
        ei.track([steps[0], (40, build("llama", seed=7))], concepts()[0], **options)
    with pytest.raises(ValueError, match="solve"):
        ei.track(steps, concepts()[0], delta_from=steps[0][1], **options)


@pytest.mark.parametrize("error", [EOFError, TypeError, AttributeError, ImportError])
def test_whatever_a_loader_raises_the_rest_goes_on(steps, error):
    def broken() -> nn.Module:
        raise error("gone")

    found = ei.track(
        [steps[0], (3, broken), (4, lambda: None), steps[-1]], concepts()[0], null="analytic", progress=False
    )
    assert found.steps["step"].tolist() == [0, 100]
    assert len(found.failed) == 2


def test_a_cut_folder_of_a_run_is_named(tmp_path):
    for step in (10, 20):
        huggingface.make("Llama").save_pretrained(tmp_path / f"checkpoint-{step}")
    (tmp_path / "checkpoint-30").mkdir()
    (tmp_path / "runs-7").mkdir()
    found = ei.track(tmp_path, concepts()[0], null="analytic", progress=False)
    assert found.steps["step"].tolist() == [10, 20]
    assert len(found.failed) == 1
    assert "checkpoint-30" in next(iter(found.failed))


def test_a_step_that_is_added_later_has_no_checkpoint_before(steps, tmp_path):
    options = dict(null="analytic", progress=False, folder=tmp_path)
    ei.track([steps[0], steps[2]], concepts()[0], **options)
    found = ei.track(steps, concepts()[0], **options)
    assert found.steps["since"].isna().tolist() == [True, True, False]


def test_one_checkpoint_and_the_unembedding_alone_are_drawn(steps):
    found = ei.track(steps[:1], concepts()[0], components="U", null="analytic", progress=False)
    assert len(found.animate().frames) == 1
    assert found.plot_map().data
    with pytest.raises(ValueError, match="two checkpoints"):
        found.plot("moved")


@pytest.mark.parametrize("content", ["", "{}", '{"settings": 1}'])
def test_a_broken_list_of_settings_is_named(steps, tmp_path, content):
    (tmp_path / "track.json").write_text(content)
    with pytest.raises(ValueError, match=r"track\.json"):
        ei.track(steps, concepts()[0], folder=tmp_path, **OPTIONS)


def test_statistics_are_no_concept_of_a_track(steps):
    with pytest.raises(TypeError, match="(?i)statistics"):
        ei.track(steps, ei.collect(steps[0][1], concepts()[0]), **OPTIONS)
