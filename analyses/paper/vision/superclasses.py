"""Figure 14: does what is like a forgotten class suffer more than what is not? Graceful degradation.

A class's engram is ablated at growing strengths. The accuracies of its own superclass and of all others are compared
on test data. The set is of 20 drawn objects in five families, or CIFAR-100 with its own superclasses.
`python -m analyses.paper.vision.superclasses`.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from torch import nn

import engram_interp as ei
from analyses.markdown import table
from analyses.paper.vision import data
from analyses.paper.vision.models import ResNet18
from analyses.paper.vision.running import Setting, experiment, over_seeds, seeded
from analyses.paper.vision.training import by_class, fit
from analyses.results import Tables
from engram_interp.concepts.datasets import by_class as concepts_of
from engram_interp.testbed.pictures import INSIDES

ALPHAS = (0.0, 0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0)
CIFAR100 = (
    4, 1, 14, 8, 0, 6, 7, 7, 18, 3, 3, 14, 9, 18, 7, 11, 3, 9, 7, 11, 6, 11, 5, 10, 7, 6, 13, 15, 3, 15, 0, 11, 1, 10,
    12, 14, 16, 9, 11, 5, 5, 19, 8, 8, 15, 13, 14, 17, 18, 10, 16, 4, 17, 4, 2, 0, 17, 4, 18, 17, 10, 3, 2, 12, 12, 16,
    12, 1, 9, 19, 2, 10, 0, 1, 16, 12, 9, 13, 15, 13, 16, 19, 2, 4, 6, 19, 5, 5, 8, 19, 18, 1, 2, 15, 6, 0, 17, 8, 14,
    13,
)  # fmt: skip
"""The superclass of each of CIFAR-100's labels (Krizhevsky 2009)."""
OWN, SAME, OTHERS = "the class", "its superclass", "all others"


def superclasses(pictures: data.Pictures) -> np.ndarray:
    """The superclass of every label."""
    if pictures.name == "CIFAR100":
        return np.array(CIFAR100)
    return np.arange(len(pictures.classes)) // len(INSIDES)


def measure(setting: Setting) -> Tables:
    """Accuracies by strength, of the class, of its superclass and of the others: means over forgotten classes."""
    whole, rows = data.load(setting.data, setting.n_train, 2000), []
    for seed in range(setting.seeds):
        make = partial(ResNet18, whole.shape[0], len(whole.classes), **setting.sized)
        model = fit(seeded(seed, make, setting.device), whole.train, 12, 0.1, seed)
        rows += _of_model(model, whole, seed)
    runs = pd.DataFrame(rows)
    return {"runs": runs, "summary": over_seeds(runs, ["alpha", "classes"], "accuracy")}


def _of_model(model: nn.Module, pictures: data.Pictures, seed: int) -> list[dict[str, object]]:
    n, family = len(pictures.classes), superclasses(pictures)
    concepts = concepts_of(pictures.train, 128)
    parts = ei.decompose(model, concepts, progress=False)
    found: dict[tuple[float, str], list[float]] = {}
    for label, name in enumerate(concepts):
        with parts.engram(name).editing(model) as ablate:
            for alpha in ALPHAS:
                ablate(alpha)
                after = by_class(model, pictures.test, n)
                like = (family == family[label]) & (np.arange(n) != label)
                for classes, mine in ((OWN, np.arange(n) == label), (SAME, like), (OTHERS, family != family[label])):
                    found.setdefault((alpha, classes), []).append(float(np.nanmean(after[mine])))
    return [
        {"alpha": alpha, "classes": classes, "seed": seed, "accuracy": float(np.mean(values))}
        for (alpha, classes), values in found.items()
    ]


def text(tables: Tables) -> str:
    """Accuracies by strength, in Markdown."""
    wide = tables["summary"].pivot(index="alpha", columns="classes", values="value")[[OWN, SAME, OTHERS]]
    rows = [
        [f"{alpha:g}", *(f"{100 * value:.0f} %" for value in row)]
        for alpha, row in zip(wide.index, wide.to_numpy(), strict=True)
    ]
    return table(["alpha", *wide.columns], rows)


def figures(tables: Tables) -> list[go.Figure]:
    """A line for each group of classes, with its interval over seeds."""
    figure = go.Figure()
    for name, some in tables["summary"].groupby("classes", sort=False):
        errors = {"array": some["high"] - some["value"], "arrayminus": some["value"] - some["low"]}
        figure.add_scatter(x=some["alpha"], y=some["value"], name=str(name), error_y={"type": "data", **errors})
    figure.update_xaxes(title_text="strength alpha")
    figure.update_yaxes(title_text="test accuracy", range=[0, 1.02])
    return [figure.update_layout(title="Ablating one class: the class, those like it, and all others")]


main = experiment(__file__, measure, text, figures, data="objects", n_train=4000, seeds=3)

if __name__ == "__main__":
    main()
