"""How are tensors kept on disk? In safetensors, with a header that says what they are, whose, and if they are whole.

The header holds the version of the format, the kind of thing that the file holds, the fields of whoever wrote it, and a
checksum of all of this. Nothing is ever unpickled. A checksum can be made for any content, so a reader also checks
every part that it takes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from engram_interp.common.writing import replacing

FORMAT = "engram_interp"
VERSION = "2"
Field = TypeVar("Field")


@dataclass(frozen=True)
class Content:
    """What a file holds. Each part is checked when it is asked for.

    Attributes:
        path: the file.
        tensors: by name.
        fields: the fields of whoever wrote the file, as JSON gives them.
        checksum: of all this.
    """

    path: Path
    tensors: dict[str, Tensor]
    fields: dict[str, Any]
    checksum: str = ""

    def error(self, why: str) -> ValueError:
        """The error to raise if the content is not what its kind says."""
        return ValueError(f"{self.path} does not hold what its header says: {why}")

    def tensor(self, name: str) -> Tensor:
        """One of the tensors.

        Raises:
            ValueError: if no tensor has this name.
        """
        if name not in self.tensors:
            raise self.error(f"the tensor {name!r} is missing")
        return self.tensors[name]

    def field(self, name: str, kind: type[Field]) -> Field:
        """One of the fields.

        Raises:
            ValueError: if no field has this name, or if it is of another type.
        """
        value = self.fields.get(name)
        if not isinstance(value, kind):
            raise self.error(f"{name!r} must be a {kind.__name__}; it is {value!r}")
        return value

    def strings(self, name: str) -> list[str]:
        """A field that is a list of different strings.

        Raises:
            ValueError: if it is anything else, or an empty list.
        """
        values = self.field(name, list)
        if not values or not all(isinstance(value, str) for value in values) or len(set(values)) < len(values):
            raise self.error(f"{name!r} must be a list of different strings; it is {values!r}")
        return values

    def strings_by_name(self, name: str, keys: Collection[str]) -> dict[str, str]:
        """A field that holds one string under each of these keys, and nothing else.

        Raises:
            ValueError: if it is anything else.
        """
        found = self.field(name, dict)
        if set(found) != set(keys) or not all(isinstance(value, str) for value in found.values()):
            raise self.error(f"{name!r} must hold a string for each of {', '.join(keys)}; it is {found!r}")
        return found

    def name(self) -> str | None:
        """The field `name`; see `text`."""
        return self.text("name")

    def text(self, name: str) -> str | None:
        """A field that is a string; None if the file has no such field.

        Raises:
            ValueError: if it is anything else.
        """
        return None if self.fields.get(name) is None else self.field(name, str)


def fingerprint(tensors: Iterable[Tensor]) -> str:
    """SHA-256 of the shapes, types and bits of tensors.

    Example:
        >>> fingerprint([torch.zeros(2)]) == fingerprint([torch.zeros(3)])
        False
    """
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(repr((tuple(tensor.shape), str(tensor.dtype))).encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def write(path: str | Path, kind: str, tensors: dict[str, Tensor], fields: dict[str, Any]) -> str:
    """Writes tensors and JSON fields as a file of a kind: `engram`, `statistics` or `moments`.

    Returns:
        The checksum of its content.

    Raises:
        OSError: if the file cannot be written. A file that was there before is then unchanged.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(tensors.items())}
    header = json.dumps(fields)
    metadata = {"format": FORMAT, "version": VERSION, "kind": kind, "fields": header}
    checksum = _checksum(header, tensors)
    with replacing(path) as aside:
        save_file(tensors, aside, {**metadata, "checksum": checksum})
    return checksum


def read(path: str | Path, kind: str) -> Content:
    """Reads the tensors and fields of a file that `write` made.

    Raises:
        FileNotFoundError: if there is no file at `path`.
        ValueError: if the file comes from another program, is of another kind or version, is cut short or was altered.
            The message says which.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    _check_whole(path)
    metadata, tensors = _opened(path)
    _check_header(path, metadata, kind)
    checksum = _checksum(metadata.get("fields", ""), tensors)
    if metadata.get("checksum") != checksum:
        raise ValueError(f"{path} was altered: its content does not match its checksum")
    return Content(path, tensors, _fields(path, metadata), checksum)


def _opened(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            return metadata, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} was altered: its header does not fit its content ({error})") from error


def _check_header(path: Path, metadata: dict[str, str], kind: str) -> None:
    if metadata.get("format") != FORMAT:
        raise ValueError(f"{path} is a foreign file: it is safetensors, but {FORMAT} did not write it")
    if metadata.get("version") != VERSION:
        raise ValueError(f"{path} has format version {metadata.get('version')}; this release reads version {VERSION}")
    if metadata.get("kind") != kind:
        raise ValueError(f"{path} must hold {kind}; it holds {metadata.get('kind')}")


def _fields(path: Path, metadata: dict[str, str]) -> dict[str, Any]:
    try:
        fields = json.loads(metadata["fields"])
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} was altered: its fields are not valid JSON ({error})") from error
    if not isinstance(fields, dict):
        raise ValueError(f"{path} was altered: its fields must be a dict; they are a {type(fields).__name__}")
    return fields


def _checksum(header: str, tensors: dict[str, Tensor]) -> str:
    names = json.dumps(sorted(tensors))
    content = fingerprint(tensors[name] for name in sorted(tensors))
    return hashlib.sha256("\n".join((header, names, content)).encode()).hexdigest()


def _check_whole(path: Path) -> None:
    """Tells a file that was cut short from one that is not safetensors, by the lengths in its own header."""
    size = path.stat().st_size
    with path.open("rb") as file:
        header_length = int.from_bytes(file.read(8), "little")
        if size < 9 or file.read(1) != b"{":
            raise ValueError(f"{path} is a foreign file: it is not safetensors")
        if size < 8 + header_length:
            raise ValueError(f"{path} was cut short: {size} bytes, but the header alone has {header_length}")
        file.seek(8)
        header = file.read(header_length)
    try:
        ends = [entry["data_offsets"][1] for name, entry in json.loads(header).items() if name != "__metadata__"]
        whole = 8 + header_length + max(ends, default=0)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} was altered: its header is not that of a safetensors file ({error})") from error
    if size < whole:
        raise ValueError(f"{path} was cut short: {size} of {whole} bytes")
