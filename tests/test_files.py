import json

import pytest
import torch
from safetensors.torch import save_file

from engram_interp import files


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "it.safetensors"
    files.write(path, "engram", {"a": torch.arange(6.0).view(2, 3), "n": torch.tensor(4)}, {"name": "x"})
    return path


def test_round_trip(path):
    tensors, fields = files.read(path, "engram")
    assert tensors["a"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert int(tensors["n"]) == 4
    assert fields == {"name": "x"}


def test_another_kind_is_refused(path):
    with pytest.raises(ValueError, match="holds engram, not statistics"):
        files.read(path, "statistics")


@pytest.mark.parametrize("left", [4, 30, -1, -20])
def test_a_file_cut_short_is_refused(path, left):
    whole = path.read_bytes()
    path.write_bytes(whole[:left])
    with pytest.raises(ValueError, match="is a foreign file" if left == 4 else "was cut short"):
        files.read(path, "engram")


@pytest.mark.parametrize("place", [-1, -9, -20, -32])
def test_an_altered_tensor_is_refused(path, place):
    whole = bytearray(path.read_bytes())  # ends in two tensors of 24 and 8 bytes
    whole[place] ^= 1
    path.write_bytes(bytes(whole))
    with pytest.raises(ValueError, match="was altered: its content does not match its checksum"):
        files.read(path, "engram")


def test_altered_fields_are_refused(path):
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b'\\"x\\"', b'\\"y\\"'))
    with pytest.raises(ValueError, match="was altered: its content does not match its checksum"):
        files.read(path, "engram")


def test_an_altered_header_is_refused(path):
    whole = bytearray(path.read_bytes())
    whole[9] = 0
    path.write_bytes(bytes(whole))
    with pytest.raises(ValueError, match="was altered: its header is no JSON"):
        files.read(path, "engram")
    path.write_bytes(_with_shape(whole))
    with pytest.raises(ValueError, match="was altered: its header does not fit its content"):
        files.read(path, "engram")


def _with_shape(whole: bytearray) -> bytes:
    whole[9] = ord('"')
    return bytes(whole).replace(b'"shape":[2,3]', b'"shape":[2,9]')


def test_another_version_is_refused(path):
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b'"version":"2"', b'"version":"1"'))
    with pytest.raises(ValueError, match="has format version 1, this release reads version 2"):
        files.read(path, "engram")


def test_foreign_files_are_refused(tmp_path):
    plain = tmp_path / "plain.safetensors"
    save_file({"a": torch.zeros(2)}, plain)
    with pytest.raises(ValueError, match="is a foreign file: safetensors, but not written by engram_interp"):
        files.read(plain, "engram")
    text = tmp_path / "text.json"
    text.write_text(json.dumps({"a": 1}))
    with pytest.raises(ValueError, match="is a foreign file: not safetensors"):
        files.read(text, "engram")
    torch.save({"a": torch.zeros(2)}, tmp_path / "pickle.pt")
    with pytest.raises(ValueError, match="is a foreign file: not safetensors"):
        files.read(tmp_path / "pickle.pt", "engram")
    with pytest.raises(FileNotFoundError, match="there is no file"):
        files.read(tmp_path / "none", "engram")
