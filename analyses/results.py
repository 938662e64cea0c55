"""What was found, and what was it made with? Tables as JSON, one row a line.

Beside its tables, a file says which versions and which commit made them.
"""

import json
import platform
import subprocess
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import pandas as pd
import plotly.graph_objects as go
import torch

from engram_interp.figures.html import to_html

HERE = Path(__file__).parent
Tables = dict[str, pd.DataFrame]
VERSIONS = ("engram-interp", "torch", "transformer-lens", "transformers", "numpy")


def write(path: Path, made: dict[str, Any] | None = None, **tables: pd.DataFrame) -> None:
    """Write tables by name, together with the versions, the commit and `made`."""
    made_with = {**{name: version(name) for name in VERSIONS}, "commit": commit(HERE), **(made or {})}
    lines = {name: ",\n".join(json.dumps(row) for row in table.to_dict("records")) for name, table in tables.items()}
    found = ",\n".join(f'"{name}": [\n{text}\n]' for name, text in lines.items())
    path.write_text(f'{{"made_with": {json.dumps(made_with)},\n{found}}}\n')


def record(path: Path, measure: Callable[[], Tables], script: str | None = None) -> None:
    """Write what `measure` returns, and with it the script, the machine and the seconds that it took.

    Args:
        path: the JSON.
        measure: makes the tables.
        script: the script's file; None is the one with the name of the JSON.
    """
    began = time.perf_counter()
    tables = measure()
    seconds = round(time.perf_counter() - began, 1)
    write(
        path,
        {"script": Path(script or path).with_suffix(".py").name, "machine": machine(), "seconds": seconds},
        **tables,
    )


def commit(folder: Path) -> str | None:
    """The commit that a folder is at, with `-dirty` if its repository has changes; None outside of a repository."""
    head = _git(folder, "rev-parse", "HEAD")
    if head is None:
        return None
    return f"{head}-dirty" if _git(folder, "status", "--porcelain") else head


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def machine() -> str:
    """What seconds were measured on."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{platform.machine()}, {torch.get_num_threads()} threads"


def made_with(path: Path) -> dict[str, Any]:
    """What a file's tables were made with."""
    return json.loads(path.read_text())["made_with"]


def draw(path: Path, *figures: go.Figure) -> None:
    """Write figures as a page that needs no network."""
    shown = "".join(to_html(figure, place) for place, figure in enumerate(figures))
    path.write_text(f"<!doctype html><meta charset='utf-8'>{shown}")


def study(
    path: Path,
    measure: Callable[[], Tables],
    text: Callable[[Tables], str],
    figures: Callable[[Tables], Sequence[go.Figure]],
) -> click.Command:
    """The command line of a study: measure, write JSON, print, draw.

    Args:
        path: the JSON, beside the script.
        measure: makes the tables.
        text: makes the text that is printed.
        figures: makes the figures that are drawn.
    """

    def main(plot: Path | None, only_plot: bool) -> None:
        if not only_plot:
            record(path, measure)
        tables = read(path)
        click.echo(text(tables))
        if plot is not None:
            draw(plot, *figures(tables))

    main = click.option("--plot", type=click.Path(path_type=Path), help="Where to draw the results, as .html.")(main)
    main = click.option("--only-plot", is_flag=True, help="Do not measure; show the results that exist.")(main)
    return click.command(path.stem, help=f"Make the results of {path.stem}.")(main)


def read(path: Path) -> Tables:
    """The tables of a file, by name."""
    found = json.loads(path.read_text())
    return {name: pd.DataFrame(table) for name, table in found.items() if name != "made_with"}
