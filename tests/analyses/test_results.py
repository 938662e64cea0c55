"""What a file of results says of where it came from, in repositories made here."""

import subprocess

import pandas as pd
import pytest

from analyses import results

TABLE = pd.DataFrame([{"method": "NPO", "value": 0.5}, {"method": "UCE", "value": 0.25}])


def git(folder, *arguments):
    who = ["-c", "user.name=Ada", "-c", "user.email=ada@example.org"]
    done = subprocess.run(["git", "-C", folder, *who, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path):
    """A repository of one commit, with nothing changed since."""
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init")
    (folder / "known.txt").write_text("before")
    git(folder, "add", ".")
    git(folder, "commit", "-m", "the first")
    return folder


def test_a_clean_tree_is_its_commit(repository):
    found = results.commit(repository)
    assert len(found) == 40
    assert found == git(repository, "log", "-1", "--format=%H")


@pytest.mark.parametrize("name", ["known.txt", "new.txt"])
def test_a_changed_tree_is_dirty(repository, name):
    (repository / name).write_text("after")
    assert results.commit(repository) == git(repository, "log", "-1", "--format=%H") + "-dirty"


def test_a_folder_inside_a_repository_is_at_its_commit(repository):
    (repository / "inside").mkdir()
    assert results.commit(repository / "inside") == results.commit(repository)


def test_without_a_repository_there_is_no_commit(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    (tmp_path / "inside").mkdir()
    assert results.commit(tmp_path / "inside") is None


def test_without_git_there_is_no_commit(repository, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert results.commit(repository) is None


def test_a_file_has_its_tables_and_what_made_them(tmp_path, repository, monkeypatch):
    monkeypatch.setattr(results, "HERE", repository)
    results.write(tmp_path / "found.json", {"script": "ours.py"}, scores=TABLE)
    made = results.made_with(tmp_path / "found.json")
    assert made["commit"] == git(repository, "log", "-1", "--format=%H")
    assert made["script"] == "ours.py"
    assert {"torch", "transformer-lens", "engram-interp"} <= made.keys()
    found = results.read(tmp_path / "found.json")
    assert found.keys() == {"scores"}
    pd.testing.assert_frame_equal(found["scores"], TABLE)


def test_a_record_has_the_script_the_machine_and_the_seconds(tmp_path):
    results.record(tmp_path / "overlap.json", lambda: {"pairs": TABLE})
    made = results.made_with(tmp_path / "overlap.json")
    assert made["script"] == "overlap.py"
    assert made["machine"] == results.machine()
    assert 0 <= made["seconds"] < 60
    pd.testing.assert_frame_equal(results.read(tmp_path / "overlap.json")["pairs"], TABLE)
