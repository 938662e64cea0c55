"""`explore`: what the page shows is what the library's other calls say."""

import pandas as pd
import pytest
import torch

from engram_interp import (
    Concept,
    Exploration,
    choose_alpha,
    diagnose,
    explore,
    extract,
    greedy_answers,
    load_model,
    localize,
    reads,
    testbed,
    writes,
)
from engram_interp.common import storage
from engram_interp.report.explorer.answers import AROUND
from tests import huggingface

OPTIONS = {"components": ["O", "gate", "U"], "layers": [0, 1], "progress": False}
KEY = "blocks.0.attn.W_O"


def test_its_maps_are_those_of_localize(full, concepts, found):
    for concept in concepts:
        wmap = localize(full, concept, **OPTIONS)
        pd.testing.assert_frame_equal(found.memory(concept.name).wmap.table, wmap.table)


def test_a_matrix_is_what_reads_writes_and_diagnose_say_of_it(full, concepts, found):
    concept = concepts[0]
    one, engram = found.look(concept.name, KEY), extract(full, concept, **OPTIONS)
    row = diagnose(full, concept, **OPTIONS).to_frame().set_index("key").loc[KEY]
    assert one.numbers == {name: pytest.approx(float(row[name])) for name in one.numbers}
    for said, listed in ((reads, one.reads), (writes, one.writes)):
        table = said(full, engram, KEY, concept, progress=False)
        assert [direction.tokens for direction in listed] == table["tokens"].tolist()
        assert [direction.share for direction in listed] == pytest.approx(table["share"].tolist())
    assert one.shares[0][0] == 1
    assert 0 <= one.shares[-1][1] < one.shares[0][1] <= 1 + 1e-6  # largest first
    assert one.shares[-1][0] == one.numbers["rank"] > 200


def test_answers_are_those_of_the_edited_model_and_the_model_is_left_as_it_was(full, concepts, found):
    before = {name: value.clone() for name, value in full.state_dict().items()}
    concept = concepts[0]
    strengths = found.memory(concept.name).strengths
    assert strengths.alphas == [0.0, 4.0, 16.0]
    engram = extract(full, concept, **OPTIONS)
    questions = [question for question, _ in concept.target]
    for place, alpha in enumerate(strengths.alphas):
        with engram.ablated(full, alpha):
            said = greedy_answers(full, questions, progress=False)
        assert [row["said"][place] for row in strengths.answers["target"]] == said
    one = found.look(concept.name, KEY)
    with engram.select(keys=KEY).ablated(full, 16.0):
        said = greedy_answers(full, questions, progress=False)
    changed = {row.question: row.after for row in one.changed if row.side == "target"}
    before_it = [row["said"][0] for row in strengths.answers["target"]]
    assert changed == {q: now for q, now, then in zip(questions, said, before_it) if now != then}
    assert len(changed) > 0
    assert all(torch.equal(value, before[name]) for name, value in full.state_dict().items())


def test_strengths_lie_around_the_one_that_is_chosen(full, concepts):
    concept = concepts[0]
    made = explore(full, concept, n_matrices=0, components="gate", layers=0, progress=False)
    chosen = choose_alpha(full, extract(full, concept, components="gate", layers=0), concept, progress=False).alpha
    strengths = made.memory().strengths
    assert strengths.chosen == chosen
    assert strengths.alphas == [0.0, *(chosen * one for one in AROUND)]


def test_a_file_holds_all_of_it(found, tmp_path):
    found.save(tmp_path / "report.safetensors")
    back = Exploration.load(tmp_path / "report.safetensors")
    assert back.to_html() == found.to_html()
    assert back.look is None
    assert repr(back) == repr(found)
    pd.testing.assert_frame_equal(back.to_frame(), found.to_frame())


def test_a_plain_module_has_maps_and_spectra_and_no_answers(tmp_path):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)).eval()
    concept = Concept.from_batches([torch.randn(40, 6)], [torch.randn(60, 6)], name="x")
    made = explore(model, concept, n_matrices=2, alphas=[1], progress=False)
    assert made.memory().strengths is None
    assert {len(one.eigenvalues) for one in made.memory().matrices.values()} == {7, 9}  # with the row of ones
    assert "null" in made.to_html()


def test_where_no_strength_can_be_chosen_the_slider_lies_around_one(caplog, tmp_path):
    huggingface.save(huggingface.make("Llama", vocab_size=2000), tmp_path / "model")  # it says nothing right
    target, reference = [("alpha beta", " gamma")] * 3, [("beta gamma", " delta")] * 12
    made = explore(load_model(tmp_path / "model"), Concept(target, reference, "x"), n_matrices=0, layers=0)
    assert made.memory().strengths.chosen == 1.0
    assert "nothing to keep" in caplog.text


def test_groups_of_a_convolution_are_looked_into():
    model = testbed.load_classifier()
    classes = Concept.from_dataset(testbed.pictures("test"), target=0, name="star")
    made = explore(model, classes, n_matrices=6, alphas=[1.0], progress=False)
    assert {"conv2.weight[0]", "conv2.weight[1]"} <= set(made.memory().matrices)


def test_a_model_that_has_changed_is_not_looked_into(full, concepts):
    made = explore(full, concepts[0], n_matrices=0, alphas=[1.0], components="gate", layers=0, progress=False)
    with (
        extract(full, concepts[0], components="gate", layers=0).ablated(full),
        pytest.raises(RuntimeError, match="changed"),
    ):
        made.look(concepts[0].name, "blocks.0.mlp.W_gate")
    made.look(concepts[0].name, "blocks.0.mlp.W_gate")


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("map", "null"), "zzz"), (("map", "n_layers"), 0), (("map", "n_layers"), "4"), (("map", "counts"), [1]),
        (("name",), None), (("strengths", "alphas"), "x"), (("strengths", "chosen"), 3.0),
        (("strengths", "accuracy"), {"target": [1.0]}), (("strengths", "answers"), {"target": [{"question": 1}]}),
        (("matrices", "x"), {}), (("matrices", "x"), None),
    ],
)  # fmt: skip
def test_an_altered_file_is_refused(found, tmp_path, place, value):
    found.save(tmp_path / "x.safetensors")
    content = storage.read(tmp_path / "x.safetensors", "exploration")
    one = content.fields["memories"][0]
    for name in place[:-1]:
        one = one[name]
    one[place[-1]] = value
    storage.write(tmp_path / "y.safetensors", "exploration", content.tensors, content.fields)
    with pytest.raises(ValueError, match=r"y\.safetensors"):
        Exploration.load(tmp_path / "y.safetensors")


def test_one_number_is_no_list_of_strengths(full, concepts):
    with pytest.raises(TypeError, match="8"):
        explore(full, concepts[0], alphas=8)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"alphas": []}, r"\[\]"),
        ({"alphas": [-1.0, 2.0]}, r"-1\.0"),
        ({"n_matrices": -1}, "-1"),
    ],
)
def test_options_out_of_range_are_refused(full, concepts, options, told):
    with pytest.raises(ValueError, match=told):
        explore(full, concepts[0], progress=False, **options)


def test_two_memories_of_one_name_are_refused(full, concepts):
    with pytest.raises(ValueError, match=concepts[0].name):
        explore(full, [concepts[0], concepts[0]], progress=False)
    with pytest.raises(KeyError, match="nobody"):
        explore(full, concepts[0], n_matrices=0, alphas=[1], components="gate", layers=0).memory("nobody")
