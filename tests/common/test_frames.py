import pandas as pd
import pytest
import torch

from engram_interp.common import storage
from engram_interp.common.frames import frame_of, frame_parts


def written(frame: pd.DataFrame, path) -> storage.Content:
    tensors, fields = frame_parts(frame, "table")
    storage.write(path, "frames", tensors, {"table": fields})
    return storage.read(path, "frames")


def test_a_table_comes_back_to_the_bit(tmp_path):
    frame = pd.DataFrame(
        {
            "size": [0.1 + 0.2, float("nan"), -0.0],
            "layer": pd.array([0, None, 2], dtype="Int64"),
            "key": ["a", "b", "c"],
            "step": [1, 2, 3],
            "since": [None, "x", None],
        }
    )
    content = written(frame, tmp_path / "frame")
    found = frame_of(content, "table", content.fields["table"])
    assert list(found.columns) == list(frame.columns)
    assert found["size"].equals(frame["size"])
    assert found["layer"].dtype == "Int64"
    assert found["layer"].equals(frame["layer"])
    assert found["key"].tolist() == ["a", "b", "c"]
    assert found["step"].tolist() == [1, 2, 3]
    assert found["since"].isna().tolist() == [True, False, True]


def test_a_table_without_rows_comes_back(tmp_path):
    content = written(pd.DataFrame(columns=["a", "b"]), tmp_path / "frame")
    assert list(frame_of(content, "table", content.fields["table"]).columns) == ["a", "b"]


@pytest.mark.parametrize(
    "broken",
    [
        {"columns": ["size", "gone"], "rows": 1, "others": {}},
        {"columns": ["size"], "rows": 2, "others": {}},
        {"rows": 1, "others": {}},
        {"columns": ["size"], "rows": "many", "others": {}},
    ],
)
def test_a_broken_table_is_refused(tmp_path, broken):
    storage.write(tmp_path / "frame", "frames", {"table/size": torch.ones(1).double()}, {"table": broken})
    content = storage.read(tmp_path / "frame", "frames")
    with pytest.raises(ValueError, match="'table'"):
        frame_of(content, "table", broken)
