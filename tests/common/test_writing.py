import errno
import os
import subprocess
import sys

import pytest
import torch

from engram_interp.common import storage
from engram_interp.common.writing import beside, replacing


def test_a_file_takes_the_place_of_another_when_it_is_whole(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with replacing(path) as aside:
        aside.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device", "aside"), KeyboardInterrupt()])
def test_what_fails_leaves_everything_as_it_was(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail():
        with replacing(path) as aside:
            aside.write_text("half")
            (aside.parent / "stray").write_text("of somebody else's")
            raise error

    with pytest.raises(type(error)) as raised:
        fail()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]
    if isinstance(error, OSError):
        assert str(path) in str(raised.value)
        assert "No space left" in str(raised.value)
        assert raised.value.errno == errno.ENOSPC


def test_a_full_disk_in_the_middle_of_an_engram_keeps_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "it.safetensors"
    storage.write(path, "engram", {"a": torch.zeros(2)}, {})
    before = path.read_bytes()

    def full(_tensors, filename, _metadata):
        with open(filename, "wb") as file:
            file.write(b"half")
        raise storage.SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(storage, "save_file", full)
    with pytest.raises(OSError, match=r"it\.safetensors: .*No space left"):
        storage.write(path, "engram", {"a": torch.ones(2)}, {})
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["it.safetensors"]


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"), replacing(tmp_path / "nowhere" / "a.txt"):
        pass


def test_a_folder_is_put_in_the_place_of_an_empty_one_and_of_no_other(tmp_path):
    (tmp_path / "out").mkdir()
    with replacing(tmp_path / "out") as aside:
        aside.mkdir()
        (aside / "a").write_text("a")
    assert os.listdir(tmp_path / "out") == ["a"]
    with pytest.raises(OSError, match="out"), replacing(tmp_path / "out") as aside:
        aside.mkdir()
    assert os.listdir(tmp_path / "out") == ["a"]


def test_a_link_stays_a_link_to_what_is_written(tmp_path):
    (tmp_path / "real.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to(tmp_path / "real.txt")
    with replacing(tmp_path / "link.txt") as aside:
        aside.write_text("new")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "real.txt").read_text() == "new"


def test_what_a_killed_process_left_goes_at_the_next_write_and_what_a_live_one_writes_stays(tmp_path):
    path = tmp_path / "a.txt"
    program = (
        "import os, signal, sys\nfrom engram_interp.common.writing import replacing\n"
        "with replacing(sys.argv[1]) as aside:\n    aside.write_text('half')\n    os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", program, str(path)], check=False).returncode < 0
    (left,) = os.listdir(tmp_path)
    assert left.endswith(".partial")
    with beside(path) as mine:
        assert left not in os.listdir(tmp_path)
        mine.write_text("mine")
        with replacing(path) as aside:
            aside.write_text("whole")
        assert mine.read_text() == "mine"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_files_may_be_read_by_whom_they_could_be_before(tmp_path):
    new, old = tmp_path / "new.safetensors", tmp_path / "old.safetensors"
    (tmp_path / "plain").touch()
    old.touch()
    old.chmod(0o640)
    for path in (new, old):
        storage.write(path, "engram", {"a": torch.zeros(2)}, {})
    assert new.stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert old.stat().st_mode & 0o777 == 0o640
