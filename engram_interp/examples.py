"""Examples from a file: a text file with one a line, or JSON lines."""

from __future__ import annotations

import json
from pathlib import Path

from engram_interp.concept import Example


def read_examples(path: str | Path) -> list[Example]:
    """The examples of a `.txt` file (a string a line) or a `.jsonl` or `.json` file (a JSON value a line).

    A JSON line is a string, a `[prompt, answer]` list, or an object with `prompt` (or `question`) and `answer`, or with
    `text`; other fields are ignored. Blank lines are skipped.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: another suffix, a line that is none of these (the message gives its number), or no example at all.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    if path.suffix not in (".txt", ".jsonl", ".json"):
        raise ValueError(f"{path} is no .txt, .jsonl or .json file, which examples come from")
    lines = [
        (n, line.strip()) for n, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), 1) if line.strip()
    ]
    if not lines:
        raise ValueError(f"{path} holds no example")
    if path.suffix == ".txt":
        return [line for _, line in lines]
    return [_from_json(line, f"{path}, line {n}") for n, line in lines]


def _from_json(line: str, place: str) -> Example:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{place} is no JSON: {error}") from error
    match value:
        case str():
            return value
        case [str() as prompt, str() as answer]:
            return prompt, answer
        case {"prompt": str() as prompt, "answer": str() as answer}:
            return prompt, answer
        case {"question": str() as prompt, "answer": str() as answer}:
            return prompt, answer
        case {"text": str() as text}:
            return text
    raise ValueError(
        f"{place} is none of: a string, a [prompt, answer] list, an object with prompt (or question) and answer, "
        f"or one with text"
    )
