"""Tables of results, as JSON with a row a line, and with what they were made with."""

import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import torch

VERSIONS = ("engram-interp", "torch", "transformer-lens", "transformers", "numpy")


def write(path: Path, made: dict[str, Any] | None = None, **tables: pd.DataFrame) -> None:
    """Write tables by name, and with them what they were made with: versions, and `made`."""
    made_with = {**{name: version(name) for name in VERSIONS}, **({} if made is None else made)}
    lines = {name: ",\n".join(json.dumps(row) for row in table.to_dict("records")) for name, table in tables.items()}
    found = ",\n".join(f'"{name}": [\n{text}\n]' for name, text in lines.items())
    path.write_text(f'{{"made_with": {json.dumps(made_with)},\n{found}}}\n')


def machine() -> str:
    """What seconds were measured on."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{platform.machine()}, {torch.get_num_threads()} threads"


def made_with(path: Path) -> dict[str, Any]:
    """What a file's tables were made with."""
    return json.loads(path.read_text())["made_with"]


def read(path: Path) -> dict[str, pd.DataFrame]:
    """The tables of a file, by name."""
    found = json.loads(path.read_text())
    return {name: pd.DataFrame(table) for name, table in found.items() if name != "made_with"}
