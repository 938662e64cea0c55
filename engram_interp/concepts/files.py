"""How are examples read from a file? From text with one example in each line, from JSON lines, or from a JSON list."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from engram_interp.concepts.concept import Example, example_of

TEXT, LINES, JSON = ".txt", ".jsonl", ".json"
MARKED = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""Encodings by a file's first bytes. UTF-32 comes first, since its mark begins with the mark of UTF-16."""


def read_examples(path: str | Path) -> list[Example]:
    """Reads a `.txt` file (one string in each line), a `.jsonl` file (one JSON value in each line) or a `.json` list.

    A JSON value is a string, a `[prompt, answer]` list, an object with `prompt` (or `question`) and `answer`, or an
    object with `text`. An object with an answer may say which of its positions count: `positions` and `eos`, as
    `Concept` takes them. Other fields are ignored. The list in a `.json` file holds such values, so two strings in it
    are two texts. A `.json` file may also hold JSON lines. Blank lines are skipped. Files must be UTF-8, or UTF-16 or
    UTF-32 with a byte order mark.

    Raises:
        FileNotFoundError: if there is no file at `path`.
        ValueError: if the suffix or the encoding is another one, if the file holds no example, or if a value is not an
            example. The message gives its line, or its place in the list.
    """
    examples = [example_of(value, place) for place, value in _values(Path(path))]
    if not examples:
        raise ValueError(f"{path} must hold one or more examples; it holds none")
    return examples


_UNDECODED = re.compile("[\udc80-\udcff]")
"""What stands for a byte that could not be decoded."""


class ExamplesIn:
    """The examples of a `.txt` or `.jsonl` file of any size, read line by line whenever somebody iterates over them.

    Args:
        path: the file; see `read_examples`.

    Raises:
        FileNotFoundError: if there is no file at `path`.
        ValueError: if it is no such file; while it is read, if a line is not an example.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"there is no file {self.path}")
        if self.path.suffix.lower() not in (TEXT, LINES):
            raise ValueError(f"{self.path} must be a .txt or .jsonl file to be read line by line")

    def __iter__(self) -> Iterator[Example]:
        is_text = self.path.suffix.lower() == TEXT
        with self.path.open("rb") as file:
            encoding = _encoding(file.read(4))
        with self.path.open(encoding=encoding, errors="surrogateescape", newline="\n") as file:
            for place, line in _told_apart(file, self.path):
                if found := _UNDECODED.search(line):
                    byte = ord(found[0]) - 0xDC00
                    raise ValueError(f"{place} is not {encoding.removesuffix('-sig').upper()} (byte 0x{byte:02x})")
                yield example_of(line if is_text else _parsed(line, place), place)


def read_labels(path: str | Path, field: str) -> list[str | int | None]:
    """What a field of every example's object says, such as its author; None for an example without the field.

    Args:
        path: a file as `read_examples` takes it.
        field: the field's name.

    Raises:
        ValueError: if a field holds anything but a string, a whole number or null.
    """
    found: list[str | int | None] = []
    for place, value in _values(Path(path)):
        label = value.get(field) if isinstance(value, dict) else None
        if label is not None and type(label) not in (str, int):
            raise ValueError(f"{place}: {field} must be a string or a whole number; got {label!r}")
        found.append(label)
    return found


def _values(path: Path) -> list[tuple[str, object]]:
    """What stands for every example, each after what errors call its place."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    suffix = path.suffix.lower()
    if suffix not in (TEXT, LINES, JSON):
        raise ValueError(f"{path} must be a .txt, .jsonl or .json file")
    if suffix == TEXT:
        return list(_lines(path))
    return read_lines(path) if suffix == LINES else _read_list(path)


def read_lines(path: Path) -> list[tuple[str, object]]:
    """The JSON value of every line that is not blank, each after what errors call its line.

    Raises:
        ValueError: if the encoding is unknown, or a line is not valid JSON.
    """
    return [(place, _parsed(line, place)) for place, line in _lines(path)]


def _read_list(path: Path) -> list[tuple[str, object]]:
    text = _text(path)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        if text.lstrip().startswith("[") and isinstance(error, json.JSONDecodeError) and error.lineno > 1:
            raise ValueError(f"{path}, line {error.lineno} is not valid JSON: {error.msg}") from error
        return read_lines(path)
    if not isinstance(value, list):
        return [(str(path), value)]
    return [(f"{path}, [{i}]", one) for i, one in enumerate(value)]


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    return _told_apart(_text(path).split("\n"), path)


def _told_apart(lines: Iterable[str], path: Path) -> Iterator[tuple[str, str]]:
    """Lines that are not blank, each after what errors call it."""
    for n, line in enumerate(lines, 1):
        if "\0" in line:
            raise ValueError(f"{path}, line {n} holds a zero byte, as UTF-16 does: save the file as UTF-8")
        if line := line.strip().strip("\ufeff").strip():
            yield f"{path}, line {n}", line


def _text(path: Path) -> str:
    content = path.read_bytes()
    encoding = _encoding(content)
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ValueError(
            f"{path}, line {line} is not {encoding.removesuffix('-sig').upper()} (byte 0x{content[error.start]:02x}): "
            f"save the file as UTF-8"
        ) from error


def _encoding(content: bytes) -> str:
    """What a file that begins with these bytes is encoded in."""
    return next((name for mark, name in MARKED.items() if content.startswith(mark)), "utf-8-sig")


def _parsed(line: str, place: str) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place} is not valid JSON: {error}") from error
