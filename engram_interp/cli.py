"""`engram-interp demo | explore | plan | collect | localize | diagnose | track | extract | ablate | sae | run`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

    from engram_interp.concepts.concept import Concept, Example
    from engram_interp.engrams.strengths import Alpha
    from engram_interp.maps.localization_map import LocalizationMap
    from engram_interp.report.explorer.exploration import Exploration
    from engram_interp.report.findings import Findings
    from engram_interp.statistics.statistics import Statistics

# Each command imports what it needs, so `--help` is fast. The choices below are written out for the same reason, and a
# test compares them with the library's.
POSITIONS, PREDICTING = ("predicting", "answer", "both", "all"), "predicting"
NULLS = ("analytic", "resampled", "siblings")
SCALES = ("score", "wnorm", "fisher", "excess", "fisher_excess", "gain", "gain_excess", "oblique_gain", "reliance")
DIAGNOSES = (
    "rank", "condition", "leading", "rank_set_aside", "owned", "effective_rank", "largest_share", "idempotence_defect",
    "obliqueness", "stretch",
    "target_passes", "reference_passes", "wnorm", "output_target", "output_reference",
)  # fmt: skip
CHANGES = ("moved", "delta", "cosine", "subspace")
EXAMPLE, UNITS = "example", ("token", "example")
REST, REFERENCE_MODES = "rest", ("rest", "matched", "matched-positions")

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

TESTBED = "testbed"
LARGE = 2**26
"""A file of examples with more bytes is read as a stream."""
DEMO_REPORT = Path("engram_report.html")
SAE_REPORT = Path("sae_report.html")
RANKED = ["feature", "target_rate", "reference_rate", "difference", "low", "high", "target_activation"]
Existing = click.Path(exists=True, dir_okay=False, path_type=Path)


class Writable(click.Path):
    """A file (or a folder) in a folder that exists. It is checked before any work is done."""

    def __init__(self, folder: bool = False) -> None:
        super().__init__(dir_okay=folder, writable=True, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """The path, if its folder exists."""
        path = Path(str(super().convert(value, param, ctx)))
        if not path.parent.is_dir():
            self.fail(f"there is no folder {path.parent} to write {path.name} into", param, ctx)
        return path


class Command(click.Command):
    """A command that leaves a `config.json` beside its output, from which `run` makes the output again."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command, in the process group that torchrun has started, if it has."""
        with _process_group(str(self.name)):
            found = super().invoke(ctx)
        output = ctx.params.get("out") or ctx.params.get("store")
        if _is_first() and isinstance(output, Path):
            _leave_record(ctx, output)
        return found


class Group(click.Group):
    """Commands whose expected errors are one line without a traceback."""

    command_class = Command

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command. An error that the library raises on purpose ends it with its message."""
        from safetensors import SafetensorError

        try:
            return super().invoke(ctx)
        except (ValueError, NotImplementedError, OSError, SafetensorError, RuntimeError) as error:
            if isinstance(error, click.exceptions.Exit):
                raise
            raise click.ClickException(_one_line(error)) from error


def _one_line(error: Exception) -> str:
    """The message of an error; the system's errors without their number."""
    return error.strerror if isinstance(error, OSError) and error.strerror and not error.filename else str(error)


@click.group(cls=Group)
@click.version_option(version("engram-interp"))
def main() -> None:
    """Find, weigh and edit AI engrams in transformer language models."""
    import logging

    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("engram_interp").setLevel(logging.INFO)


def _with(*options: Callable[[Decorated], Decorated]) -> Callable[[Decorated], Decorated]:
    """A decorator that gives a command these options, in the order in which `--help` lists them."""

    def decorate(command: Decorated) -> Decorated:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


_read_options = _with(
    click.option(
        "--positions", type=click.Choice(POSITIONS), default=PREDICTING, show_default=True,
        help="Which positions of a pair count: those that produce the answer, that hold it, both, or all.",
    ),
    click.option(
        "--eos/--no-eos", default=True, show_default=True,
        help="Whether the end-of-sequence token follows every answer.",
    ),
)  # fmt: skip

_model_option = click.option(
    "--model", "model_name", default=TESTBED, show_default=True,
    help="A name on the hub, a Hugging Face folder, or testbed, testbed:base, testbed:retain.",
)  # fmt: skip
_which_options = _with(
    click.option("--components", help="Components, such as Q,K,gate; all by default."),
    click.option("--layers", help="Layers, such as 0,1,5; all by default."),
)
_run_options = _with(
    click.option("--batch-size", type=click.IntRange(min=1), help="Examples in a batch; 4096 tokens by default."),
    click.option("--progress/--no-progress", default=None, help="Show a bar; in a terminal by default."),
)

