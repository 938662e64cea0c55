"""What does every table of unlearning need? Three models (full, retain, base) and a benchmark.

By default they are the testbed's, which takes minutes. `--model`, `--retain`, `--base` and `--data` name others.
"""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import click
import plotly.graph_objects as go
import torch
from torch import nn

import engram_interp as ei
from analyses import results
from analyses.results import Tables
from engram_interp.models import adapt
from engram_interp.unlearning.benchmarks import TOFU

TESTBED = "testbed"
VALIDATION, TEST = "validation", "test"


@dataclass(frozen=True)
class Setting:
    """A model that should forget, and what to judge it by.

    Attributes:
        options: the options of the command line, from which `load` makes this setting again.
        model: the model trained on everything.
        retain: the model trained without the target. None if no table needs it.
        base: the model before fine-tuning. None if no method needs it.
        target: the base model fine-tuned on the target alone. None: Task Arithmetic trains it.
        benchmark: what to forget, and the questions.
        refusals: answers that refuse, for methods that train them.
        epochs: how often a gradient method passes over the target.
        batch_size: how many of its questions make up a step, beside as many others.
        seed: the seed of everything random.
        only: the methods to compare. Empty means all.
    """

    options: dict[str, Any]
    model: nn.Module
    benchmark: ei.Benchmark
    retain: nn.Module | None = None
    base: nn.Module | None = None
    target: nn.Module | None = None
    refusals: tuple[str, ...] = ("I do not know.", "I cannot say.", "Nobody told me.", "I have no idea.")
    epochs: int = 10
    batch_size: int = 32
    seed: int = 0
    only: tuple[str, ...] = ()
    _made: dict[str, Any] = field(default_factory=dict, repr=False)

    def fresh(self) -> "Setting":
        """The same setting with nothing computed yet, so that the cost of a method includes everything."""
        return replace(self, _made={})

    def made(self, name: str, make: Callable[[], Any]) -> Any:
        """Calls `make` the first time that a name is asked for, and keeps what it returns."""
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]

    @property
    def concept(self) -> ei.Concept:
        """What is to be forgotten, at the paper's positions: the answer's own."""
        return replace(self.benchmark.concept, positions="answer")

    @property
    def statistics(self) -> ei.Statistics:
        return self.made("statistics", lambda: ei.collect(self.model, self.concept, progress=False))

    def engram(self, **options: Any) -> ei.Engram:
        """The target's engram, with the options of `extract`."""
        return self.made(f"engram {options}", lambda: ei.extract(self.model, self.statistics, **options))

    def ends(self, questions: str) -> dict[str, ei.Run]:
        """The two ends of every scale, on the questions for choosing (`validation`) or for reporting (`test`)."""
        models = {"full": self.model, "retain": required(self.retain, "retain")}
        return self.made(
            f"ends {questions}",
            lambda: {
                name: ei.measure(model, self.questions(questions), progress=False) for name, model in models.items()
            },
        )

    def questions(self, which: str) -> ei.Benchmark:
        """A random fourth of every part, to choose hyperparameters by (`validation`), or the rest (`test`)."""
        chosen = {VALIDATION: True, TEST: False}[which]

        def some(questions: Sequence[ei.QA]) -> list[ei.QA]:
            first = set(random.Random(self.seed).sample(range(len(questions)), len(questions) // 4))
            return [qa for i, qa in enumerate(questions) if (i in first) == chosen]

        return replace(self.benchmark.asking(some), name=f"{self.benchmark.name}, {which}")


def required(model: nn.Module | None, name: str) -> nn.Module:
    """The model, or an error that names the option that gives it."""
    if model is None:
        raise click.UsageError(f"this table needs --{name}")
    return model


@dataclass(frozen=True)
class Source:
    """Where the setting of a table comes from.

    Attributes:
        load: makes the setting from the options of the command line.
        options: these options, but for those that every table has.
        default: the model whose results lie beside the script.
    """

    load: Callable[..., Setting]
    options: Sequence[Callable[..., Any]]
    default: str


OF_EVERY_TABLE = (
    click.option("--device", help="The device of the models. Default: TransformerLens's choice."),
    click.option("--seed", type=int, default=0, show_default=True),
    click.option("--only", multiple=True, help="A method by its name; can be repeated. Default: all."),
    click.option("--out", type=click.Path(path_type=Path), help="Where to write the JSON. Default: beside the script."),
    click.option("--plot", type=click.Path(path_type=Path), help="Where to draw the results, as .html."),
    click.option("--only-plot", is_flag=True, help="Do not measure; draw the results that exist."),
)


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
    """The setting that the options of the command line describe."""
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


NAMED = Source(
    load,
    (
        click.option("--model", default=TESTBED, show_default=True, help="Trained on everything: a name or a folder."),
        click.option("--retain", help="The model trained without the target. Goes with --model."),
        click.option("--base", help="The model before fine-tuning. Goes with --model."),
        click.option("--data", help="TOFU: a folder, or a repository on the hub. Default: locuslab/TOFU."),
        click.option("--forget", help="The split of TOFU to forget. Default: forget10."),
        click.option("--hold-out", type=int, help="How many of the last questions were held out of all training."),
        click.option("--system-prompt", help="Put in front of chats. Default: OpenUnlearning's. Empty: none."),
        click.option(
            "--refusals",
            type=click.Path(exists=True, dir_okay=False),
            help="Answers that refuse, one on each line. Default: idontknow.jsonl of --data, else four of our own.",
        ),
    ),
    TESTBED,
)
"""The testbed, or models and data by their names."""


def command(
    script: str,
    measure: Callable[[Setting], Tables],
    text: Callable[[Tables], str],
    figure: Callable[[Tables], go.Figure],
    source: Source = NAMED,
) -> click.Command:
    """The command line of a table: measure, write JSON beside the script (or to `--out`), print, draw.

    Args:
        script: the script's file.
        measure: makes the tables, by name, from a setting.
        text: makes the text that is printed.
        figure: makes the figure that is drawn.
        source: where the setting comes from.
    """
    path = Path(script)

    def main(out: Path | None, plot: Path | None, only_plot: bool, **options: Any) -> None:
        if out is None and options["model"] != source.default:
            raise click.UsageError(
                f"the JSON beside the script is of {source.default}: give --out with another --model"
            )
        out = out or path.with_suffix(".json")
        if not only_plot:
            _record(out, path.name, source, measure, options)
        tables = results.read(out)
        click.echo(text(tables))
        if plot is not None:
            results.draw(plot, figure(tables))

    for option in reversed((*source.options, *OF_EVERY_TABLE)):
        main = option(main)
    about = f"Make the results of {path.stem}, for {source.default} or another model."
    return click.command(path.stem, help=about)(main)


def _record(
    out: Path, script: str, source: Source, measure: Callable[[Setting], Tables], options: dict[str, Any]
) -> None:
    """Measure, and write the tables with everything that made them."""
    began = time.perf_counter()
    setting = source.load(**options)
    tables = measure(setting)
    info = adapt(setting.model).info
    made = {
        "script": script,
        "options": options,
        "model": {"name": info.name, "fingerprint": info.fingerprint, "processing": info.processing},
        "benchmark": setting.benchmark.name,
        "machine": results.machine(),
        "seconds": round(time.perf_counter() - began, 1),
    }
    results.write(out, made, **tables)
