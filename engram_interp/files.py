"""Tensors on disk: safetensors with a header that says what they are, whose, and whether they are still whole.

The header holds the format's version, what kind of thing this is, the maker's own fields and a checksum of it all.
Nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from engram_interp.models.base import fingerprint

FORMAT = "engram_interp"
VERSION = "2"


def write(path: str | Path, kind: str, tensors: dict[str, Tensor], fields: dict[str, Any]) -> None:
    """Write tensors and JSON fields under a kind, `engram` or `statistics`."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(tensors.items())}
    header = json.dumps(fields)
    metadata = {"format": FORMAT, "version": VERSION, "kind": kind, "fields": header}
    save_file(tensors, path, {**metadata, "checksum": _checksum(header, tensors)})


def read(path: str | Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and fields of a file that `write` made.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a file of another program, kind or version, cut short, or altered: the message says which.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    _check_whole(path)
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise ValueError(f"{path} was altered: its header does not fit its content ({error})") from error
    if metadata.get("format") != FORMAT:
        raise ValueError(f"{path} is a foreign file: safetensors, but not written by {FORMAT}")
    if metadata.get("version") != VERSION:
        raise ValueError(f"{path} has format version {metadata.get('version')}, this release reads version {VERSION}")
    if metadata.get("kind") != kind:
        raise ValueError(f"{path} holds {metadata.get('kind')}, not {kind}")
    if metadata.get("checksum") != _checksum(metadata.get("fields", ""), tensors):
        raise ValueError(f"{path} was altered: its content does not match its checksum")
    return tensors, json.loads(metadata["fields"])


def _checksum(header: str, tensors: dict[str, Tensor]) -> str:
    names = json.dumps(sorted(tensors))
    content = fingerprint(tensors[name] for name in sorted(tensors))
    return hashlib.sha256("\n".join((header, names, content)).encode()).hexdigest()


def _check_whole(path: Path) -> None:
    """Tell a file cut short from one that never was safetensors, by the lengths that its own header gives."""
    size = path.stat().st_size
    with path.open("rb") as file:
        header_length = int.from_bytes(file.read(8), "little")
        if size < 9 or file.read(1) != b"{":
            raise ValueError(f"{path} is a foreign file: not safetensors")
        if size < 8 + header_length:
            raise ValueError(f"{path} was cut short: {size} bytes of a header of {header_length}")
        file.seek(8)
        try:
            header = json.loads(file.read(header_length))
        except ValueError as error:
            raise ValueError(f"{path} was altered: its header is no JSON") from error
    whole = 8 + header_length + max((e["data_offsets"][1] for k, e in header.items() if k != "__metadata__"), default=0)
    if size < whole:
        raise ValueError(f"{path} was cut short: {size} of {whole} bytes")
