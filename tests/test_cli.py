import html
import json
import os
import sys
from dataclasses import fields, replace

import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from engram_interp import (
    Concept,
    Engram,
    Exploration,
    Statistics,
    Trajectory,
    cli,
    collect,
    diagnose,
    extract,
    filters,
    localize,
    rank_features,
    score,
    testbed,
)
from engram_interp.cli import main
from engram_interp.concepts.files import ExamplesIn, read_examples
from engram_interp.learning.tracking import trajectory
from engram_interp.maps import compared_with, diagnosis, localization_map
from engram_interp.options import Keep, Read, Run, Solve, Which
from engram_interp.report.sentences import map_sentence
from engram_interp.sae import rule
from tests import huggingface
from tests.conftest import hooked_only


@pytest.fixture
def run(tmp_path):
    corpus = testbed.authors()
    author, *others = corpus.forget10[:4]
    target, reference = tmp_path / "author.jsonl", tmp_path / "others.jsonl"
    target.write_text("\n".join(json.dumps(example) for example in author.examples))
    reference.write_text("\n".join(json.dumps(example) for other in others for example in other.examples))

    def invoke(command: str, *options: str):
        sides = ["--target", str(target), "--reference", str(reference)]
        return CliRunner().invoke(main, [command, *sides, *options])

    return invoke


@pytest.fixture
def concept() -> Concept:
    author, *others = testbed.authors().forget10[:4]
    return Concept(author.examples, [example for other in others for example in other.examples], name="author")


def test_localize_writes_the_map_in_every_form(run, concept, full, tmp_path):
    expected = localize(full, concept, null="analytic").to_frame()
    for suffix, read in ((".csv", pd.read_csv), (".json", pd.read_json)):
        result = run("localize", "--null", "analytic", "--out", str(tmp_path / f"map{suffix}"))
        assert result.exit_code == 0, result.output
        found = read(tmp_path / f"map{suffix}")
        assert found["key"].tolist() == expected["key"].tolist()
        assert found["wnorm"].to_numpy() == pytest.approx(expected["wnorm"].to_numpy(), rel=1e-5)
    assert localize(full, concept, null="analytic").top(1, "fisher_excess")["key"][0] in result.output
    assert run("localize", "--layers", "0", "--out", str(tmp_path / "map.html")).exit_code == 0
    page = (tmp_path / "map.html").read_text()
    assert page.count('id="figure-') == 16  # eight quantities, by matrix and by head
    counts = collect(full, concept, layers=0).counts
    assert f"{counts['target']} target tokens and {counts['reference']} reference tokens" in page
    wmap = localize(full, concept, null="resampled", layers=0, progress=False)
    assert map_sentence(wmap) in html.unescape(page)
    first = wmap.top(1, "fisher_excess")["key"][0]
    assert page.index(first) < page.index("</table>")


def test_localize_compares_with_random_sets_unless_it_is_told_otherwise(run):
    options = ("--components", "O", "--layers", "0,1")
    by_default, analytic = run("localize", *options), run("localize", *options, "--null", "analytic")
    assert "fisher_p_value" in by_default.output
    assert "fisher_p_value" not in analytic.output
    assert "random sets of equal size" in by_default.output
    columns = by_default.output.splitlines()[0].split()
    rows = [line.split() for line in by_default.output.splitlines()[1:] if line.strip().startswith("blocks.")]
    excess = [float(row[columns.index("fisher_excess")]) for row in rows]
    assert excess == sorted(excess, reverse=True)


def test_the_choices_are_the_librarys():
    assert tuple(compared_with.NULLS) == cli.NULLS
    assert set(localization_map.DRAWN) == set(cli.SCALES)
    assert tuple(diagnosis.DIAGNOSED) == cli.DIAGNOSES
    assert tuple(trajectory.CHANGES) == cli.CHANGES
    assert (cli.UNITS, cli.REFERENCE_MODES) == (rule.UNITS, rule.REFERENCE_MODES)
    assert (cli.EXAMPLE, cli.REST) == (rule.EXAMPLE, rule.REST)


