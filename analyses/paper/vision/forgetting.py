"""What does ablating each class, or group of classes, do to every class? The class-wise matrix, from one pass.

The strength is chosen for each class on held-out training examples: the one that loses most of the class and least of
the others, `(1 - a_c / a_c0) a_r / a_r0`. Accuracies are then on test data.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from torch import nn
from torch.utils.data import TensorDataset

import engram_interp as ei
from analyses.markdown import table
from analyses.paper.vision import data
from analyses.paper.vision.running import Setting, over_seeds
from analyses.paper.vision.training import by_class
from analyses.results import Tables
from engram_interp.concepts.datasets import by_class as concepts_of

ALPHAS = (0.25, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0, 5.6, 8.0, 11.0, 16.0)
Groups = dict[str, list[int]]
"""What is forgotten together: labels by name."""


def classwise(
    setting: Setting,
    train: Callable[[data.Pictures, int], nn.Module],
    groups: Callable[[data.Pictures], Groups],
) -> Tables:
    """The class-wise matrix of models of several seeds.

    Args:
        setting: what it is run on.
        train: makes a trained model from pictures and a seed.
        groups: what is forgotten together.
    """
    whole = data.load(setting.data, setting.n_train, 2000)
    rows = []
    for seed in range(setting.seeds):
        pictures, held = whole.split(0.2, seed)
        model = train(pictures, seed)
        rows += of_model(model, pictures, held, groups(pictures), seed)
        print(pd.DataFrame(rows).query("seed == @seed").round(2).to_string(), flush=True)
    runs = pd.DataFrame(rows)
    return {"runs": runs, "summary": over_seeds(runs, ["forgotten", "class"], "accuracy"), "classes": _classes(runs)}


def of_model(
    model: nn.Module, pictures: data.Pictures, held: TensorDataset, groups: Groups, seed: int
) -> list[dict[str, object]]:
    """Accuracies of every class on test data, of the model and without each group."""
    n = len(pictures.classes)
    concepts = concepts_of(pictures.train, 128)
    parts = ei.decompose(model, concepts, progress=False)
    names = list(concepts)
    before, before_test = by_class(model, held, n), by_class(model, pictures.test, n)
    rows = [_row("nothing", name, before_test[i], 0.0, seed) for i, name in enumerate(pictures.classes)]
    for group, labels in groups.items():
        engram = parts.engram([names[label] for label in labels])
        with engram.editing(model) as ablate:
            found = {}
            for alpha in ALPHAS:
                ablate(alpha)
                found[alpha] = forgets(by_class(model, held, n), before, labels)
            best = max(found, key=lambda alpha: found[alpha])
            ablate(best)
            after = by_class(model, pictures.test, n)
        rows += [_row(group, name, after[i], best, seed) for i, name in enumerate(pictures.classes)]
    return rows


def forgets(after: np.ndarray, before: np.ndarray, labels: Sequence[int]) -> float:
    """`(1 - a_c / a_c0) a_r / a_r0`, of accuracies by class."""
    mine = np.zeros(len(before), dtype=bool)
    mine[list(labels)] = True
    return float(
        (1 - np.nanmean(after[mine]) / np.nanmean(before[mine])) * np.nanmean(after[~mine]) / np.nanmean(before[~mine])
    )


def _row(forgotten: str, name: str, accuracy: float, alpha: float, seed: int) -> dict[str, object]:
    return {"forgotten": forgotten, "class": name, "accuracy": float(accuracy), "alpha": alpha, "seed": seed}


def _classes(runs: pd.DataFrame) -> pd.DataFrame:
    """For what is forgotten: the accuracy of its classes before and after, and the others'."""
    rows = []
    for (forgotten, seed), some in runs[runs["forgotten"] != "nothing"].groupby(["forgotten", "seed"], sort=False):
        before = runs[(runs["forgotten"] == "nothing") & (runs["seed"] == seed)].set_index("class")["accuracy"]
        after = some.set_index("class")["accuracy"]
        mine = after.index.isin(str(forgotten).split(" + "))
        rows.append(
            {
                "forgotten": forgotten,
                "seed": seed,
                "before": before[mine].mean(),
                "after": after[mine].mean(),
                "others_before": before[~mine].mean(),
                "others_after": after[~mine].mean(),
                "alpha": some["alpha"].iloc[0],
            }
        )
    return pd.DataFrame(rows)


def one_by_one(pictures: data.Pictures) -> Groups:
    """Every class by itself."""
    return {name: [label] for label, name in enumerate(pictures.classes)}


def text(tables: Tables) -> str:
    """What is forgotten and what stays, in Markdown: means over seeds."""
    found = tables["classes"].groupby("forgotten", sort=False).mean(numeric_only=True)
    names = ("before", "after", "others_before", "others_after")
    rows = [[str(name), *(f"{100 * row[column]:.0f} %" for column in names), f"{row['alpha']:.1f}"]
            for name, row in found.iterrows()]  # fmt: skip
    head = ["forgotten", "its accuracy", "without its engram", "the others'", "without it", "alpha"]
    return table(head, rows)


def figures(tables: Tables, title: str) -> list[go.Figure]:
    """The matrix of accuracies: a row for what is forgotten, a column for each class."""
    summary = tables["summary"]
    square = summary.pivot(index="forgotten", columns="class", values="value")
    order, columns = summary["forgotten"].unique(), summary["class"].unique()
    square = square.loc[order, columns]
    heat = go.Heatmap(
        z=square.to_numpy(), x=list(columns), y=list(order), zmin=0, zmax=1, colorscale="Viridis",
        text=[[f"{100 * value:.0f}" for value in row] for row in square.to_numpy()], texttemplate="%{text}",
        colorbar={"title": {"text": "test accuracy"}},
    )  # fmt: skip
    figure = go.Figure(heat)
    figure.update_yaxes(autorange="reversed", title_text="engram ablated")
    figure.update_xaxes(title_text="class")
    return [figure.update_layout(title=title, height=160 + 36 * len(order))]