_engram_options = _with(
    _model_option,
    click.option("--target", type=Existing, help="Target examples: .txt or .jsonl, of any size."),
    click.option("--reference", type=Existing, help="Reference examples: .txt or .jsonl, of any size."),
    _read_options,
    _which_options,
    click.option("--rtol", type=float, help="The cut: drop directions below this share; d * 2**-23 by default."),
    click.option(
        "--outliers", type=float, default=0.0, show_default=True,
        help="Share of leading directions that do not set the cut; 0.01 sets massive activations aside.",
    ),
    click.option(
        "--ridge", type=float, default=0.0, help="Added to every eigenvalue, in place of the cut (UCE's lambda)."
    ),
    click.option(
        "--filter", default="soft", show_default=True,
        help="How much is taken of a shared direction: soft, power(2), hard(0.2), clip(4), over(0.005).",
    ),
    click.option(
        "--absorb-bias/--no-absorb-bias", default=True, show_default=True,
        help="Whether a bias is one more column of its weight.",
    ),
    click.option("--delta-from", help="Take the engram of the difference from this model, named as --model is."),
    _run_options,
)  # fmt: skip
_statistics_option = click.option(
    "--statistics", type=click.Path(exists=True, path_type=Path),
    help="What collect has left, in place of --target and --reference: a store, or a file of Statistics.save.",
)  # fmt: skip


@main.command()
@click.option("--model", "model_name", default=TESTBED, show_default=True, help="A name, a folder, or testbed.")
@click.option("--target", type=Existing, help="Target examples instead of one of the testbed's authors.")
@click.option("--reference", type=Existing, help="Reference examples; goes with --target.")
@click.option("--author", help="Which of the testbed's authors to look for; the first to forget by default.")
@_read_options
@click.option("--keep", type=float, default=0.98, show_default=True, help="Share of the held-out accuracy to keep.")
@click.option("--out", type=Writable(), default=DEMO_REPORT, show_default=True, help="The report.")
def demo(
    model_name: str,
    target: Path | None,
    reference: Path | None,
    author: str | None,
    positions: str,
    eos: bool,
    keep: float,
    out: Path,
) -> None:
    """Show where a model keeps a memory, and forget that memory alone: one HTML report."""
    targets = () if target is None else (target,)
    authors = () if author is None else (author,)
    (concept,) = _concepts(model_name, targets, reference, authors, {"positions": positions, "eos": eos})
    from engram_interp import testbed
    from engram_interp.report.findings import investigate

    is_forgotten = target is None and concept.name in {one.name for one in testbed.authors().forget10}
    gold = testbed.load("retain") if is_forgotten else None
    _report(investigate(_load(model_name), concept, keep=keep, gold=gold), out)


@main.command("explore")
@click.argument("report", type=Existing, required=False)
@click.option("--model", "model_name", default=TESTBED, show_default=True, help="A name, a folder, or testbed.")
@click.option("--target", type=Existing, multiple=True, help="Target examples; may be given several times.")
@click.option("--reference", type=Existing, help="Reference examples of every target.")
@click.option("--author", multiple=True, help="Authors of the testbed; the first to forget by default.")
@click.option("--groups", help="As of localize, for one target.")
@_read_options
@_which_options
@click.option("--n-matrices", type=click.IntRange(min=0), default=8, show_default=True, help="Matrices to look into.")
@click.option("--keep", type=float, default=0.98, show_default=True, help="Share of the held-out accuracy to keep.")
@_run_options
@click.option("--out", type=Writable(), help="Write .html (a page) or .safetensors (to explore later); serve nothing.")
@click.option("--port", type=click.IntRange(min=0, max=65535), default=0, help="Of the server; any by default.")
@click.option("--browse/--no-browse", default=True, show_default=True, help="Open a browser.")
def explore_command(report: Path | None, out: Path | None, port: int, browse: bool, **options: Any) -> None:
    """Click through a memory in a browser: map, matrices, strengths, other memories.

    REPORT is a file that --out has written; without it, a model is explored. The server listens on 127.0.0.1 only.
    """
    if out is not None and out.suffix not in (".html", ".safetensors"):
        raise click.UsageError(f"--out must be an .html or .safetensors file; got {out}")
    found = _explored(**options) if report is None else _saved_exploration(report, options)
    if out is None:
        found.serve(port, browse=browse)
        return
    (found.to_html if out.suffix == ".html" else found.save)(out)
    click.echo(f"{found!r} is in {out}")


def _saved_exploration(report: Path, options: Mapping[str, Any]) -> Exploration:
    from engram_interp.report.explorer.exploration import Exploration

    if named := [name for name in ("target", "reference", "author", "groups") if options[name]]:
        raise click.UsageError(f"{report} says what is explored: leave out --{named[0]}")
    return Exploration.load(report)


