from pathlib import Path

import pytest
from click.testing import CliRunner

from analyses import results
from benchmarks import __main__ as command
from benchmarks import engine, scale
from benchmarks.models import SHAPES, Shape
from benchmarks.timing import Row, medians

RECORD = Path(command.__file__).parent / "record.json"


def test_runs_take_turns_and_the_first_round_is_not_counted():
    turns = []
    found = medians({"a": lambda: turns.append("a"), "b": lambda: turns.append("b")}, repeats=2)
    assert turns == ["a", "b"] * 3
    assert found.keys() == {"a", "b"}


def test_every_line_of_a_shape_is_made(monkeypatch):
    monkeypatch.setitem(SHAPES, "tiny", Shape(width=32, layers=1, mlp=48, heads=4, kv_heads=2))
    found = {(row.what, row.on) for row in engine.rows("tiny", repeats=1)}
    assert {what for what, _ in found} >= {"collect", "localize, end to end", "extract"}
    assert {on for _, on in found} == {"tiny HookedTransformer", "tiny bridge"}


@pytest.fixture
def one_row(monkeypatch):
    row = Row("collect", "512 x 6", 1.5, "s", 1.25, "the floor")
    monkeypatch.setattr(engine, "rows", lambda shape, repeats: [row])
    return row


def test_the_table_is_printed_and_recorded(one_row, tmp_path):
    record = tmp_path / "found.json"
    result = CliRunner().invoke(command.main, ["--shape", "512 x 6", "--no-testbed", "--json", str(record)])
    assert result.exit_code == 0, result.output
    assert "1.25 x the floor" in result.output
    assert results.read(record)["rows"].to_dict("records") == [vars(one_row)]
    assert results.made_with(record)["dtype"] == "float32"


def test_the_readme_says_what_was_recorded():
    found = results.read(RECORD)["rows"]
    ratios = found.loc[found["what"] == "localize, end to end", "ratio"]
    readme = (RECORD.parents[1] / "README.md").read_text(encoding="utf-8")
    assert f"{ratios.min():.2f} to {ratios.max():.2f} of the time" in " ".join(readme.split())


def test_every_line_on_scale_is_made(monkeypatch):
    monkeypatch.setitem(scale.SHAPES, "tiny", (32, 48, 2, 4, 2))
    found = [*scale.within_budget("tiny", "1MB", 8), *scale.time_of_a_store("tiny", 8), *scale.stream(5000)]
    said = {row.what for row in found}
    assert {"the store", "passes", "collect into a store"} <= said
    (passes,) = [row for row in found if row.what == "passes"]
    assert passes.ratio == 1.0
    (store,) = [row for row in found if row.what == "the store"]
    assert store.ratio > 1.0  # a tiny model's files are mostly headers


def test_what_is_recorded_on_scale_is_what_is_measured():
    recorded = results.read(RECORD.with_name("scale.json"))["rows"]
    assert {"collect, peak memory", "map from the store, peak memory", "passes", "collect into a store"} <= set(
        recorded["what"]
    )