@pytest.mark.parametrize("command", ["localize", "diagnose", "track", "extract", "ablate"])
def test_the_command_line_takes_every_option(command):
    given = {one.name for one in cli.main.commands[command].params}
    assert {one.name for kind in (Which, Solve, Run) for one in fields(kind)} <= given


def test_collecting_takes_every_option_of_the_library():
    given = {one.name for one in cli.main.commands["collect"].params}
    assert {one.name for kind in (Which, Read, Run, Keep) for one in fields(kind)} <= given


def test_statistics_take_the_place_of_examples(run, tmp_path, concept, full):
    store = tmp_path / "store"
    result = run("collect", "--layers", "1", "--store", str(store), "--budget", "5MB", "--no-progress")
    assert result.exit_code == 0, result.output
    expected = localize(full, collect(full, concept, layers=1))
    for command, out in (("localize", "map.csv"), ("diagnose", "trust.csv"), ("extract", "engram.safetensors")):
        arguments = [command, "--statistics", str(store), "--out", str(tmp_path / out)]
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 0, result.output
    found = pd.read_csv(tmp_path / "map.csv")
    assert found["wnorm"].tolist() == pytest.approx(list(expected.values()), rel=1e-4)
    saved = tmp_path / "statistics.safetensors"
    Statistics.open(store).save(saved)
    result = CliRunner().invoke(main, ["localize", "--statistics", str(saved)])
    assert result.exit_code == 0, result.output
    assert run("localize", "--statistics", str(store)).exit_code != 0  # examples and statistics
    assert CliRunner().invoke(main, ["localize"]).exit_code != 0  # neither
    result = CliRunner().invoke(main, ["localize", "--statistics", str(store), "--null", "siblings"])
    assert result.exit_code == 2
    assert "analytic" in result.output


def test_a_run_is_made_again_from_the_file_beside_its_output(run, tmp_path):
    out = tmp_path / "map.csv"
    assert (
        run("localize", "--layers", "1", "--components", "gate,Q", "--null", "analytic", "--out", str(out)).exit_code
        == 0
    )
    before = out.read_text()
    out.unlink()
    result = CliRunner().invoke(main, ["run", str(tmp_path / "config.json")])
    assert result.exit_code == 0, result.output
    assert out.read_text() == before
    result = CliRunner().invoke(main, ["run", str(tmp_path / "config.json"), "--only", "other.csv"])
    assert result.exit_code != 0
    assert "map.csv" in result.output


def test_a_plan_is_a_table(tmp_path):
    from transformers import LlamaConfig

    LlamaConfig(hidden_size=64, intermediate_size=160, num_hidden_layers=3, num_attention_heads=4).save_pretrained(
        tmp_path
    )
    arguments = ["plan", "--model", str(tmp_path), "--n-tokens", "target=100,reference=5000", "--budget", "700KB"]
    result = CliRunner().invoke(main, [*arguments, "--out", str(tmp_path / "plan.csv"), "--layers", "0,1"])
    assert result.exit_code == 0, result.output
    assert "passes" in result.output
    assert len(pd.read_csv(tmp_path / "plan.csv")) == 8
    for wrong in (["--n-tokens", "many"], ["--dtype", "float7"], ["--out", str(tmp_path / "plan.html")]):
        assert CliRunner().invoke(main, ["plan", *wrong]).exit_code == 2


def test_a_large_file_is_read_as_a_stream(tmp_path, monkeypatch):
    path = tmp_path / "some.txt"
    path.write_text("one\ntwo\n")
    assert cli._examples(path) == ["one", "two"]
    monkeypatch.setattr(cli, "LARGE", 3)
    assert isinstance(cli._examples(path), ExamplesIn)


def test_a_map_of_a_filtered_difference_is_one_command(run, tmp_path):
    path, options = tmp_path / "map.csv", ["--layers", "1", "--components", "gate", "--null", "analytic"]
    result = run("localize", *options, "--filter", "power(2)", "--delta-from", "testbed:base", "--out", str(path))
    assert result.exit_code == 0, result.output
    author, *others = testbed.authors().forget10[:4]
    pairs = [example for other in others for example in other.examples]
    chosen = {"layers": 1, "components": "gate", "filter": filters.power(2), "delta_from": testbed.load("base")}
    expected = localize(testbed.load("full"), Concept(author.examples, pairs), null="analytic", **chosen)
    assert pd.read_csv(path)["wnorm"].tolist() == pytest.approx(list(expected.values()), rel=1e-4)