def _explored(
    model_name: str, target: tuple[Path, ...], reference: Path | None, author: tuple[str, ...], n_matrices: int,
    keep: float, components: str | None, layers: str | None, batch_size: int | None, progress: bool | None,
    groups: str | None, **read: Any,
) -> Exploration:  # fmt: skip
    """The exploration that the command line names."""
    from engram_interp.report.explorer.explore import explore

    concepts = _concepts(model_name, target, reference, author, read)
    if groups is not None and len(target) != 1:
        raise click.UsageError(f"--groups {groups} needs one --target, and a --reference")
    labels = None if reference is None else _groups(target[0], reference, groups)
    return explore(
        _load(model_name), concepts, n_matrices=n_matrices, keep=keep, groups=labels,
        components=_names(components), layers=_layers(layers), batch_size=batch_size, progress=progress,
    )  # fmt: skip


def _concepts(
    model_name: str, target: tuple[Path, ...], reference: Path | None, author: tuple[str, ...], read: dict[str, Any]
) -> list[Concept]:
    """The concepts of files, or of the testbed's authors."""
    from engram_interp import testbed

    if bool(target) != (reference is not None):
        raise click.UsageError("--target and --reference go together")
    if target and author:
        raise click.UsageError("--author and --target both name a concept: give one of them")
    if reference is not None:
        return [_concept(one, reference, dict(read)) for one in target]
    if not model_name.startswith(TESTBED):
        raise click.UsageError("the default concept is the testbed's: another --model needs --target and --reference")
    corpus = testbed.authors()
    return [replace(corpus.concept(name), **read) for name in author or (corpus.forget10[0].name,)]


@main.command("plan")
@click.option(
    "--model",
    "model_name",
    default=TESTBED,
    show_default=True,
    help="A model as in other commands, or a folder or file with a configuration alone.",
)
@click.option(
    "--n-tokens",
    default="100000",
    show_default=True,
    help="Positions that count in each group, or by group: target=3000,reference=1000000.",
)
@click.option("--groups", type=click.IntRange(min=1), default=2, show_default=True, help="How many groups there are.")
@click.option("--budget", help="How much memory sums may take in each process, such as 24GB.")
@click.option("--devices", type=click.IntRange(min=1), default=1, show_default=True, help="Devices for the weights.")
@click.option("--ranks", type=click.IntRange(min=1), default=1, show_default=True, help="Processes for the sums.")
@click.option("--flops", type=float, help="Operations a second of each process; measured if there are weights.")
@click.option("--dtype", help="The precision of weights, such as bfloat16; the configuration's by default.")
@_which_options
@click.option("--out", type=Writable(), help="Where to write the table of inputs: .csv or .json.")
def plan_command(
    model_name: str, n_tokens: str, dtype: str | None, out: Path | None, components: str | None, layers: str | None,
    **options: Any,
) -> None:  # fmt: skip
    """What collecting and mapping will take: bytes by stage, passes within a budget, seconds. Nothing is collected."""
    from engram_interp.statistics.planning.plan import plan

    if out is not None and out.suffix not in (".csv", ".json"):
        raise click.UsageError(f"--out must be a .csv or .json file; got {out}")
    which = {"components": _names(components), "layers": _layers(layers)}
    found = plan(_source(model_name), _counts(n_tokens), dtype=_dtype(dtype), **which, **options)
    if out is not None:
        _write_table(found.inputs, lambda: "", out)
    click.echo(repr(found))


@main.command("collect")
@_model_option
@click.option("--target", type=Existing, required=True, help="Target examples: .txt or .jsonl, of any size.")
@click.option("--reference", type=Existing, required=True, help="Reference examples: .txt or .jsonl, of any size.")
@_read_options
@_which_options
@click.option("--store", type=Writable(folder=True), required=True, help="The folder for the moments.")
@click.option("--budget", help="How much memory sums may take in each process, such as 24GB; all by default.")
@click.option("--resume/--no-resume", default=True, show_default=True, help="Go on with a store that is there.")
@click.option("--checkpoint-every", type=float, default=300.0, show_default=True, help="Seconds between checkpoints.")
@click.option("--storage-device", help="Where sums are kept, such as cpu; where inputs are computed by default.")
@click.option("--max-tokens", type=click.IntRange(min=1), help="Positions that are read of each side; all by default.")
@click.option("--until", type=float, help="Stop when the intervals of W-Norms are this narrow, such as 0.01.")
@_run_options
def collect_command(
    model_name: str, target: Path, reference: Path, store: Path, components: str | None, layers: str | None,
    **options: Any,
) -> None:  # fmt: skip
    """Second moments of every input, in a folder. A killed run goes on where its last checkpoint was.

    Under torchrun (`torchrun --nproc-per-node N -m engram_interp collect ...`) processes share the work.
    """
    from engram_interp.statistics.collect import collect

    concept = _concept(target, reference, options)
    which = {"components": _names(components), "layers": _layers(layers)}
    found = collect(_load(model_name), concept, store=store, **which, **options)
    _echo_once(f"{found!r} are in {store}")


