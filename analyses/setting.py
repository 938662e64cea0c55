"""What every table of unlearning needs: a model, the one that never saw the target, the one before, and a benchmark.

The testbed's by default, in minutes; any other by `--model`, `--retain`, `--base` and `--data`.
"""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import click
import pandas as pd
import plotly.graph_objects as go
import results
import torch
from torch import nn

import engram_interp as ei
from engram_interp.figures import plots
from engram_interp.models import adapt
from engram_interp.unlearning.benchmarks import TOFU

TESTBED = "testbed"
VALIDATION, TEST = "validation", "test"
Tables = dict[str, pd.DataFrame]


@dataclass(frozen=True)
class Setting:
    """A model to unlearn in, and what to judge it by.

    Attributes:
        options: of the command line, from which `load` makes it again.
        model: trained on everything.
        retain: trained without the target; None where no table needs it.
        base: before either; None where no method needs it.
        benchmark: what to forget, and the questions.
        refusals: answers that refuse, for methods that train them.
        seed: of everything drawn.
        only: the methods to compare; all where none is named.
    """

    options: dict[str, Any]
    model: nn.Module
    benchmark: ei.Benchmark
    retain: nn.Module | None = None
    base: nn.Module | None = None
    refusals: tuple[str, ...] = ("I do not know.", "I cannot say.", "Nobody told me.", "I have no idea.")
    seed: int = 0
    only: tuple[str, ...] = ()
    _made: dict[str, Any] = field(default_factory=dict, repr=False)

    def fresh(self) -> "Setting":
        """The same with nothing made yet, so that the cost of a method is all of it."""
        return replace(self, _made={})

    def made(self, name: str, make: Callable[[], Any]) -> Any:
        """What `make` makes, once."""
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]

    @property
    def statistics(self) -> ei.Statistics:
        return self.made("statistics", lambda: ei.collect(self.model, self.benchmark.concept, progress=False))

    def engram(self, **options: Any) -> ei.Engram:
        """The target's engram; options as in `extract`."""
        return self.made(f"engram {options}", lambda: ei.extract(self.model, self.statistics, **options))

    def ends(self, questions: str) -> dict[str, ei.Run]:
        """The ends of every scale, on the questions that choices are made by or on those that are reported."""
        models = {"full": self.model, "retain": required(self.retain, "retain")}
        return self.made(
            f"ends {questions}",
            lambda: {
                name: ei.measure(model, self.questions(questions), progress=False) for name, model in models.items()
            },
        )

    def questions(self, which: str) -> ei.Benchmark:
        """Of every part, a fourth to choose hyperparameters by, drawn at random, or the rest to report."""
        chosen = {VALIDATION: True, TEST: False}[which]

        def some(questions: Sequence[ei.QA]) -> list[ei.QA]:
            first = set(random.Random(self.seed).sample(range(len(questions)), len(questions) // 4))
            return [qa for i, qa in enumerate(questions) if (i in first) == chosen]

        return replace(self.benchmark.asking(some), name=f"{self.benchmark.name}, {which}")


def required(model: nn.Module | None, name: str) -> nn.Module:
    if model is None:
        raise click.UsageError(f"this table needs --{name}")
    return model


def command(
    script: str,
    measure: Callable[[Setting], Tables],
    text: Callable[[Tables], str],
    figure: Callable[[Tables], go.Figure],
) -> click.Command:
    """The command line of a table: measure, write JSON beside the script (or to `--out`), print, draw.

    Args:
        script: its file.
        measure: from a setting to tables by name.
        text: what is printed.
        figure: what is drawn.
    """
    path = Path(script)

    @click.command(help=f"Make {path.stem}'s table anew, of the testbed or of another model.")
    @click.option("--model", default=TESTBED, show_default=True, help="Trained on everything: a name or a folder.")
    @click.option("--retain", help="Trained without the target; with another --model than the testbed.")
    @click.option("--base", help="Before fine-tuning; with another --model than the testbed.")
    @click.option("--data", help="TOFU: a folder, or a repository on the hub; locuslab/TOFU by default.")
    @click.option("--forget", help="Which of TOFU's splits is to go; forget10 by default.")
    @click.option("--hold-out", type=int, help="So many of the last questions were held out of every training.")
    @click.option("--system-prompt", help="In front of chats: OpenUnlearning's by default, none where this is empty.")
    @click.option(
        "--refusals",
        type=click.Path(exists=True, dir_okay=False),
        help="Answers that refuse, one a line; idontknow.jsonl of --data by default, or else four of our own.",
    )
    @click.option("--device", help="Where models are put; TransformerLens's choice by default.")
    @click.option("--seed", type=int, default=0, show_default=True)
    @click.option("--only", multiple=True, help="A method by its name; may be given again. All by default.")
    @click.option("--out", type=click.Path(path_type=Path), help="Where the JSON goes; beside the script by default.")
    @click.option("--plot", type=click.Path(path_type=Path), help="Where to draw the results, as .html.")
    @click.option("--only-plot", is_flag=True, help="Draw the results that are there.")
    def main(out: Path | None, plot: Path | None, only_plot: bool, **options: Any) -> None:
        if out is None and options["model"] != TESTBED:
            raise click.UsageError("the JSON beside the script is the testbed's: give --out with another --model")
        out = out or path.with_suffix(".json")
        if not only_plot:
            began = time.perf_counter()
            setting = load(**options)
            tables = measure(setting)
            info = adapt(setting.model).info
            made = {
                "script": path.name,
                "options": options,
                "model": {"name": info.name, "fingerprint": info.fingerprint, "processing": info.processing},
                "benchmark": setting.benchmark.name,
                "machine": results.machine(),
                "seconds": round(time.perf_counter() - began, 1),
            }
            results.write(out, made, **tables)
        tables = results.read(out)
        click.echo(text(tables))
        if plot is not None:
            plot.write_text(f"<!doctype html><meta charset='utf-8'>{plots.to_html(figure(tables), 0)}")

    return main


def load(
    model: str,
    retain: str | None,
    base: str | None,
    data: str | None,
    forget: str | None,
    hold_out: int | None,
    system_prompt: str | None,
    refusals: str | None,
    device: str | None,
    seed: int,
    only: tuple[str, ...],
) -> Setting:
    """A setting as the command line names it."""
    options = dict(locals())
    torch.manual_seed(seed)
    if model == TESTBED:
        theirs = ("retain", "base", "data", "forget", "hold_out", "system_prompt", "refusals", "device")
        if given := [f"--{name.replace('_', '-')}" for name in theirs if options[name] is not None]:
            raise click.UsageError(f"{', '.join(given)} goes with another --model than the testbed")
        loaded = {name: ei.testbed.load(name) for name in ("full", "retain", "base")}
        return Setting(
            options, loaded["full"], ei.testbed.benchmark(), loaded["retain"], loaded["base"], seed=seed, only=only
        )
    full = ei.load_model(model, device=device)
    others: dict[str, Any] = {}
    for name, one in {"retain": retain, "base": base}.items():
        if one is not None:
            others[name] = ei.load_model(one, device=device)
    benchmark = ei.tofu(data or TOFU, forget or "forget10")
    if hold_out is not None:
        benchmark = benchmark.hold_out(hold_out)
    tokenizer: Any = full.tokenizer
    chat: dict[str, Any] = {} if system_prompt is None else {"system_prompt": system_prompt or None}
    setting = Setting(options, full, benchmark.templated(tokenizer, **chat), **others, seed=seed, only=only)
    answers = Path(refusals) if refusals else Path(data or TOFU) / "idontknow.jsonl"
    if not answers.is_file() and refusals is None:
        return setting
    return replace(setting, refusals=tuple(answers.read_text().splitlines()))
