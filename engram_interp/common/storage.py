"""Tensors on disk: safetensors with a header that says what they are, whose, and whether they are still whole.

The header holds the format's version, what kind of thing this is, the maker's own fields and a checksum of it all.
Nothing is ever unpickled, and nothing that is read is taken on trust: a checksum can be made for any content.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from engram_interp.common.writing import replacing
from engram_interp.models.base import ModelInfo, fingerprint

FORMAT = "engram_interp"
VERSION = "2"
Field = TypeVar("Field")


@dataclass(frozen=True)
class Content:
    """What a file holds, each part of which is checked when it is asked for.

    Attributes:
        path: the file.
        tensors: by name.
        fields: the maker's own, as JSON gave them.
    """

    path: Path
    tensors: dict[str, Tensor]
    fields: dict[str, Any]

    def error(self, why: str) -> ValueError:
        """The error to raise where the content is not what its kind says."""
        return ValueError(f"{self.path} does not hold what its header says: {why}")

    def tensor(self, name: str) -> Tensor:
        """One of the tensors.

        Raises:
            ValueError: there is none of that name.
        """
        if name not in self.tensors:
            raise self.error(f"there is no tensor {name!r}")
        return self.tensors[name]

    def field(self, name: str, kind: type[Field]) -> Field:
        """One of the fields.

        Raises:
            ValueError: there is none of that name, or it is of another type.
        """
        value = self.fields.get(name)
        if not isinstance(value, kind):
            raise self.error(f"its {name!r} is {value!r}, not a {kind.__name__}")
        return value

    def strings(self, name: str) -> list[str]:
        """A field that is a list of different strings, one at least.

        Raises:
            ValueError: it is not.
        """
        values = self.field(name, list)
        if not values or not all(isinstance(value, str) for value in values) or len(set(values)) < len(values):
            raise self.error(f"its {name!r} is not a list of different strings: {values!r}")
        return values

    def name(self) -> str | None:
        """The field `name`, which may be missing.

        Raises:
            ValueError: it is something else than text.
        """
        return None if self.fields.get("name") is None else self.field("name", str)

    def model(self) -> ModelInfo:
        """The field `model`.

        Raises:
            ValueError: it does not say which model this is.
        """
        found = self.field("model", dict)
        if set(found) != {"name", "fingerprint", "processing"} or not all(isinstance(v, str) for v in found.values()):
            raise self.error(f"its 'model' is {found!r}")
        return ModelInfo(**found)


def write(path: str | Path, kind: str, tensors: dict[str, Tensor], fields: dict[str, Any]) -> None:
    """Write tensors and JSON fields under a kind, `engram` or `statistics`.

    Raises:
        OSError: the file cannot be written; what was there before still is.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(tensors.items())}
    header = json.dumps(fields)
    metadata = {"format": FORMAT, "version": VERSION, "kind": kind, "fields": header}
    with replacing(path) as aside:
        save_file(tensors, aside, {**metadata, "checksum": _checksum(header, tensors)})


def read(path: str | Path, kind: str) -> Content:
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
    except (SafetensorError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} was altered: its header does not fit its content ({error})") from error
    if metadata.get("format") != FORMAT:
        raise ValueError(f"{path} is a foreign file: safetensors, but not written by {FORMAT}")
    if metadata.get("version") != VERSION:
        raise ValueError(f"{path} has format version {metadata.get('version')}, this release reads version {VERSION}")
    if metadata.get("kind") != kind:
        raise ValueError(f"{path} holds {metadata.get('kind')}, not {kind}")
    if metadata.get("checksum") != _checksum(metadata.get("fields", ""), tensors):
        raise ValueError(f"{path} was altered: its content does not match its checksum")
    try:
        fields = json.loads(metadata["fields"])
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} was altered: its fields are no JSON ({error})") from error
    if not isinstance(fields, dict):
        raise ValueError(f"{path} was altered: its fields are a {type(fields).__name__}")
    return Content(path, tensors, fields)


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
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
            whole = 8 + header_length + max(ends, default=0)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
            raise ValueError(f"{path} was altered: its header is not safetensors' ({error})") from error
    if size < whole:
        raise ValueError(f"{path} was cut short: {size} of {whole} bytes")