@main.command("localize")
@_engram_options
@_statistics_option
@click.option(
    "--null",
    type=click.Choice(NULLS),
    help="What is compared with: other whole memories, random sets of examples, or a formula, which costs nothing. "
    "Default: siblings where there are 19 or more, and else resampled.",
)
@click.option(
    "--groups", "field", help="The field of JSON objects that says which memory an example belongs to, such as author."
)
@click.option("--gradient", is_flag=True, help="Also say how much answers rely on each matrix, by a backward pass.")
@click.option("--by", type=click.Choice(SCALES), help="What to sort by. Default: score, or fisher_excess without one.")
@click.option("--out", type=Writable(), help="Where to write the map: .html (a page), .csv or .json.")
def localize_command(
    model_name: str,
    target: Path | None,
    reference: Path | None,
    statistics: Path | None,
    null: str | None,
    field: str | None,
    gradient: bool,
    by: str | None,
    out: Path | None,
    **options: Any,
) -> None:
    """Where the target's memory sits: score, W-Norm and Fisher share of every matrix, and their excess over a null."""
    from engram_interp.concepts.concept import Concept
    from engram_interp.maps.localization import localize
    from engram_interp.report.findings import sets_for
    from engram_interp.report.pages import map_page
    from engram_interp.report.sentences import map_sentence

    _require_table(out)
    if statistics is not None and (null not in (None, "analytic") or field is not None or gradient):
        raise click.UsageError("--statistics hold no single examples: --null must be analytic, without --groups")
    concept = _data(target, reference, statistics, options)
    chosen = _parsed(options)
    groups = None if target is None or reference is None else _groups(target, reference, field)
    if groups is None and isinstance(concept, Concept):
        null = null or sets_for(concept)
    wmap = localize(_load(model_name), concept, null=null, groups=groups, gradient=gradient, **chosen)
    by = by or wmap.over_null
    if out is not None:
        _write_table(wmap.to_frame(), lambda: map_page(wmap, by, _provenance(wmap.counts)), out)
    _echo_once(_table(wmap, 10, by))
    _echo_once(map_sentence(wmap))


@main.command("diagnose")
@_engram_options
@_statistics_option
@click.option("--by", type=click.Choice(DIAGNOSES), default="stretch", show_default=True, help="What to sort by.")
@click.option("--out", type=Writable(), help="Where to write the diagnosis: .html (figures), .csv or .json.")
def diagnose_command(
    model_name: str, target: Path | None, reference: Path | None, statistics: Path | None, by: str, out: Path | None,
    **options: Any,
) -> None:  # fmt: skip
    """How far the engrams can be trusted: rank, condition and shape of every soft projector, and what it lets pass."""
    from engram_interp.maps.diagnosis import diagnose
    from engram_interp.report.pages import DIAGNOSIS_COLUMNS, diagnosis_page

    _require_table(out)
    concept = _data(target, reference, statistics, options)
    chosen = _parsed(options)
    found = diagnose(_load(model_name), concept, **chosen)
    frame = found.to_frame().sort_values(by, ascending=False)
    if out is not None:
        _write_table(found.to_frame(), lambda: diagnosis_page(found, by, _provenance({})), out)
    shown = list(dict.fromkeys(["key", by, *DIAGNOSIS_COLUMNS]))
    _echo_once(frame[shown].head(10).to_string(index=False, float_format="{:.3g}".format))


