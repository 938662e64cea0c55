"""How was an output made, and how is it made again? A `config.json` beside it says the command and its options."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from engram_interp.common.storage import FORMAT
from engram_interp.common.writing import replacing

NAME = "config.json"


def versions() -> dict[str, str]:
    """The versions of the packages that a result may depend on."""
    return {name: version(name) for name in ("engram-interp", "torch", "transformer-lens")}


def write_record(output: Path, command: str, arguments: Sequence[str]) -> Path:
    """Write down how an output was made, beside it. Runs whose outputs lie in one folder share a file.

    Where another program's `config.json` lies, as in a checkpoint's folder, the file is called after the output.

    Args:
        output: the file or folder that was made.
        command: the command's name.
        arguments: its arguments, as a shell would give them.

    Returns:
        The file.

    Raises:
        OSError: if it cannot be written.
    """
    place = output.resolve()
    path = place.parent / NAME
    if path.is_file() and not _is_own(path):
        path = place.parent / f"{place.name}.{NAME}"
    runs = _runs_in(path) if path.is_file() and _is_own(path) else []
    made = {"output": place.name, "command": command, "arguments": list(arguments), "versions": versions()}
    runs = [one for one in runs if one["output"] != place.name]
    with replacing(path) as aside:
        aside.write_text(json.dumps({"format": FORMAT, "runs": [*runs, made]}, indent=2), encoding="utf-8")
    return path


def read_record(path: Path) -> dict[str, list[str]]:
    """The command and its arguments by the name of the output, as `write_record` wrote them.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is another program's, or does not say how to run.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    if not _is_own(path):
        raise ValueError(f"{path} must be a {NAME} that engram-interp left beside an output; it is something else")
    try:
        return {one["output"]: [one["command"], *map(str, one["arguments"])] for one in _runs_in(path)}
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} was altered: a run in it lacks {error}") from None


def _is_own(path: Path) -> bool:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError):
        return False
    return isinstance(found, dict) and found.get("format") == FORMAT and isinstance(found.get("runs"), list)


def _runs_in(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text(encoding="utf-8"))["runs"]
