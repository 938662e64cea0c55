"""How is an experiment run? One command line for all: `--data`, `--width`, `--device`, `--plot`, and a JSON."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch

from analyses import results
from analyses.results import Tables
from engram_interp.linalg.intervals import bootstrap_mean


@dataclass(frozen=True)
class Setting:
    """What an experiment is run on.

    Attributes:
        data: the set of pictures; see `data.py`.
        width: the models' width. None takes the narrow one that suits two cores.
        device: where models run.
        n_train: how many training pictures.
        seeds: how many models are trained.
    """

    data: str
    width: int | None
    device: str
    n_train: int | None
    seeds: int

    @property
    def sized(self) -> dict[str, int]:
        """The width as a model's argument, if it is given."""
        return {} if self.width is None else {"width": self.width}


def experiment(
    script: str,
    measure: Callable[[Setting], Tables],
    text: Callable[[Tables], str],
    figures: Callable[[Tables], Sequence[go.Figure]],
    data: str = "fashion",
    n_train: int | None = 4000,
    seeds: int = 3,
) -> click.Command:
    """The command line of an experiment: measure, write JSON beside the script (or to `--out`), print, draw."""
    path = Path(script).with_suffix(".json")

    def main(out: Path | None, plot: Path | None, only_plot: bool, **options: Any) -> None:
        setting = Setting(**options)
        if out is None and (setting.data != data or setting.width is not None):
            raise click.UsageError(f"the JSON beside the script is of {data}: give --out with other data or widths")
        out = out or path
        if not only_plot:
            began = time.perf_counter()
            tables = measure(setting)
            seconds = round(time.perf_counter() - began, 1)
            made = {"script": path.with_suffix(".py").name, "options": asdict(setting)}
            results.write(out, {**made, "machine": results.machine(), "seconds": seconds}, **tables)
        tables = results.read(out)
        click.echo(text(tables))
        if plot is not None:
            results.draw(plot, *figures(tables))

    for option in (
        click.option("--data", default=data, show_default=True, help="The pictures; see data.py."),
        click.option("--width", type=int, help="The models' width; the paper's ResNet-18 has 64."),
        click.option("--device", default="cpu", show_default=True),
        click.option("--n-train", type=int, default=n_train, show_default=True, help="Training pictures."),
        click.option("--seeds", type=int, default=seeds, show_default=True, help="Models that are trained."),
        click.option("--out", type=click.Path(path_type=Path), help="The JSON; beside the script by default."),
        click.option("--plot", type=click.Path(path_type=Path), help="Where to draw the results, as .html."),
        click.option("--only-plot", is_flag=True, help="Do not measure; show the results that exist."),
    ):
        main = option(main)
    return click.command(path.stem, help=f"Make the results of {path.stem}.")(main)


def seeded(seed: int, make: Callable[[], torch.nn.Module], device: str) -> torch.nn.Module:
    """A new model, whose weights the seed decides."""
    torch.manual_seed(seed)
    return make().to(device)


def interval(values: Sequence[float] | np.ndarray) -> dict[str, float]:
    """The mean over seeds and its 95 % bootstrap interval."""
    found = bootstrap_mean(np.asarray(values, dtype=float), 0)
    return {name: float(found[name]) for name in ("value", "low", "high")}


def over_seeds(rows: pd.DataFrame, by: list[str], value: str) -> pd.DataFrame:
    """A row for each group, with the mean over seeds and its interval."""
    found = [
        {
            **dict(zip(by, names if isinstance(names, tuple) else (names,), strict=True)),
            **interval(some[value].to_numpy()),
        }
        for names, some in rows.groupby(by, sort=False)
    ]
    return pd.DataFrame(found)