@main.command("track")
@click.option(
    "--checkpoints",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A folder that holds a Hugging Face folder, or a .safetensors file of weights, for each step.",
)
@click.option(
    "--checkpoint-values",
    help="In its place: checkpoints of --model that TransformerLens knows, such as 0,1000,143000 of pythia-70m.",
)
@_engram_options
@click.option("--null", type=click.Choice(NULLS), help="What is compared with, as in localize.")
@click.option("--draws", type=int, default=199, show_default=True, help="How many sets are compared with at most.")
@click.option(
    "--reuse-reference",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="For how many checkpoints the reference's statistics serve.",
)
@click.option(
    "--folder", type=Writable(folder=True), help="Where results are kept; an interrupted track goes on there."
)
@click.option("--by", type=click.Choice((*SCALES, *CHANGES)), help="What is drawn; what ranks the map by default.")
@click.option(
    "--out", type=Writable(), required=True, help=".html (a page with an animation), .csv, .json, .safetensors."
)
def track_command(
    checkpoints: Path | None,
    checkpoint_values: str | None,
    model_name: str,
    target: Path | None,
    reference: Path | None,
    by: str | None,
    out: Path,
    **options: Any,
) -> None:  # fmt: skip
    """How the target's memory forms over the checkpoints of a training run: maps, answers, and what moved."""
    from engram_interp.learning.tracking.track import track
    from engram_interp.report.tracks import track_page

    if out.suffix not in (".html", ".csv", ".json", ".safetensors"):
        raise click.UsageError(f"--out must be an .html, .csv, .json or .safetensors file; got {out}")
    if (checkpoints is None) == (checkpoint_values is None):
        raise click.UsageError("give --checkpoints, or --checkpoint-values with --model")
    if target is None or reference is None:
        raise click.UsageError("track needs --target and --reference")
    concept = _concept(target, reference, options)
    chosen = _parsed(options)
    given: Any = checkpoints
    if checkpoints is None:
        given = _by_value(model_name, str(checkpoint_values))
    elif any(checkpoints.glob("*.safetensors")):
        chosen["model"] = _load(model_name)
    found = track(given, concept, load=_load_folder, **chosen)
    if out.suffix == ".safetensors":
        found.save(out)
    else:
        _write_table(found.to_frame(), lambda: track_page(found, by, _provenance(found.map().counts)), out)
    click.echo(found.formation().to_string(index=False, float_format="{:.3g}".format))
    for name, why in found.failed.items():
        click.echo(f"left out: {name}: {why}")
    click.echo(f"{found!r} is in {out}")


@main.command("extract")
@_engram_options
@_statistics_option
@click.option("--out", type=Writable(), required=True, help="Where to write the engram: .safetensors.")
def extract_command(
    model_name: str, target: Path | None, reference: Path | None, statistics: Path | None, out: Path, **options: Any
) -> None:
    """The target's engram, as a file that Engram.load reads."""
    from engram_interp.engrams.extract import extract

    if out.suffix != ".safetensors":
        raise click.UsageError(f"--out must be a .safetensors file; got {out}")
    concept = _data(target, reference, statistics, options)
    chosen = _parsed(options)
    engram = extract(_load(model_name), concept, **chosen)
    if _is_first():
        engram.save(out)
    _echo_once(f"{engram!r} is in {out}")


@main.command("ablate")
@_engram_options
@click.option(
    "--alpha",
    default="auto",
    show_default=True,
    help="A number, w-norm, or auto: the strongest that keeps --keep.",
)
@click.option(
    "--keep", type=float, default=0.98, show_default=True, help="For auto: share of the held-out accuracy to keep."
)
@click.option(
    "--check",
    type=Existing,
    help="For auto: examples to measure that on; by default a part of the reference is held out.",
)
@click.option(
    "--out",
    type=Writable(folder=True),
    required=True,
    help="Where to write the edited model: a new folder for a Hugging Face checkpoint, else a .safetensors file.",
)
def ablate_command(
    model_name: str,
    target: Path | None,
    reference: Path | None,
    alpha: str,
    keep: float,
    check: Path | None,
    out: Path,
    **options: Any,
) -> None:
    """The model without the target's engram: a Hugging Face checkpoint, or a state dict in TransformerLens's names."""
    from engram_interp.answers.scoring import score
    from engram_interp.concepts.files import read_examples
    from engram_interp.effects.strength import choose_alpha
    from engram_interp.engrams.export import export_hf
    from engram_interp.engrams.extract import extract

    _require_place(out, model_name)
    given = None if alpha == "auto" else _alpha(alpha)
    if target is None or reference is None:
        raise click.UsageError("ablate needs --target and --reference")
    concept = _concept(target, reference, options)
    chosen = _parsed(options)
    run = {name: chosen[name] for name in ("batch_size", "progress")}
    model = _load(model_name)
    engram = extract(model, concept, **chosen)
    strength = given
    if strength is None:
        kept = None if check is None else read_examples(check)
        strength = choose_alpha(model, engram, concept, keep, check=kept, **run).alpha
    if strength == 0:
        raise click.ClickException(f"no edit keeps {keep:.1%} of the reference's answers, so nothing is written")
    edited = engram.ablate(model, strength)
    if out.suffix != ".safetensors":
        export_hf(edited, model_name, out)
    else:
        _save_weights(edited, out, {"model": model_name, "concept": str(concept.name), "alpha": str(strength)})
    before, after = (score(one, concept.sides, eos=concept.eos, **run) for one in (model, edited))
    click.echo("answer accuracy, before and after:")
    for side in before:
        click.echo(f"  {side:<10}{before[side].accuracy:>8.1%}{after[side].accuracy:>8.1%}")
    click.echo(f"alpha = {strength}; the edited model is in {out}")


