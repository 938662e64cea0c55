"""`engram-interp demo | localize | diagnose | extract | ablate | sae`: the pipeline from a terminal."""

from __future__ import annotations

import html
import logging
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import click
import pandas as pd
import plotly.graph_objects as go
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from engram_interp import filters, plots, testbed
from engram_interp.concept import BATCH_SIZE, Concept, Example
from engram_interp.diagnosis import QUANTITIES, diagnose
from engram_interp.engram import Alpha
from engram_interp.examples import read_examples
from engram_interp.export import export_hf, require_no_model
from engram_interp.extraction import extract
from engram_interp.features import sae_lens
from engram_interp.localization import NULLS, SCALES, LocalizationMap, localize
from engram_interp.models.loading import load_model
from engram_interp.partition import EXAMPLE, REFERENCES, REST, UNITS
from engram_interp.report import Findings, investigate, write_report
from engram_interp.sae import choose_feature, concept_from_sae, rank_features
from engram_interp.scoring import score
from engram_interp.sites import ATTENTION, expert_of
from engram_interp.strength import choose_alpha

Command = TypeVar("Command", bound=Callable[..., Any])

TESTBED = "testbed"
DEMO_REPORT = Path("engram_report.html")
SAE_REPORT = Path("sae_report.html")
RANKED = ["feature", "target_rate", "reference_rate", "difference", "low", "high", "target_activation"]
DIAGNOSED = ["rank", "condition", "effective_rank", "obliqueness", "target_passes", "reference_passes", "wnorm"]
Existing = click.Path(exists=True, dir_okay=False, path_type=Path)


class Writable(click.Path):
    """A file (or a folder) in a folder that exists, checked before any work is done."""

    def __init__(self, folder: bool = False) -> None:
        super().__init__(dir_okay=folder, writable=True, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """The path, if its folder is there."""
        path = Path(str(super().convert(value, param, ctx)))
        if not path.parent.is_dir():
            self.fail(f"there is no folder {path.parent} to write {path.name} into", param, ctx)
        return path


class Group(click.Group):
    """Commands whose expected errors are one line, not a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; an error that the library raises on purpose ends it with its message."""
        try:
            return super().invoke(ctx)
        except (ValueError, NotImplementedError, OSError, SafetensorError) as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=Group)