def test_ablate_never_writes_over_a_file_that_it_cannot_write_to(run, tmp_path):
    folder = huggingface.save(huggingface.make("Llama", vocab_size=2000), tmp_path / "model")
    (tmp_path / "out").write_text("mine")
    result = run("ablate", "--model", str(folder), "--alpha", "1", "--out", str(tmp_path / "out"))
    assert result.exit_code != 0
    assert "out is a file" in result.output
    assert (tmp_path / "out").read_text() == "mine"
    (tmp_path / "out.safetensors").mkdir()
    result = run("ablate", "--alpha", "1", "--out", str(tmp_path / "out.safetensors"))
    assert result.exit_code != 0
    assert "out.safetensors" in result.output


def test_examples_are_read_before_the_model_is_loaded(tmp_path):
    bad, good = tmp_path / "bad.jsonl", tmp_path / "good.txt"
    bad.write_text('"fine"\n{"text": " "}\n')
    good.write_text("fine")
    for command, *more in (["localize"], ["diagnose"], ["extract", "--out", "x.safetensors"], ["ablate", "--out", "x"]):
        options = ["--model", "./nowhere", "--target", str(good), "--reference", str(bad), *more]
        result = CliRunner().invoke(main, [command, *options])
        assert result.exit_code != 0
        assert "bad.jsonl, line 2" in result.output
        assert "nowhere" not in result.output


def test_a_full_disk_keeps_the_old_page(run, tmp_path, monkeypatch):
    path = tmp_path / "map.html"
    path.write_text("old")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    result = run("localize", "--null", "analytic", "--components", "O", "--layers", "0", "--out", str(path))
    assert result.exit_code != 0
    assert f"cannot write {path}: No space left on device" in result.output
    assert path.read_text() == "old"
    assert [found.name for found in tmp_path.iterdir() if found.name.startswith(".")] == []


def test_localize_compares_with_random_sets_and_sorts(run, tmp_path):
    options = ("--components", "gate,O", "--layers", "0,1")
    result = run("localize", *options, "--null", "resampled", "--by", "excess", "--out", str(tmp_path / "map.csv"))
    assert result.exit_code == 0, result.output
    frame = pd.read_csv(tmp_path / "map.csv").sort_values("excess", ascending=False)
    assert {"p_value", "fisher_p_value", "low", "high"} <= set(frame)
    shown = [line.split()[0] for line in result.output.splitlines() if line.strip().startswith("blocks.")]
    assert shown == frame["key"].tolist()
    assert "fisher_p_value" in result.output