@main.command("sae")
@click.option("--model", "model_name", default=TESTBED, show_default=True, help="A name, a folder, or testbed.")
@click.option(
    "--sae",
    "sae_name",
    default=TESTBED,
    show_default=True,
    help="A folder that sae-lens wrote, release:id of its directory, or testbed.",
)
@click.option("--corpus", type=Existing, help="The text to split by the features; by default all of the testbed's.")
@click.option("--like", type=Existing, help="A few examples: takes the feature that stands for them best.")
@click.option("--author", help="In place of --like: the first three questions about one of the testbed's authors.")
@click.option("--feature", "features", type=int, multiple=True, help="A feature by its index; may be given again.")
@click.option(
    "--per", type=click.Choice(UNITS), default=EXAMPLE, show_default=True, help="What fires, and goes to a side."
)
@click.option(
    "--share",
    type=float,
    default=0.0,
    help="Share of an example's tokens that must fire; any by default.",
)
@click.option("--threshold", type=float, help="The least activation; half of that in --like by default, else above 0.")
@click.option("--quantile", type=float, help="In place of a threshold: a quantile of the activations above 0.")
@click.option(
    "--reference",
    type=click.Choice(REFERENCE_MODES),
    default=REST,
    show_default=True,
    help="The other side.",
)
@_read_options
@click.option("--max-tokens", type=click.IntRange(min=1), help="How many tokens a side keeps, drawn by --seed.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the draw.")
@click.option("--keep", type=float, default=0.98, show_default=True, help="Share of the held-out accuracy to keep.")
@click.option("--out", type=Writable(), default=SAE_REPORT, show_default=True, help="The report.")
def sae_command(
    model_name: str,
    sae_name: str,
    corpus: Path | None,
    like: Path | None,
    author: str | None,
    features: tuple[int, ...],
    threshold: float | None,
    keep: float,
    out: Path,
    **options: Any,
) -> None:
    """From a few examples to the SAE feature that fires for them, and its engram: one HTML report, no labels."""
    if sum((like is not None, author is not None, bool(features))) > 1:
        raise click.UsageError("--like, --author and --feature all say what to look for: give one of them")
    on_testbed = model_name.startswith(TESTBED)
    if not on_testbed and (corpus is None or not (like or features)):
        raise click.UsageError("a --model other than the testbed needs --corpus, and --like or --feature")
    from engram_interp import testbed
    from engram_interp.concepts.files import read_examples
    from engram_interp.report.findings import investigate
    from engram_interp.sae.concepts import concept_from_sae
    from engram_interp.sae.ranking import choose_feature, rank_features

    examples = testbed.authors().examples if corpus is None else read_examples(corpus)
    asked = [] if features else read_examples(like) if like is not None else _questions(author)
    model, sae = _load(model_name), _load_sae(sae_name)
    if not features:
        ranked = rank_features(model, sae, asked, examples)
        click.echo(ranked[RANKED].head(8).to_string(index=False, float_format="{:.3g}".format))
        feature, half = choose_feature(ranked)
        features = (feature,)
        if threshold is None and options["quantile"] is None:
            threshold = half
        click.echo(f"feature {feature}: the largest multiple of its activation elsewhere")
    concept = concept_from_sae(model, sae, features, examples, threshold=threshold or 0.0, **options)
    click.echo(concept.partition.to_frame().to_string(index=False, float_format="{:.3g}".format))
    _report(investigate(model, concept, keep=keep), out)


@main.command("run")
@click.argument("config", type=Existing)
@click.option("--only", help="The name of one output; all of them by default.")
def run_command(config: Path, only: str | None) -> None:
    """Make outputs again from the config.json that an earlier run left beside them."""
    from engram_interp.common.record import read_record

    runs = read_record(config)
    if only is not None and only not in runs:
        raise click.UsageError(f"--only must be one of {', '.join(runs)}; got {only}")
    for arguments in runs.values() if only is None else [runs[only]]:
        main.main(arguments, standalone_mode=False)


def _leave_record(ctx: click.Context, output: Path) -> None:
    """Write beside an output how it was made."""
    from engram_interp.common.record import write_record

    given = [_as_given(one, ctx.params[str(one.name)]) for one in ctx.command.params if isinstance(one, click.Option)]
    write_record(output, str(ctx.command.name), [text for some in given for text in some])


def _as_given(option: click.Option, value: Any) -> list[str]:
    """An option as a shell would give it. Paths are absolute, so that it works from anywhere."""
    if value is None or value == ():
        return []
    if option.is_flag:
        flags = option.opts if value else option.secondary_opts
        return [flags[0]] if flags else []
    values = value if option.multiple else [value]
    name = max(option.opts, key=len)
    return [text for one in values for text in (name, str(one.resolve() if isinstance(one, Path) else _absolute(one)))]


def _absolute(value: Any) -> Any:
    """A folder's whole path, where an option takes a folder or a name."""
    return str(Path(value).resolve()) if isinstance(value, str) and Path(value).is_dir() else value


SHARED = ("collect", "localize", "diagnose", "extract")
"""The commands whose work several processes share."""