@click.version_option(version("engram-interp"))
def main() -> None:
    """Find, weigh and edit AI engrams in transformer language models."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("engram_interp").setLevel(logging.INFO)


def _model_options(command: Command) -> Command:
    for option in (
        click.option("--layers", help="Layers, as 0,1,5 (all by default)."),
        click.option("--components", help="Components, as Q,K,gate (all by default)."),
        click.option("--batch-size", type=click.IntRange(min=1), default=BATCH_SIZE, help="Examples in a batch."),
        click.option("--rtol", type=float, help="Spectral cut; d * 2**-23 by default."),
        click.option("--reference", type=Existing, required=True, help="Reference examples: .txt or .jsonl."),
        click.option("--target", type=Existing, required=True, help="Target examples: .txt or .jsonl."),
        click.option(
            "--model", "model_name", default=TESTBED, show_default=True,
            help="A name on the hub, a Hugging Face folder, or testbed, testbed:base, testbed:retain.",
        ),
    ):  # fmt: skip
        command = option(command)
    return command


def _edit_options(command: Command) -> Command:
    for option in (
        click.option(
            "--ridge", type=float, default=0.0, help="Added to every eigenvalue, in place of the cut (UCE's lambda)."
        ),
        click.option(
            "--filter", default="soft", show_default=True,
            help="How much is taken of a shared direction: soft, power(2), hard(0.2), clip(4), over(0.005).",
        ),
    ):  # fmt: skip
        command = option(command)
    return command


@main.command()
@click.option("--model", "model_name", default=TESTBED, show_default=True, help="A name, a folder, or testbed.")
@click.option("--target", type=Existing, help="Target examples instead of one of the testbed's authors.")
@click.option("--reference", type=Existing, help="Reference examples; goes with --target.")
@click.option("--author", help="Which of the testbed's authors to look for; the first to forget by default.")
@click.option("--keep", type=float, default=0.98, show_default=True, help="Share of the reference accuracy to keep.")
@click.option("--out", type=Writable(), default=DEMO_REPORT, show_default=True, help="The report.")
def demo(
    model_name: str, target: Path | None, reference: Path | None, author: str | None, keep: float, out: Path
) -> None:
    """See where a model keeps a memory, and that memory alone forgotten: one HTML report."""
    if (target is None) != (reference is None):
        raise click.UsageError("--target and --reference go together")
    if target is not None and author is not None:
        raise click.UsageError("--author is one of the testbed's, and --target names another concept")
    if target is None and not model_name.startswith(TESTBED):
        raise click.UsageError(
            "the default concept is the testbed's: give --target and --reference with another --model"
        )
    model, gold = _load(model_name), None
    if target is not None and reference is not None:
        concept = _concept(target, reference)
    else:
        corpus = testbed.authors()
        concept = corpus.concept(author or corpus.forget10[0].name)
        if concept.name in {one.name for one in corpus.forget10}:
            gold = testbed.load("retain")
    _report(investigate(model, concept, keep=keep, gold=gold), out)


@main.command("localize")
@_model_options
@click.option(
    "--null",
    type=click.Choice(list(NULLS)),
    default="analytic",
    show_default=True,
    help="What sizes are compared with; resampled gives p-values and intervals.",
)
@click.option("--by", type=click.Choice(list(SCALES)), default="wnorm", show_default=True, help="What to sort by.")
@click.option("--out", type=Writable(), help="Where to write the map: .html (figures), .csv or .json.")
def localize_command(
    model_name: str, target: Path, reference: Path, null: str, by: str, out: Path | None, **options: Any
) -> None:
    """Where the target's memory sits: W-Norm and Fisher share of every matrix, and their excess over a null."""
    _require_table(out)
    wmap = localize(_load(model_name), _concept(target, reference), null=null, **_parsed(options))
    if out is not None:
        _write_table(wmap.to_frame(), _figures_of(wmap), out)
    click.echo(_table(wmap, 10, by))


@main.command("diagnose")
@_model_options
@click.option(
    "--by", type=click.Choice(list(QUANTITIES)), default="stretch", show_default=True, help="What to sort by."
)
@click.option("--out", type=Writable(), help="Where to write the diagnosis: .html (figures), .csv or .json.")
def diagnose_command(model_name: str, target: Path, reference: Path, by: str, out: Path | None, **options: Any) -> None:
    """How far the engrams can be trusted: rank, condition and shape of every soft projector, and what passes it."""
    _require_table(out)
    found = diagnose(_load(model_name), _concept(target, reference), **_parsed(options))
    frame = found.to_frame().sort_values(by, ascending=False)
    if out is not None:
        figures = [found.plot(by), *map(found.plot_matrix, frame["key"].head(4))]
        _write_table(found.to_frame(), figures, out)
    shown = list(dict.fromkeys(["key", by, *DIAGNOSED]))
    click.echo(frame[shown].head(10).to_string(index=False, float_format="{:.3g}".format))


@main.command("extract")
@_model_options
@_edit_options
@click.option("--out", type=Writable(), required=True, help="Where to write the engram: .safetensors.")
def extract_command(model_name: str, target: Path, reference: Path, out: Path, **options: Any) -> None:
    """The target's engram, as a file that Engram.load reads."""
    if out.suffix != ".safetensors":
        raise click.UsageError(f"--out is a .safetensors file, got {out}")
    engram = extract(_load(model_name), _concept(target, reference), **_parsed(options))
    engram.save(out)
    click.echo(f"{engram!r} is in {out}")