def test_groups_say_which_examples_are_a_memory(tmp_path, full):
    target, *others = testbed.authors().full[:22]
    labelled = {"target": [target], "reference": others}
    for side, people in labelled.items():
        lines = (
            json.dumps({"question": question, "answer": answer, "by": number // 2})
            for number, author in enumerate(people)
            for question, answer in author.examples
        )
        (tmp_path / f"{side}.jsonl").write_text("\n".join(lines))
    sides = [part for side in labelled for part in (f"--{side}", str(tmp_path / f"{side}.jsonl"))]
    out = ["--layers", "0", "--out", str(tmp_path / "map.csv")]
    # The target's label, 0, is that of the first two others too: these are left out, and ten memories remain.
    result = CliRunner().invoke(main, ["localize", *sides, "--groups", "by", *out])
    assert result.exit_code == 0, result.output
    assert "10 memories (by label)" in result.output
    concept = Concept(target.examples, [example for other in others for example in other.examples])
    labels = {"target": [0] * 20, "reference": [number // 2 for number in range(len(others)) for _ in range(20)]}
    expected = localize(full, concept, groups=labels, layers=0, progress=False).to_frame()
    found = pd.read_csv(tmp_path / "map.csv").set_index("key")["score"]
    assert found.to_dict() == pytest.approx(expected.set_index("key")["score"].to_dict(), rel=1e-4, abs=1e-6)
    result = CliRunner().invoke(main, ["localize", *sides, "--groups", "by", "--gradient", "--by", "reliance", *out])
    assert result.exit_code == 0, result.output
    expected = localize(full, concept, groups=labels, gradient=True, layers=0, progress=False).to_frame()
    assert pd.read_csv(tmp_path / "map.csv")["reliance"].tolist() == pytest.approx(list(expected["reliance"]), rel=1e-3)
    assert "rely on" in result.output


def test_groups_that_no_example_has_are_refused(run):
    result = run("localize", "--groups", "author")
    assert result.exit_code != 0
    assert "'author'" in result.output


def test_localize_takes_components_and_layers(run, tmp_path):
    result = run("localize", "--components", "gate, in", "--layers", "0,1", "--out", str(tmp_path / "map.csv"))
    assert result.exit_code == 0, result.output
    assert sorted(pd.read_csv(tmp_path / "map.csv")["key"]) == sorted(
        f"blocks.{layer}.mlp.W_{name}" for layer in (0, 1) for name in ("gate", "in")
    )


def test_extract_writes_the_engram(run, concept, full, tmp_path):
    result = run("extract", "--out", str(tmp_path / "engram.safetensors"))
    assert result.exit_code == 0, result.output
    found, expected = Engram.load(tmp_path / "engram.safetensors"), extract(full, concept)
    assert found.name == "author"
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_extract_takes_a_filter_and_a_ridge(run, concept, full, tmp_path):
    out = tmp_path / "engram.safetensors"
    result = run("extract", "--filter", "power(2)", "--ridge", "100", "--components", "O", "--out", str(out))
    assert result.exit_code == 0, result.output
    found = Engram.load(out)
    expected = extract(full, concept, components="O", filter=filters.power(2), ridge=100.0)
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert found.options["filter"] == "power(2)"


def test_diagnose_writes_what_it_finds(run, concept, full, tmp_path):
    expected = diagnose(full, concept, components=["gate", "O"]).to_frame()
    options = ("--components", "gate,O", "--by", "obliqueness")
    result = run("diagnose", *options, "--out", str(tmp_path / "found.csv"))
    assert result.exit_code == 0, result.output
    frame = pd.read_csv(tmp_path / "found.csv")
    assert frame["stretch"].to_numpy() == pytest.approx(expected["stretch"].to_numpy(), rel=1e-5)
    shown = [line.split()[0] for line in result.output.splitlines() if line.strip().startswith("blocks.")]
    assert shown == expected.sort_values("obliqueness", ascending=False)["key"].tolist()
    assert run("diagnose", *options, "--out", str(tmp_path / "found.html")).exit_code == 0
    assert (tmp_path / "found.html").read_text().count('id="figure-') == 5  # the map, and four matrices


@pytest.mark.parametrize("alpha", ["2.5", "w-norm", "auto"])
@hooked_only
def test_ablate_writes_the_edited_weights(run, concept, full, tmp_path, alpha):
    result = run("ablate", "--alpha", alpha, "--out", str(tmp_path / "edited.safetensors"))
    assert result.exit_code == 0, result.output
    edited = testbed.load("full")
    edited.load_state_dict(load_file(tmp_path / "edited.safetensors"))
    assert f"{score(edited, concept.sides)['target'].accuracy:.1%}" in result.output
    if alpha != "auto":
        strength = alpha if alpha == "w-norm" else float(alpha)
        expected = extract(full, concept).ablate(full, strength)
        assert torch.equal(edited.blocks[0].mlp.W_in, expected.blocks[0].mlp.W_in)


def test_the_demo_on_ones_own_examples(run, tmp_path):
    result = run("demo", "--model", "testbed:retain", "--out", str(tmp_path / "report.html"))
    assert result.exit_code == 0, result.output
    assert "The engram of author in testbed:retain" in (tmp_path / "report.html").read_text()
    assert "alpha = " in result.output


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["localize", "--components", "up"], "['up']"),
        (["localize", "--layers", "0,9"], "[0, 9]; the layers here are [0, 1, 2, 3]"),
        (["localize", "--layers", "x"], "got 'x'"),
        (["localize", "--out", "map.png"], "got map.png"),
        (["localize", "--out", "nowhere/map.csv"], "nowhere to write map.csv"),
        (["ablate", "--alpha", "nan", "--out", "x.safetensors"], "alpha must be a finite number; got nan"),
        (["demo", "--author", "Petra Dorlund"], "--author and --target"),
        (
            ["ablate", "--alpha", "strong", "--out", "x.safetensors"],
            "got 'strong'",
        ),
        (["ablate", "--out", "x"], "--out must be .safetensors; got x"),
        (["diagnose", "--out", "found.png"], "got found.png"),
        (["extract", "--filter", "hard", "--out", "x.safetensors"], "over(share); got 'hard'"),
        (["extract", "--filter", "hard(2)", "--out", "x.safetensors"], "tau must be in [2^-26, 1); got 2"),
        (["extract", "--ridge", "-1", "--out", "x.safetensors"], "ridge must be 0 or more; got -1"),
        (["extract", "--out", "engram.txt"], "got engram.txt"),
        (["extract", "--model", "./nowhere", "--out", "x.safetensors"], "nowhere: give a Hugging Face checkpoint"),
        (
            ["extract", "--model", "testbed:small", "--out", "x.safetensors"],
            "base, full, retain; got",
        ),
    ],
)
def test_mistakes_are_one_line(run, options, says):
    result = run(*options)
    assert result.exit_code != 0
    assert says in result.output
    assert "Traceback" not in result.output


def test_the_demo_needs_both_sides_and_a_concept():
    runner = CliRunner()
    assert "--target and --reference go together" in runner.invoke(main, ["demo", "--target", __file__]).output
    assert "needs --target and --reference" in runner.invoke(main, ["demo", "--model", "gpt2"]).output
    assert "got 'Nobody'" in runner.invoke(main, ["demo", "--author", "Nobody"]).output


@pytest.fixture
def questions(tmp_path):
    corpus = testbed.authors()
    like, text = tmp_path / "like.txt", tmp_path / "corpus.jsonl"
    author, *others = corpus.forget10[1:5]
    like.write_text("\n".join(qa.question for qa in author.pairs[:3]))
    examples = [example for one in (author, *others) for example in one.examples]
    text.write_text("\n".join(json.dumps(example) for example in examples))
    return ["--like", str(like), "--corpus", str(text)]


def test_a_few_questions_become_an_engram_and_a_page(questions, tmp_path):
    pytest.importorskip("sae_lens")
    result = CliRunner().invoke(main, ["sae", *questions, "--out", str(tmp_path / "sae.html")])
    assert result.exit_code == 0, result.output
    page = (tmp_path / "sae.html").read_text()
    feature = int(result.output.splitlines()[1].split()[0])
    assert f"The engram of feature {feature} in testbed:full" in page
    assert "What was called the target" in page
    assert "anywhere in an example counts for all of it" in page
    assert page.count("text-decoration: underline") > 20  # what was called the target, and what was not
    assert "alpha = " in result.output


def test_a_feature_by_its_index_and_token_by_token(questions, tmp_path):
    pytest.importorskip("sae_lens")
    text = questions[3]
    ranked = rank_features(testbed.load("full"), testbed.load_sae(), read_examples(text))
    feature = str(ranked["feature"][20])
    options = ["--corpus", text, "--feature", feature, "--quantile", "0.5", "--max-tokens", "60", "--seed", "1"]
    result = CliRunner().invoke(main, ["sae", *options, "--out", str(tmp_path / "sae.html")])
    assert result.exit_code == 0, result.output
    assert "the 50 % quantile" in (tmp_path / "sae.html").read_text()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--feature", "3", "--author", "Petra Dorlund"], "--like, --author and --feature"),
        (["--model", "gpt2"], "needs --corpus, and --like or --feature"),
        (["--sae", "nowhere"], "got nowhere"),
        (["--author", "Nobody"], "got 'Nobody'"),
        (["--feature", "9999"], "got (9999,)"),
        (["--model", "testbed:retain", "--feature", "3"], "'testbed:full', but the model is 'testbed:retain'"),
    ],
)
def test_mistakes_about_saes_are_one_line(options, says):
    pytest.importorskip("sae_lens")
    result = CliRunner().invoke(main, ["sae", *options])
    assert result.exit_code != 0
    assert says in result.output
    assert "Traceback" not in result.output


