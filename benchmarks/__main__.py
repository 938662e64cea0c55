"""`python -m benchmarks`: one table of how long things take, and of what they are to be compared with.

Read the ratios: seconds depend on the machine. All runs of a shape take turns. With a GPU the models run there in bf16.
"""

from __future__ import annotations

import logging
from dataclasses import asdict
from datetime import date
from importlib.metadata import version
from pathlib import Path

import click
import pandas as pd

from analyses import results
from benchmarks import engine, tasks
from benchmarks.models import DTYPE, SHAPES
from benchmarks.timing import Row


@click.command()
@click.option("--shape", "shapes", multiple=True, type=click.Choice(list(SHAPES)), help="Some shapes; all by default.")
@click.option("--testbed/--no-testbed", default=True, show_default=True, help="Whether the testbed's tasks are timed.")
@click.option("--repeats", default=5, show_default=True, help="Runs of which the median is taken.")
@click.option("--json", "record", type=click.Path(path_type=Path), help="Write the table to this file too.")
def main(shapes: tuple[str, ...], testbed: bool, repeats: int, record: Path | None) -> None:
    """Print the table."""
    logging.getLogger("engram_interp").setLevel(logging.ERROR)
    on = {
        "date": date.today().isoformat(), "machine": results.machine(), "dtype": str(DTYPE).rpartition(".")[2],
        "ai-engram": version("ai-engram"), "repeats": repeats,
    }  # fmt: skip
    click.echo(", ".join(f"{name} {value}" for name, value in on.items()))
    rows: list[Row] = []
    for shape in shapes or SHAPES:
        rows += _shown(list(engine.rows(shape, repeats)))
    if testbed:
        rows += _shown(list(tasks.rows(repeats)))
    if record is not None:
        results.write(record, {"script": "python -m benchmarks", **on}, rows=pd.DataFrame(map(asdict, rows)))


def _shown(rows: list[Row]) -> list[Row]:
    for row in rows:
        click.echo(f"{row.on:28s} {row.what:36s} {row.value:9.2f} {row.unit:2s} {row.ratio:6.2f} x {row.over}")
    return rows


if __name__ == "__main__":
    main()