@main.command("ablate")
@_model_options
@_edit_options
@click.option(
    "--alpha", default="auto", show_default=True, help="A number, w-norm, or auto: the strongest that keeps --keep."
)
@click.option(
    "--keep", type=float, default=0.98, show_default=True, help="For auto: share of the reference accuracy to keep."
)
@click.option(
    "--out",
    type=Writable(folder=True),
    required=True,
    help="Where to write the edited model: a new folder for a Hugging Face checkpoint, else a .safetensors file.",
)
def ablate_command(
    model_name: str, target: Path, reference: Path, alpha: str, keep: float, out: Path, **options: Any
) -> None:
    """The model without the target's engram: a Hugging Face checkpoint, or a state dict in TransformerLens's names."""
    as_checkpoint = out.suffix != ".safetensors"
    if as_checkpoint and model_name.startswith(TESTBED):
        raise click.UsageError(f"the testbed is no Hugging Face checkpoint: --out is a .safetensors file, got {out}")
    if as_checkpoint:
        require_no_model(out)
    elif Path(model_name).is_dir():
        raise click.UsageError(f"{model_name} is edited into a checkpoint: --out is a new folder, got {out}")
    model, concept = _load(model_name), _concept(target, reference)
    engram = extract(model, concept, **_parsed(options))
    strength: Alpha = choose_alpha(model, engram, concept, keep).alpha if alpha == "auto" else _alpha(alpha)
    if strength == 0:
        raise click.ClickException(f"no edit keeps {keep:.1%} of the reference's answers, so there is none to write")
    edited = engram.ablate(model, strength)
    if as_checkpoint:
        export_hf(edited, model_name, out)
    else:
        made_by = {"model": model_name, "concept": str(concept.name), "alpha": str(strength)}
        save_file({name: tensor.contiguous() for name, tensor in edited.state_dict().items()}, out, made_by)
    before, after = (score(one, concept.sides) for one in (model, edited))
    frame = pd.DataFrame({"before": before, "after": after}).map(lambda result: f"{result.accuracy:.1%}")
    click.echo(frame.rename_axis("answer accuracy").to_string())
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
@click.option("--corpus", type=Existing, help="What to split by the features; all of the testbed's text by default.")
@click.option("--like", type=Existing, help="A few examples: the feature that stands for them most of all is taken.")
@click.option(
    "--author", help="In place of --like, of the testbed: the first three questions about one of its authors."
)
@click.option("--feature", "features", type=int, multiple=True, help="A feature by its index; may be given again.")
@click.option(
    "--per", type=click.Choice(UNITS), default=EXAMPLE, show_default=True, help="What fires, and goes to a side."
)
@click.option("--share", type=float, default=0.0, help="Of an example's tokens that must fire; any by default.")
@click.option("--threshold", type=float, help="The least activation; half of that in --like by default, else above 0.")
@click.option("--quantile", type=float, help="In place of a threshold: a quantile of the activations above 0.")
@click.option(
    "--reference", type=click.Choice(REFERENCES), default=REST, show_default=True, help="What is the reference."
)
@click.option("--max-tokens", type=click.IntRange(min=1), help="How many tokens a side keeps, drawn by --seed.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the draw.")
@click.option("--keep", type=float, default=0.98, show_default=True, help="Share of the reference accuracy to keep.")
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
    """From a few examples to the SAE feature that fires for them, and to its engram: one HTML report, no labels."""
    if sum((like is not None, author is not None, bool(features))) > 1:
        raise click.UsageError("what is sought comes from one of --like, --author and --feature")
    on_testbed = model_name.startswith(TESTBED)
    if not on_testbed and (corpus is None or not (like or features)):
        raise click.UsageError("give --corpus, and --like or --feature, with another --model than the testbed")
    model, sae = _load(model_name), _load_sae(sae_name)
    examples = testbed.authors().examples if corpus is None else read_examples(corpus)
    if not features:
        asked = read_examples(like) if like is not None else _questions(author)
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