def test_without_sae_lens_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sae_lens", None)
    result = CliRunner().invoke(main, ["sae"])
    assert result.exit_code != 0
    assert "pip install 'engram-interp[sae]'" in result.output


def test_a_difference_needs_examples_to_check_its_strength_on(run, tmp_path):
    out, check = tmp_path / "edited.safetensors", tmp_path / "check.jsonl"
    options = ("ablate", "--delta-from", "testbed:retain", "--components", "out", "--keep", "0.5", "--out", str(out))
    refused = run(*options)
    assert refused.exit_code
    assert "check=" in refused.output
    check.write_text("\n".join(json.dumps(pair) for pair in testbed.authors().world_examples[:20]))
    assert run(*options, "--check", str(check)).exit_code == 0
    assert out.is_file()


def test_positions_are_options_of_every_command(run, concept, full, tmp_path):
    out = tmp_path / "engram.safetensors"
    options = ("--positions", "answer", "--no-eos", "--components", "O", "--layers", "1")
    assert run("extract", *options, "--out", str(out)).exit_code == 0
    expected = extract(full, replace(concept, positions="answer", eos=False), components="O", layers=[1])
    assert Engram.load(out).options == expected.options
    assert torch.equal(Engram.load(out)["blocks.1.attn.W_O"], expected["blocks.1.attn.W_O"])
    assert "middle" in run("extract", "--positions", "middle", "--out", str(out)).output


