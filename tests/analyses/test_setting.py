"""The tables' scripts on another model and other data: checkpoints trained here, by path, on a folder like TOFU's."""

import json

import pytest
import table_4_closed_form
import train_tofu
from click.testing import CliRunner
from training import Schedule

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
    assert "plotly" in (tmp_path / "table.html").read_text()


def test_what_a_table_lacks_is_said(checkpoints):
    runner = CliRunner()
    result = runner.invoke(table_4_closed_form.main, options(checkpoints))
    assert "give --out with another --model" in result.output
    result = runner.invoke(table_4_closed_form.main, ["--only", "Prayer", "--out", "x.json"])
    assert "there is no method Prayer; there are Task Arithmetic" in result.output
