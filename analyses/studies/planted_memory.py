"""Does a map find a memory whose place is known?

New facts (holdout authors) are trained into the testbed's `full` model. Only one layer's MLP or one layer's attention
is trained, everything else is frozen, and old facts are rehearsed beside the new ones. Every map then ranks all
matrices. It is scored by the AUROC of the trained module's matrices, and by whether the first matrix is one of them.
Two more rankings stand beside the maps: causal ablation, one matrix's engram at a time, and the plain norm of the
weight change, which is zero where nothing was trained. `python -m analyses.studies.planted_memory`.
"""

import random
from pathlib import Path

import click
import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots
from torch import nn
from tqdm.auto import tqdm

import engram_interp as ei
from analyses import results
from analyses.training.fit import answer_loss, shuffled_batches
from engram_interp.benchmarks.ranking import auroc
from engram_interp.concepts.batches import encode_concept
from engram_interp.models import adapt
from engram_interp.models.components import MLP
from engram_interp.models.sites import component_of, layer_of

MODULES = {"MLP": MLP, "attention": ("W_Q", "W_K", "W_V", "W_O")}
OUTPUTS = ("W_out", "W_O")
LAYERS, SEEDS = range(4), range(3)
N_AUTHORS = 6
LEARNING_RATE = 2e-3
MAX_EPOCHS = 60
LEARNT = 0.97
BATCH_SIZE = 64
ALPHA = 8.0
DRAWS = 99
P_VALUES = ["p-value", "Fisher p-value"]
RESULTS = Path(__file__).with_suffix(".json")


def concept_of(seed: int) -> ei.Concept:
    """The new facts of one seed, with everything that `full` knows as the reference."""
    corpus = ei.testbed.authors()
    people = corpus.holdout[seed * N_AUTHORS : (seed + 1) * N_AUTHORS]
    new = [example for author in people for example in author.examples]
    return ei.Concept(new, corpus.examples, name=f"{N_AUTHORS} new authors, seed {seed}", positions="answer")


def plant(concept: ei.Concept, module: str, layer: int, seed: int) -> nn.Module:
    """`full` after it has learnt the target in one module."""
    torch.manual_seed(seed)
    rng = random.Random(seed)
    model = ei.testbed.load("full").requires_grad_(False)
    adapter = adapt(model)
    keys = [site.key for site in adapter.sites(MODULES[module], layer)]
    trained = [adapter.parameter(key).requires_grad_(True) for key in keys]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.0)
    encoded = encode_concept(concept, adapter.encoder)
    new, old = encoded["target"], encoded["reference"]
    for _ in range(MAX_EPOCHS):
        for batch in shuffled_batches(new + rng.sample(old, len(new)), BATCH_SIZE, rng):
            optimizer.zero_grad()
            answer_loss(model, batch).backward()
            optimizer.step()
        if ei.score(model, {"target": concept.target})["target"].accuracy >= LEARNT:
            break
    return model.requires_grad_(False)


def maps_of(model: nn.Module, base: nn.Module, concept: ei.Concept) -> pd.DataFrame:
    """What every map says of every matrix: one row for each key."""
    statistics = ei.collect(model, concept, progress=False)
    tabula_rasa = ei.localize(model, statistics).to_frame().set_index("key")
    resampled = ei.localize(model, concept, null="resampled", draws=DRAWS, progress=False).to_frame().set_index("key")
    delta = ei.localize(model, statistics, delta_from=base).to_frame().set_index("key")
    change = {key: _change(adapt(model).parameter(key), adapt(base).parameter(key)) for key in tabula_rasa.index}
    return pd.DataFrame(
        {
            "W-Norm": tabula_rasa["wnorm"],
            "W-Norm excess, analytic": tabula_rasa["excess"],
            "W-Norm excess, resampled": resampled["excess"],
            "Fisher": tabula_rasa["fisher"],
            "Fisher excess, analytic": tabula_rasa["fisher_excess"],
            "Fisher excess, resampled": resampled["fisher_excess"],
            "causal ablation": pd.Series(ablations(model, concept, statistics)),
            "W-Norm, delta": delta["wnorm"],
            "W-Norm excess, delta": delta["excess"],
            "Fisher, delta": delta["fisher"],
            "Fisher excess, delta": delta["fisher_excess"],
            "weight change": pd.Series(change),
            "p-value": resampled["p_value"],
            "Fisher p-value": resampled["fisher_p_value"],
        }
    )


def _change(weight: torch.Tensor, before: torch.Tensor) -> float:
    return float((weight - before).norm() / before.norm())


def ablations(model: nn.Module, concept: ei.Concept, statistics: ei.Statistics) -> dict[str, float]:
    """The target's loss after one matrix's engram is ablated, by key."""
    engram = ei.extract(model, statistics)
    losses = {}
    for key in engram.weight_norms:
        with engram.select(keys=key).ablated(model, ALPHA):
            losses[key] = ei.score(model, {"target": concept.target}, progress=False)["target"].loss
    return losses


def in_module(maps: pd.DataFrame, module: str, layer: int) -> list[bool]:
    """Whether each matrix is one of the trained ones."""
    return [layer_of(key) == layer and component_of(key) in MODULES[module] for key in maps.index.astype(str)]