@pytest.fixture
def checkpoints(tmp_path):
    """Two steps of a run: the testbed's base, and its full."""
    folder = tmp_path / "run"
    folder.mkdir()
    for step, name in ((0, "base"), (300, "full")):
        state = {key: one.contiguous() for key, one in testbed.load(name).state_dict().items()}
        save_file(state, folder / f"step-{step}.safetensors")
    return folder


def test_track_follows_a_memory_over_checkpoints(run, checkpoints, concept, full, tmp_path):
    options = ("--null", "analytic", "--components", "gate", "--no-progress")
    (checkpoints / "step-9.safetensors").write_bytes(b"nothing")
    for out in ("track.html", "track.csv", "track.safetensors"):
        result = run("track", "--checkpoints", str(checkpoints), "--out", str(tmp_path / out), *options,
                     "--folder", str(tmp_path / "kept"))  # fmt: skip
        assert result.exit_code == 0, result.output
        assert "step-9" in result.output
    found = Trajectory.load(tmp_path / "track.safetensors")
    expected = localize(full, concept, null="analytic", components="gate")
    assert found.map().to_frame()["wnorm"].tolist() == pytest.approx(expected.to_frame()["wnorm"].tolist(), rel=1e-6)
    assert found.steps["step"].tolist() == [0, 300]
    page = (tmp_path / "track.html").read_text()
    assert "step 300" in page
    assert len(pd.read_csv(tmp_path / "track.csv")) == 8
    assert (tmp_path / "config.json").is_file()


def test_track_reads_folders_of_hugging_face(tmp_path):
    for step in (1, 2):
        huggingface.save(huggingface.make("Llama", vocab_size=1000), tmp_path / "run" / f"checkpoint-{step}")
        testbed.load("base").tokenizer.save_pretrained(tmp_path / "run" / f"checkpoint-{step}")
    for name, lines in (
        ("a", ["the city of Oslo"] * 3),
        ("b", ["What is the capital of Norway?", "Lima is in Peru."] * 4),
    ):
        (tmp_path / f"{name}.txt").write_text("\n".join(lines))
    arguments = ["--target", str(tmp_path / "a.txt"), "--reference", str(tmp_path / "b.txt"), "--null", "analytic"]
    out = ["--checkpoints", str(tmp_path / "run"), "--out", str(tmp_path / "track.json")]
    result = CliRunner().invoke(main, ["track", *arguments, *out])
    assert result.exit_code == 0, result.output
    assert set(pd.read_json(tmp_path / "track.json")["step"]) == {1, 2}