def _load(name: str) -> nn.Module:
    if name == TESTBED:
        return testbed.load("full")
    if name.startswith(f"{TESTBED}:"):
        return testbed.load(name.removeprefix(f"{TESTBED}:"))
    return load_model(name)


def _questions(author: str | None) -> list[Example]:
    """What asks for a testbed author: three of the questions about them, without the answers."""
    corpus = testbed.authors()
    return [qa.question for qa in corpus.author(author or corpus.forget10[0].name).pairs[:3]]


def _load_sae(name: str) -> Any:
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
        raise click.UsageError(f"--sae is a folder that is there, release:id, or testbed; got {name}")
    return load.from_pretrained(release, sae_id)


def _report(findings: Findings, out: Path) -> None:
    write_report(findings, _provenance(findings.counts), out)
    click.echo(_table(findings.wmap, 5, "fisher_excess"))
    click.echo(findings.scores.map("{:.1%}".format, na_action="ignore").to_string(na_rep="-"))
    click.echo(f"alpha = {findings.choice.alpha:.3g}; the report is {out}")


def _concept(target: Path, reference: Path) -> Concept:
    return Concept(read_examples(target), read_examples(reference), name=target.stem)


def _parsed(options: dict[str, Any]) -> dict[str, Any]:
    """Options of `extract` from the command line's, comma lists split."""
    components, layers = options.pop("components"), options.pop("layers")
    try:
        numbers = None if layers is None else [int(layer) for layer in layers.split(",")]
    except ValueError:
        raise click.UsageError(f"--layers is a list of numbers, as 0,1,5; got {layers!r}") from None
    names = None if components is None else [name.strip() for name in components.split(",")]
    if "filter" in options:
        options["filter"] = filters.named(options["filter"])
    return {**options, "components": names, "layers": numbers}


def _alpha(text: str) -> Alpha:
    try:
        return text if text == "w-norm" else float(text)
    except ValueError:
        raise click.UsageError(f"--alpha is a number, w-norm or auto; got {text!r}") from None


def _table(wmap: LocalizationMap, k: int, by: str) -> str:
    """The largest matrices, in the columns that fit a terminal."""
    shown = [name for name in (*SCALES, "p_value", "fisher_p_value") if name in wmap.quantities]
    return wmap.top(k, by)[["key", *shown]].to_string(index=False, float_format="{:.3g}".format)


def _figures_of(wmap: LocalizationMap) -> list[go.Figure]:
    figures = [wmap.plot(quantity) for quantity in SCALES]
    if any(name in wmap.components for name in ATTENTION):
        figures += [wmap.plot_heads(quantity) for quantity in SCALES]
    if any(expert_of(key) is not None for key in wmap):
        figures += [wmap.plot_experts(quantity) for quantity in SCALES]
    return figures


def _require_table(out: Path | None) -> None:
    if out is not None and out.suffix not in (".html", ".csv", ".json"):
        raise click.UsageError(f"--out is an .html, .csv or .json file, got {out}")


def _write_table(frame: pd.DataFrame, figures: list[go.Figure], out: Path) -> None:
    """The table, or as a page the figures."""
    if out.suffix == ".csv":
        frame.to_csv(out, index=False)
    elif out.suffix == ".json":
        frame.to_json(out, orient="records", indent=2)
    else:
        parts = [plots.to_html(figure, index) for index, figure in enumerate(figures)]
        title = html.escape(out.stem)
        out.write_text(f"<!doctype html><meta charset='utf-8'><title>{title}</title>{''.join(parts)}", encoding="utf-8")


def _provenance(counts: dict[str, int]) -> str:
    versions = ", ".join(f"{name} {version(name)}" for name in ("engram-interp", "torch", "transformer-lens"))
    return f"Statistics over {' and '.join(f'{count} {side} tokens' for side, count in counts.items())}. {versions}."