def scores_of(maps: pd.DataFrame, module: str, layer: int) -> list[dict[str, object]]:
    """How well every map ranks the trained module's matrices before all others."""
    true = in_module(maps, module, layer)
    rows: list[dict[str, object]] = []
    for name in maps.columns.drop(P_VALUES):
        values, first = maps[name], str(maps[name].idxmax())
        rows.append(
            {
                "map": name,
                "auroc": auroc(values.to_numpy(), np.array(true)),
                "first": first,
                "top_1": bool(true[list(maps.index).index(first)]),
                "top_1_layer": layer_of(first) == layer,
                "top_1_is_output": bool(true[list(maps.index).index(first)]) and component_of(first) in OUTPUTS,
            }
        )
    return rows


def run(module: str, layer: int, seed: int, base: nn.Module) -> list[dict[str, object]]:
    concept = concept_of(seed)
    model = plant(concept, module, layer, seed)
    learnt = ei.score(model, concept.sides, progress=False)
    maps = maps_of(model, base, concept)
    true = in_module(maps, module, layer)
    of_run = {
        "module": module,
        "layer": layer,
        "seed": seed,
        "target_accuracy": learnt["target"].accuracy,
        "reference_accuracy": learnt["reference"].accuracy,
        **{
            f"significant_{where}_{name}": float((maps.loc[chosen, name] <= 0.05).mean())
            for name in P_VALUES
            for where, chosen in (("in", true), ("outside", [not one for one in true]))
        },
    }
    return [{**of_run, **row} for row in scores_of(maps, module, layer)]


def measure() -> results.Tables:
    """All memories, and their summary."""
    base = ei.testbed.load("full")
    places = [(module, layer, seed) for module in MODULES for layer in LAYERS for seed in SEEDS]
    rows = pd.DataFrame([row for place in tqdm(places) for row in run(*place, base)])
    return {"summary": summary(rows).reset_index(), "memories": rows}


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Means over layers and seeds: one row for each map."""
    measures = ["auroc", "top_1", "top_1_layer", "top_1_is_output"]
    both = rows.groupby("map", sort=False)[measures].mean()
    by_module = rows.pivot_table(index="map", columns="module", values=["auroc", "top_1"], sort=False)
    by_module.columns = [f"{measure}_{module}" for measure, module in by_module.columns]
    return both.join(by_module).round(3)


def figure(rows: pd.DataFrame) -> go.Figure:
    """How often every map's first matrix is in the module, and its AUROC with one point for each planted memory."""
    names = list(rows["map"].unique())
    titles = ["first matrix in the module", *(f"all matrices, memories in {module}" for module in MODULES)]
    plot = make_subplots(rows=1, cols=3, subplot_titles=titles, shared_yaxes=True, horizontal_spacing=0.03)
    first = rows.groupby("map")["top_1"].mean()[names]
    bar = {"marker": {"color": "#d1495b"}, "texttemplate": "%{x:.0%}", "showlegend": False}
    plot.add_trace(go.Bar(x=first, y=names, orientation="h", **bar), 1, 1)
    plot.update_xaxes(title_text="share of 24 memories", range=[0, 1.03], row=1, col=1)
    plot.update_yaxes(autorange="reversed", row=1, col=1)
    for column, module in enumerate(MODULES, start=2):
        mine = rows[rows["module"] == module]
        means = mine.groupby("map")["auroc"].mean()
        plot.add_trace(
            go.Scatter(
                x=mine["auroc"], y=mine["map"], mode="markers", name="one memory", showlegend=column == 2,
                text=[f"layer {layer}, seed {seed}" for layer, seed in zip(mine["layer"], mine["seed"], strict=True)],
                marker={"color": "#6b7a8f", "size": 6, "opacity": 0.5},
            ), 1, column,
        )  # fmt: skip
        plot.add_trace(
            go.Scatter(
                x=means[names], y=names, mode="markers", name="mean", showlegend=column == 2,
                marker={"color": "#d1495b", "size": 12, "symbol": "line-ns-open", "line": {"width": 3}},
            ), 1, column,
        )  # fmt: skip
        chance = {"x": [0.5, 0.5], "y": [names[0], names[-1]], "mode": "lines", "name": "by chance"}
        line = {"dash": "dot", "color": "#444444"}
        plot.add_trace(go.Scatter(**chance, line=line, showlegend=column == 2), 1, column)
        plot.update_xaxes(title_text="AUROC", range=[0, 1.03], row=1, col=column)
        plot.update_yaxes(autorange="reversed", row=1, col=column)
    return plot.update_layout(
        title="How well each map ranks the module that a memory was trained into", template="plotly_white", height=520
    )


@click.command()
@click.option("--plot", type=click.Path(path_type=Path), help="Where to draw the results, as .html.")
@click.option("--only-plot", is_flag=True, help="Do not measure; draw the results that exist.")
def main(plot: Path | None, only_plot: bool) -> None:
    """Plant 24 memories, and map each."""
    if not only_plot:
        results.record(RESULTS, measure)
    found = results.read(RESULTS)
    click.echo(found["summary"].to_string(index=False))
    if plot is not None:
        figure(found["memories"]).write_html(plot)


if __name__ == "__main__":
    main()
