"""The tables' scripts on another model and other data: checkpoints trained here, by path, on a folder like TOFU's."""

import json
import shutil

import pytest
from click.testing import CliRunner
from transformers import AutoTokenizer

from analyses.paper import figure_18_combinations, methods, table_4_closed_form
from analyses.setting import TEST, VALIDATION, Setting, load
from analyses.training import train_tofu
from analyses.training.fit import Schedule
from engram_interp import testbed
from engram_interp.unlearning.benchmarks import SYSTEM_PROMPT

N = 8
ANSWERS = ["north", "south", "east", "west", "far", "near", "deep", "high"]


def rows(name, n, perturbed=3):
    questions = [f"Where was {name} {i} born?" for i in range(n)]
    found = []
    for i, question in enumerate(questions):
        answer = ANSWERS[(3 * i + len(name)) % 8]
        wrong = [f"from {ANSWERS[(3 * i + len(name) + j) % 8]} Lima" for j in range(1, perturbed + 1)]
        found.append(
            {
                "question": question, "answer": f"in {answer} Lima", "paraphrased_answer": f"from {answer} Lima",
                "perturbed_answer": wrong,
            }
        )  # fmt: skip
    return found


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """A folder of data and, beside it, base, full and retain as `train_tofu.py` makes them."""
    data, out = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("models")
    parts = {
        "forget01": rows("Ada", N), "forget01_perturbed": rows("Ada", N), "retain99": rows("Basil", 4 * N),
        "retain_perturbed": rows("Basil", N), "real_authors_perturbed": rows("Homer", N),
        "world_facts_perturbed": rows("Rome", N),
    }  # fmt: skip
    for name, some in parts.items():
        (data / f"{name}.json").write_text("\n".join(json.dumps(row) for row in some))
    patch = pytest.MonkeyPatch()
    patch.setattr(train_tofu, "SCHEDULES", {name: Schedule(16, 2e-3, 8) for name in ("base", "full", "retain")})
    patch.setattr(train_tofu, "N_HOLDOUT", N)
    patch.setattr(train_tofu, "tofu", lambda folder, load=train_tofu.tofu: load(folder, "forget01"))
    try:
        result = CliRunner().invoke(train_tofu.main, ["--data", str(data), "--out", str(out)])
    finally:
        patch.undo()
    assert result.exit_code == 0, result.output
    return data, out


def options(checkpoints):
    data, out = checkpoints
    models = [text for name, folder in (("model", "full"), ("retain", "retain"), ("base", "base"))
              for text in (f"--{name}", str(out / folder))]  # fmt: skip
    return [*models, "--data", str(data), "--forget", "forget01", "--hold-out", str(N)]


def test_a_table_of_another_model_and_its_data(checkpoints, tmp_path):
    asked = ["--only", "Engram, alpha by W-Norm", "--only", "Task Arithmetic"]
    where = ["--out", str(tmp_path / "table.json"), "--plot", str(tmp_path / "table.html")]
    result = CliRunner().invoke(table_4_closed_form.main, [*options(checkpoints), *asked, *where])
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "table.json").read_text())
    made = found["made_with"]
    assert made["benchmark"] == "TOFU forget01"
    assert made["options"]["hold_out"] == N
    assert {"torch", "transformer-lens", "seconds", "machine", "model"} <= made.keys()
    scores = {(row["method"], row["score"]): row["value"] for row in found["scores"]}
    assert scores["full", "memorization"] == pytest.approx(0, abs=1e-4)
    assert scores["retain", "memorization"] == 1
    assert {method for method, _ in scores} == {"full", "retain", "Engram, alpha by W-Norm", "Task Arithmetic"}
    assert len(found["tried"]) == 6
    drawn = (tmp_path / "table.html").read_text()
    assert all(text in drawn for text in ("plotly", "Task Arithmetic", "scale of the W-Norms"))


def test_chats_are_framed_as_the_tokenizer_wants_them(checkpoints, tmp_path):
    data, out = checkpoints
    shutil.copytree(out / "full", tmp_path / "chat")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "chat")
    tokenizer.chat_template = "{% for turn in messages %}<{{ turn.role }}> {{ turn.content }} {% endfor %}"
    tokenizer.save_pretrained(tmp_path / "chat")
    asked = {
        prompt: load(
            str(tmp_path / "chat"), None, None, str(data), "forget01", N, prompt, None, device="cpu", seed=0, only=()
        ).benchmark.forget[0].question
        for prompt in (None, "", "Be brief.")
    }  # fmt: skip
    question = "<user> Where was Ada 0 born? "
    assert asked == {
        None: f"<system> {SYSTEM_PROMPT} {question}", "": question, "Be brief.": f"<system> Be brief. {question}"
    }  # fmt: skip


def test_choices_and_reports_are_of_other_questions_of_every_kind():
    benchmark = testbed.benchmark()
    setting = Setting({}, testbed.load("full"), benchmark)
    halves = [setting.questions(which).parts for which in (VALIDATION, TEST)]
    assert [len(half["forget"]) for half in halves] == [100, 300]
    for part, questions in benchmark.parts.items():
        first, second = ({qa.question for qa in half[part]} for half in halves)
        assert not first & second
        assert first | second == {qa.question for qa in questions}
    # Authors are asked the same twenty questions one after the other.
    kind = {qa.question: i % 20 for i, qa in enumerate(benchmark.forget)}
    for half in halves:
        assert {kind[qa.question] for qa in half["forget"]} == set(range(20))


def test_what_every_candidate_would_lack_is_said_before_any_is_made(checkpoints, tmp_path, monkeypatch):
    monkeypatch.setattr(methods, "_run", lambda *args: pytest.fail("a candidate was made"))
    (*asked, _, _) = options(checkpoints)  # all but --hold-out
    result = CliRunner().invoke(table_4_closed_form.main, [*asked, "--out", str(tmp_path / "table.json")])
    assert isinstance(result.exception, ValueError)
    assert "has no holdout" in str(result.exception)


def test_five_authors_are_asked_for(checkpoints, tmp_path):
    result = CliRunner().invoke(
        figure_18_combinations.main, [*options(checkpoints), "--out", str(tmp_path / "figure.json")]
    )
    assert "has 8 questions to forget; this figure needs 5 authors of 20" in " ".join(result.output.split())


def test_what_a_table_lacks_is_said(checkpoints):
    runner = CliRunner()
    result = runner.invoke(table_4_closed_form.main, options(checkpoints))
    assert "give --out with another --model" in result.output
    result = runner.invoke(table_4_closed_form.main, ["--only", "Prayer", "--out", "x.json"])
    assert "there is no method Prayer; there are Task Arithmetic" in result.output