def _n_processes() -> int:
    """How many processes torchrun has started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def _is_first() -> bool:
    """Whether this process writes what there is once."""
    return int(os.environ.get("RANK", "0")) == 0


@contextmanager
def _process_group(command: str) -> Iterator[None]:
    """The process group of all that torchrun has started, for the length of a command."""
    if _n_processes() == 1:
        yield
        return
    if command not in SHARED:
        raise click.UsageError(f"{command} runs in one process: start it without torchrun")
    from engram_interp.statistics.sharing.ranks import started_group

    with started_group():
        yield


def _echo_once(text: str) -> None:
    if _is_first():
        click.echo(text)


def _source(name: str) -> Any:
    """What `plan` takes: a model with weights, or where a configuration lies that has none."""
    path = Path(name).expanduser()
    if path.is_file() or (path.is_dir() and not any(path.glob("*.safetensors")) and not any(path.glob("*.bin"))):
        return path
    return _load(name)


def _counts(text: str) -> int | dict[str, int]:
    """A number, or numbers by group."""
    try:
        if "=" not in text:
            return int(text)
        return {name.strip(): int(n) for name, n in (one.split("=") for one in text.split(","))}
    except ValueError:
        raise click.UsageError(
            f"--n-tokens must be a number, or numbers such as target=3000,reference=1000000; got {text!r}"
        ) from None


def _dtype(text: str | None) -> Any:
    import torch

    found = None if text is None else getattr(torch, text, None)
    if text is not None and not isinstance(found, torch.dtype):
        raise click.UsageError(f"--dtype must be float32, bfloat16 or float16; got {text!r}")
    return found


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",")]


def _data(
    target: Path | None, reference: Path | None, statistics: Path | None, options: dict[str, Any]
) -> Concept | Statistics:
    """The examples, or the statistics, that the command line names."""
    from engram_interp.statistics.statistics import Statistics

    if statistics is None:
        if target is None or reference is None:
            raise click.UsageError("give --target and --reference, or --statistics")
        return _concept(target, reference, options)
    if target is not None or reference is not None:
        raise click.UsageError("--statistics stands in the place of --target and --reference: give one or the other")
    for name in ("positions", "eos"):
        options.pop(name)  # statistics are of whatever positions they were collected for
    return Statistics.open(statistics) if statistics.is_dir() else Statistics.load(statistics)


def _load(name: str) -> nn.Module:
    from engram_interp import testbed
    from engram_interp.models.loading import load_model

    if name == TESTBED:
        return testbed.load("full")
    if name.startswith(f"{TESTBED}:"):
        return testbed.load(name.removeprefix(f"{TESTBED}:"))
    return load_model(name, device=_device())


def _load_folder(name: Any) -> nn.Module:
    """The model in a checkpoint's folder."""
    return _load(str(name))


def _by_value(model_name: str, text: str) -> list[tuple[int, Callable[[], nn.Module]]]:
    """TransformerLens's checkpoints of a model, each loaded when it is its turn."""
    from engram_interp.models.loading import load_model

    try:
        values = [int(one) for one in text.split(",")]
    except ValueError:
        raise click.UsageError(f"--checkpoint-values must be numbers such as 0,1000; got {text!r}") from None
    return [(one, partial(load_model, model_name, checkpoint_value=one, device=_device())) for one in values]


def _device() -> str | None:
    """The GPU of this process, if torchrun has started several and there are GPUs."""
    import torch

    return f"cuda:{os.environ['LOCAL_RANK']}" if _n_processes() > 1 and torch.cuda.is_available() else None


def _questions(author: str | None) -> list[Example]:
    """Three questions about an author of the testbed, without the answers."""
    from engram_interp import testbed

    corpus = testbed.authors()
    return [qa.question for qa in corpus.author(author or corpus.forget10[0].name).pairs[:3]]


def _load_sae(name: str) -> Any:
    from engram_interp import testbed
    from engram_interp.sae.loading import sae_lens

    try:
        load = sae_lens().SAE
    except ImportError as error:
        raise click.ClickException(str(error)) from error
    if name == TESTBED:
        return testbed.load_sae()
    if Path(name).is_dir():
        return load.load_from_disk(name)
    release, found, sae_id = name.partition(":")
    if not found:
        raise click.UsageError(f"--sae must be an existing folder, release:id, or testbed; got {name}")
    return load.from_pretrained(release, sae_id)


def _report(findings: Findings, out: Path) -> None:
    from engram_interp.report.pages import write_report

    write_report(findings, _provenance(findings.counts), out)
    click.echo(_table(findings.wmap, 5, findings.wmap.over_null))
    click.echo(findings.scores.map("{:.1%}".format, na_action="ignore").to_string(na_rep="-"))
    click.echo(f"alpha = {findings.choice.alpha:.3g}; the report is {out}")


