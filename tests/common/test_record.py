import json

import pytest

from engram_interp.common.record import read_record, write_record


def test_runs_of_one_folder_share_a_file(tmp_path):
    write_record(tmp_path / "map.csv", "localize", ["--layers", "1"])
    path = write_record(tmp_path / "store", "collect", ["--store", "store"])
    assert path == tmp_path / "config.json"
    assert read_record(path) == {"map.csv": ["localize", "--layers", "1"], "store": ["collect", "--store", "store"]}
    write_record(tmp_path / "map.csv", "localize", ["--layers", "2"])
    assert read_record(path)["map.csv"] == ["localize", "--layers", "2"]


def test_another_programs_file_is_left_alone(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    path = write_record(tmp_path / "map.csv", "localize", [])
    assert path.name == "map.csv.config.json"
    assert (tmp_path / "config.json").read_text() == '{"model_type": "llama"}'
    assert read_record(path) == {"map.csv": ["localize"]}


def test_what_is_no_record_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_record(tmp_path / "nowhere.json")
    for content in ('{"model_type": "llama"}', "{", "[]"):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(ValueError, match=r"config\.json"):
            read_record(tmp_path / "config.json")
    (tmp_path / "config.json").write_text(json.dumps({"format": "engram_interp", "runs": [{"output": "x"}]}))
    with pytest.raises(ValueError, match="command"):
        read_record(tmp_path / "config.json")
