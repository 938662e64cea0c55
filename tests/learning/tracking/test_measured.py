import pandas as pd
import pytest
import torch

from engram_interp.learning.tracking.measured import Measured
from engram_interp.linalg.singular import singular


def some() -> Measured:
    table = pd.DataFrame({"key": ["a", "b"], "head": pd.array([None, 1], dtype="Int64"), "wnorm": [0.1, 0.2]})
    engrams = {"one/two": {"a.weight": singular(torch.eye(3))}, "other": {}}
    answers = pd.DataFrame({"concept": ["one/two"], "side": ["target"], "accuracy": [0.5]})
    return Measured(
        7, {"source": "x", "since": None, "seconds": 0.5}, {"one/two": table, "other": table[:1]},
        {"one/two": {"n_layers": 2}, "other": {}}, answers, pd.DataFrame(columns=["a", "b"]), engrams,
    )  # fmt: skip


def test_a_file_holds_all_of_it(tmp_path):
    some().save(tmp_path / "step")
    found = Measured.load(tmp_path / "step")
    assert (found.step, found.facts, found.headers) == (7, some().facts, some().headers)
    assert found.maps["one/two"]["wnorm"].tolist() == [0.1, 0.2]
    assert found.maps["one/two"]["head"].equals(some().maps["one/two"]["head"])
    assert len(found.maps["other"]) == 1
    assert found.answers["accuracy"].tolist() == [0.5]
    assert list(found.overlaps.columns) == ["a", "b"]
    assert torch.equal(found.engrams["one/two"]["a.weight"].s, torch.ones(3))


def test_a_file_that_was_cut_short_is_refused(tmp_path):
    some().save(tmp_path / "step")
    (tmp_path / "step").write_bytes((tmp_path / "step").read_bytes()[:-3])
    with pytest.raises(ValueError, match="cut short"):
        Measured.load(tmp_path / "step")
