"""Tables of results, as JSON with a row a line, and with what they were made with."""

import json
from importlib.metadata import version
from pathlib import Path

import pandas as pd

VERSIONS = ("torch", "transformer-lens")


def write(path: Path, **tables: pd.DataFrame) -> None:
    """Write tables by name."""
    made_with = json.dumps({name: version(name) for name in VERSIONS})
    lines = {name: ",\n".join(json.dumps(row) for row in table.to_dict("records")) for name, table in tables.items()}
    found = ",\n".join(f'"{name}": [\n{text}\n]' for name, text in lines.items())
    path.write_text(f'{{"made_with": {made_with},\n{found}}}\n')


def read(path: Path) -> dict[str, pd.DataFrame]:
    """The tables of a file, by name."""
    found = json.loads(path.read_text())
    return {name: pd.DataFrame(table) for name, table in found.items() if name != "made_with"}