def _concept(target: Path, reference: Path, options: dict[str, Any]) -> Concept:
    """The concept that the command line names. Its options leave the others."""
    from engram_interp.concepts.concept import Concept

    read = {name: options.pop(name) for name in ("positions", "eos")}
    return Concept(_examples(target), _examples(reference), name=target.stem, **read)


def _examples(path: Path) -> Any:
    """The examples in a file; of a large one, as they are needed."""
    from engram_interp.concepts.files import JSON, ExamplesIn, read_examples

    is_large = path.stat().st_size > LARGE and path.suffix.lower() != JSON
    return ExamplesIn(path) if is_large else read_examples(path)


def _groups(target: Path, reference: Path, field: str | None) -> dict[str, list[str | int | None]] | None:
    """Which memory each example belongs to. A target without the field is one memory."""
    from engram_interp.concepts.files import read_labels

    if field is None:
        return None
    found = {"target": read_labels(target, field), "reference": read_labels(reference, field)}
    if not any(label is not None for label in found["reference"]):
        raise click.UsageError(f"no object in {reference} has the field {field!r} that --groups names")
    if all(label is None for label in found["target"]):
        del found["target"]
    return found


def _parsed(options: dict[str, Any]) -> dict[str, Any]:
    """The options of `extract` from those of the command line."""
    from engram_interp.linalg import filters

    components, delta_from = options["components"], options["delta_from"]
    return {
        **options,
        "components": _names(components),
        "layers": _layers(options["layers"]),
        "filter": filters.named(options["filter"]),
        "delta_from": None if delta_from is None else _load(delta_from),
    }


def _layers(text: str | None) -> list[int] | None:
    try:
        return None if text is None else [int(layer) for layer in text.split(",")]
    except ValueError:
        raise click.UsageError(f"--layers must be numbers such as 0,1,5; got {text!r}") from None


def _require_place(out: Path, model_name: str) -> None:
    """Check, before any work, that the edited model can be written: a file for the testbed, else a new folder."""
    from engram_interp.engrams.export import require_no_model

    if out.suffix == ".safetensors":
        if out.is_dir():
            raise click.UsageError(f"--out must be a .safetensors file; {out} is a folder")
        if Path(model_name).is_dir():
            raise click.UsageError(f"{model_name} is edited into a checkpoint: --out must be a new folder; got {out}")
        return
    if model_name.startswith(TESTBED):
        raise click.UsageError(f"the testbed is no Hugging Face checkpoint: --out must be .safetensors; got {out}")
    require_no_model(out)


def _alpha(text: str) -> Alpha:
    from engram_interp.common.arguments import number

    if text == "w-norm":
        return text
    try:
        value = float(text)
    except ValueError:
        raise click.UsageError(f"--alpha must be a number, w-norm or auto; got {text!r}") from None
    return number(value, "alpha")


def _table(wmap: LocalizationMap, k: int, by: str) -> str:
    """The largest matrices, in the columns that fit a terminal."""
    own = (
        ("score", "score_p_value", "reliance", "reliance_p_value", "gain")
        if wmap.null == "siblings"
        else ("fisher_excess", "fisher_p_value", "p_value")
    )
    shown = [name for name in dict.fromkeys((by, *own, "wnorm", "excess", "fisher")) if name in wmap.quantities]
    return wmap.top(k, by)[["key", *shown]].to_string(index=False, float_format="{:.3g}".format)


def _require_table(out: Path | None) -> None:
    if out is not None and out.suffix not in (".html", ".csv", ".json"):
        raise click.UsageError(f"--out must be an .html, .csv or .json file; got {out}")


def _write_table(frame: pd.DataFrame, page: Callable[[], str], out: Path) -> None:
    """Write the table, or the page about it."""
    if not _is_first():
        return
    from engram_interp.common.writing import replacing

    with replacing(out) as aside:
        if out.suffix == ".csv":
            frame.to_csv(aside, index=False)
        elif out.suffix == ".json":
            frame.to_json(aside, orient="records", indent=2)
        else:
            aside.write_text(page(), encoding="utf-8")


def _save_weights(model: nn.Module, out: Path, made_by: dict[str, str]) -> None:
    """Write a model's state dict as a .safetensors file. Tensors that share memory are written separately."""
    from safetensors.torch import save_file

    from engram_interp.common.writing import replacing

    with replacing(out) as aside:
        save_file({name: tensor.clone().contiguous() for name, tensor in model.state_dict().items()}, aside, made_by)


def _provenance(counts: Mapping[str, int]) -> str:
    from engram_interp.common.record import versions

    made_with = ", ".join(f"{name} {found}" for name, found in versions().items())
    over = " and ".join(f"{count} {side} tokens" for side, count in counts.items())
    return f"{f'Statistics over {over}. ' if over else ''}{made_with}."
