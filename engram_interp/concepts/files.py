"""How are examples read from a file? From text with one example in each line, from JSON lines, or from a JSON list."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from engram_interp.concepts.concept import Example, Pair, check_example

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
    examples = [_from_json(value, place) for place, value in _values(Path(path))]
    if not examples:
        raise ValueError(f"{path} must hold one or more examples; it holds none")
    return examples


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
    for n, line in enumerate(_text(path).split("\n"), 1):
        if "\0" in line:
            raise ValueError(f"{path}, line {n} holds a zero byte, as UTF-16 does: save the file as UTF-8")
        if line := line.strip().strip("\ufeff").strip():
            yield f"{path}, line {n}", line


def _text(path: Path) -> str:
    content = path.read_bytes()
    encoding = next((name for mark, name in MARKED.items() if content.startswith(mark)), "utf-8-sig")
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ValueError(
            f"{path}, line {line} is not {encoding.removesuffix('-sig').upper()} (byte 0x{content[error.start]:02x}): "
            f"save the file as UTF-8"
        ) from error


def _parsed(line: str, place: str) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place} is not valid JSON: {error}") from error


def _from_json(value: object, place: str) -> Example:
    match value:
        case str() as example:
            found: Example = example
        case [str() as prompt, str() as answer]:
            found = prompt, answer
        case {"prompt": str() as prompt, "answer": str() as answer}:
            found = _pair(prompt, answer, cast("dict[Any, Any]", value), place)
        case {"question": str() as prompt, "answer": str() as answer}:
            found = _pair(prompt, answer, cast("dict[Any, Any]", value), place)
        case {"text": str() as text}:
            found = text
        case _:
            raise ValueError(
                f"{place} must be a string, a [prompt, answer] list, an object with prompt (or question) and answer, "
                f"or an object with text; got {value!r}"
            )
    check_example(found, place)
    try:
        "".join(found).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{place} holds half of a character (a lone surrogate): {found!r}") from error
    return found


def _pair(prompt: str, answer: str, value: dict[Any, Any], place: str) -> tuple[str, str]:
    """The pair, with the positions that count if the object says which."""
    chosen = {name: value[name] for name in ("positions", "eos") if value.get(name) is not None}
    try:
        return Pair(prompt, answer, **chosen) if chosen else (prompt, answer)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{place}: {error}") from error