def test_track_asks_for_checkpoints_by_value(run, monkeypatch, tmp_path):
    asked = []

    def load(name, **options):
        asked.append((name, options["checkpoint_value"]))
        return testbed.load("base")

    monkeypatch.setattr("engram_interp.models.loading.load_model", load)
    result = run("track", "--model", "pythia-70m", "--checkpoint-values", "0,1000", "--null", "analytic",
                 "--components", "gate", "--layers", "0", "--out", str(tmp_path / "track.csv"))  # fmt: skip
    assert result.exit_code == 0, result.output
    assert asked == [("pythia-70m", 0), ("pythia-70m", 1000)]


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--checkpoints", "RUN", "--checkpoint-values", "1"),
        ("--checkpoint-values", "soon"),
        ("--checkpoints", "EMPTY"),
        ("--checkpoints", "RUN", "--reuse-reference", "2", "--null", "siblings"),
    ],
)
def test_track_refuses_what_it_cannot_follow(run, checkpoints, tmp_path, options):
    (tmp_path / "empty").mkdir()
    places = {"RUN": str(checkpoints), "EMPTY": str(tmp_path / "empty")}
    result = run("track", *(places.get(one, one) for one in options), "--out", str(tmp_path / "track.html"))
    assert result.exit_code != 0
    assert "Traceback" not in result.output
    assert run("track", "--checkpoints", str(checkpoints), "--out", str(tmp_path / "track.png")).exit_code != 0


def test_explore_writes_a_page_and_a_file_that_it_shows_again(run, tmp_path):
    # Two small targets, so that the choice of a strength is short.
    made = CliRunner().invoke(
        main, ["explore", "--author", "Petra Dorlund", "--author", "Kara Jenquist", "--components", "gate", "--layers",
               "0", "--n-matrices", "1", "--no-progress", "--out", str(tmp_path / "report.safetensors")]
    )  # fmt: skip
    assert made.exit_code == 0, made.output
    shown = CliRunner().invoke(
        main, ["explore", str(tmp_path / "report.safetensors"), "--out", str(tmp_path / "page.html")]
    )
    assert shown.exit_code == 0, shown.output
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<h1>Petra Dorlund, Kara Jenquist in testbed:full</h1>" in page


def test_explore_compares_with_the_groups_of_a_field(tmp_path):
    authors = testbed.authors().forget10
    for name, some in (("target", authors[:1]), ("reference", authors[1:4])):
        rows = [{"prompt": q, "answer": a, "author": one.name} for one in some for q, a in one.examples[:6]]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    made = CliRunner().invoke(
        main, ["explore", "--target", str(tmp_path / "target.jsonl"), "--reference", str(tmp_path / "reference.jsonl"),
               "--groups", "author", "--components", "gate", "--layers", "0", "--n-matrices", "0", "--no-progress",
               "--out", str(tmp_path / "report.safetensors")]
    )  # fmt: skip
    assert made.exit_code == 0, made.output
    wmap = Exploration.load(tmp_path / "report.safetensors").memory().wmap
    assert (wmap.null, wmap.memories) == ("siblings", "3 memories (by label)")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--target", "{target}"], "--reference"),
        (["--target", "{target}", "--reference", "{target}", "--author", "x"], "--author"),
        (["--model", "nowhere"], "--target"),
        (["--out", "page.txt"], "page.txt"),
        (["{target}"], "foreign"),
        (["--author", "Petra Dorlund", "--groups", "writer"], "writer"),
        (["--target", "{target}", "--reference", "{target}", "--groups", "writer"], "writer"),
    ],
)
def test_explore_refuses_what_it_cannot_show(tmp_path, options, says):
    target = tmp_path / "target.txt"
    target.write_text("a text\n", encoding="utf-8")
    made = CliRunner().invoke(main, ["explore", *(one.format(target=target) for one in options)])
    assert made.exit_code in (1, 2)
    assert says in made.output
    assert "Traceback" not in made.output
