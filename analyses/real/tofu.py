"""Does the paper's order of methods hold at 135M parameters? Tables 3, 4, 8 and 9 on SmolLM2 and TOFU's text.

The model was fine-tuned on forty authors, and should forget four (`tofu_models.py`, `authors.py`). Each method's
setting is the one with the highest Overall on a fourth of the questions; the tables report the others. `python -m
analyses.real.tofu --data folder`; with `--model` and `--adapters`, another model that `tofu_models.py` fine-tuned.
"""

from functools import partial
from pathlib import Path
from typing import Any

import click
import plotly.graph_objects as go
import torch
from scipy.stats import kendalltau

import engram_interp as ei
from analyses.paper import methods, published
from analyses.paper.methods import Candidate, Edited, ablating, naive_delta, searched, without_task_vector
from analyses.paper.table_8_layer_types import candidates as layer_types
from analyses.paper.tables import compared
from analyses.real.authors import some_authors
from analyses.real.tofu_models import ADAPTERS, SMOLLM, finetuned
from analyses.results import Tables
from analyses.setting import Setting, Source, command
from engram_interp.engrams.strengths import Alpha
from engram_interp.models import adapt

STRENGTHS = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0)
DELTA_STRENGTHS = (1.0, 2.0, 4.0, 8.0, 16.0)
"""The engram of what fine-tuning changed is small: it needs more."""
TASK_ALPHAS = (0.5, 1.0, 2.0)
LAMBDAS = (0.0, 1.0, 1e2, 1e4)
"""The ends of the paper's sweep, and larger: what a lambda does depends on the moments, which are sums over tokens."""
SCALES = (3.0, 8.0)
RATES = (1e-4, 3e-4)
TRAINED: dict[str, dict[str, float]] = {
    "NPO": {"beta": 0.1},
    "GradDiff": {},
    "RMU": {"coefficient": 20.0, "depth": 0.5},
}
"""The gradient methods, and what is not searched of them."""
EPOCHS, BATCH_SIZE = 3, 16
PAPER = {**published.TABLE_3, **published.TABLE_8, **published.TABLE_9}
PRODUCING = "Engram, producing positions, late layers"


def producing(setting: Setting, alpha: Alpha) -> Edited:
    """Ablates the engram of the second half of the layers, at the positions that produce the answers."""

    def make() -> ei.Engram:
        n_layers = adapt(setting.model).n_layers
        late = range(n_layers // 2, n_layers)
        return ei.extract(setting.model, setting.benchmark.concept, layers=late, progress=False)

    return setting.made(PRODUCING, make).ablated(setting.model, alpha)


def trained(setting: Setting, name: str, learning_rate: float, **options: Any) -> Edited:
    """The model after a gradient method, whose matrix products are bfloat16."""
    device = next(setting.model.parameters()).device
    with torch.autocast(device.type, torch.bfloat16):
        return methods.trained(setting, name, learning_rate, **options)


def closed_form() -> list[Candidate]:
    """Tables 3 and 4, and the engram as this package makes it by default, in the second half of the layers."""
    return [
        *searched("Task Arithmetic", without_task_vector, alpha=TASK_ALPHAS),
        *searched("UCE", partial(ablating, alpha=1.0), ridge=LAMBDAS),
        Candidate("Engram, alpha by W-Norm", {"alpha": "w-norm"}, partial(ablating, alpha="w-norm")),
        *searched("Engram, alpha by W-Norm, scaled", partial(ablating, alpha="w-norm"), scale=SCALES),
        *searched("Engram, uniform alpha", ablating, alpha=STRENGTHS),
        *searched(PRODUCING, producing, alpha=STRENGTHS),
    ]


def parts() -> list[Candidate]:
    """Table 8: parts of the target's engram. All of its matrices are the engrams of Table 4."""
    _, *subsets = ei.PAPER
    return layer_types({name: ei.PAPER[name] for name in subsets}, STRENGTHS)


def instantiations() -> list[Candidate]:
    """Table 9: the engram of what fine-tuning changed. That of the weights is in Table 4."""
    return [
        *searched("naive delta, alpha by W-Norm", naive_delta, alpha=("w-norm",)),
        *searched("naive delta, alpha searched", naive_delta, alpha=DELTA_STRENGTHS),
    ]


def gradient() -> list[Candidate]:
    """Three of the gradient methods of Table 3."""
    return [
        Candidate(name, {"learning_rate": rate, **options}, partial(trained, name=name, learning_rate=rate, **options))
        for name, options in TRAINED.items()
        for rate in RATES
    ]


def measure(setting: Setting) -> Tables:
    """Scores of all candidates, and of each method's best."""
    return methods.compare(setting, [*closed_form(), *parts(), *instantiations(), *gradient()])


def order(tables: Tables) -> tuple[float, float, int]:
    """Kendall's tau of the paper's Overall and ours, its p, and of how many methods."""
    scores = tables["scores"]
    ours = scores[scores["score"] == "overall"].drop_duplicates("method").set_index("method")["value"]
    shared = [name for name in ours.index if name in PAPER and name not in ("full", "retain")]
    found: Any = kendalltau([PAPER[name][0] for name in shared], ours[shared])
    return float(found.statistic), float(found.pvalue), len(shared)


def of_methods(tables: Tables) -> str:
    """Our scores beside the paper's, and how alike the two orders are."""
    tau, p, n = order(tables)
    said = f"Order by Overall, the paper's against ours, {n} methods: Kendall's tau {tau:.2f} (p = {p:.2f})."
    return f"{compared(tables, PAPER)}\n\n{said}"


def figure(tables: Tables) -> go.Figure:
    return methods.compared(tables, "Forgetting four of forty authors in SmolLM2: every method at its best")


def load(
    model: str, data: str | None, adapters: str | None, device: str | None, seed: int, only: tuple[str, ...]
) -> Setting:
    """The models that `tofu_models.py` trained, and the authors that they learned.

    Raises:
        UsageError: if `--data` is missing.
    """
    options = dict(locals())
    if data is None:
        raise click.UsageError("--data is needed to measure: TOFU's folder")
    torch.manual_seed(seed)
    folder = ADAPTERS if adapters is None else Path(adapters)
    full, retain, base, target = (finetuned(one, model, folder, device) for one in ("full", "retain", "base", "target"))
    refusals = tuple((Path(data) / "idontknow.jsonl").read_text().splitlines())
    benchmark = some_authors(Path(data))
    return Setting(options, full, benchmark, retain, base, target, refusals, EPOCHS, BATCH_SIZE, seed, only)


SOURCE = Source(
    load,
    (
        click.option("--model", default=SMOLLM, show_default=True, help="The model before fine-tuning."),
        click.option("--data", type=click.Path(exists=True, file_okay=False), help="TOFU's folder."),
        click.option("--adapters", type=click.Path(exists=True, file_okay=False), help="Default: beside the script."),
    ),
    SMOLLM,
)
main = command(__file__, measure, of_methods, figure, SOURCE)

if __name__ == "__main__":
    main()
