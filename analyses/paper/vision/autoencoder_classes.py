"""Figure 5: does a convolutional autoencoder without a class's engram fail at pictures of this class alone?

No label is used in training. The strength is chosen on held-out examples: the strongest at which the error of the other
classes rises by a tenth at most. Errors are the mean squared difference of pixels, on test data.
`python -m analyses.paper.vision.autoencoder_classes`.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import engram_interp as ei
from analyses.markdown import table
from analyses.paper.vision import data
from analyses.paper.vision.models import ConvAE
from analyses.paper.vision.running import Setting, experiment, over_seeds, seeded
from analyses.paper.vision.training import outputs, shuffled
from analyses.results import Tables
from engram_interp.concepts.datasets import by_class as concepts_of

ALPHAS = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0)
EPOCHS = 20
MOST = 1.1
"""So many times its error, the others' may have on held-out examples."""


def fit(model: nn.Module, x: Tensor, seed: int) -> nn.Module:
    """Train on the squared error, with Adam (App. B.2)."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    device = next(model.parameters()).device
    for _ in range(EPOCHS):
        for some in shuffled(len(x), generator):
            optimizer.zero_grad()
            batch = x[some].to(device)
            nn.functional.mse_loss(model(batch), batch).backward()
            optimizer.step()
    return model.eval()


def errors(model: nn.Module, some: TensorDataset, n_classes: int) -> np.ndarray:
    """The mean squared error by class."""
    x, y = some.tensors
    lost = (outputs(model, x, next(model.parameters()).device) - x).square().flatten(1).mean(1)
    return np.array([float(lost[y == label].mean()) for label in range(n_classes)])


def measure(setting: Setting) -> Tables:
    """How many times its error every class has without each class's engram."""
    whole, rows = data.load(setting.data, setting.n_train, 2000), []
    for seed in range(setting.seeds):
        pictures, held = whole.split(0.2, seed)
        make = partial(ConvAE, *pictures.shape, **setting.sized)
        model = fit(seeded(seed, make, setting.device), pictures.x, seed)
        rows += _of_model(model, pictures, held, seed)
    runs = pd.DataFrame(rows)
    return {"runs": runs, "summary": over_seeds(runs, ["forgotten", "class"], "ratio")}


def _of_model(model: nn.Module, pictures: data.Pictures, held: TensorDataset, seed: int) -> list[dict[str, object]]:
    n, rows = len(pictures.classes), []
    parts = ei.decompose(model, concepts_of(pictures.train, 128), progress=False)
    before, before_test = errors(model, held, n), errors(model, pictures.test, n)
    for label, name in enumerate(parts):
        others = np.arange(n) != label
        with parts.engram(name).editing(model) as ablate:
            best = 0.0
            for alpha in ALPHAS:
                ablate(alpha)
                if float(np.mean(errors(model, held, n)[others] / before[others])) <= MOST:
                    best = alpha
            ablate(best)
            after = errors(model, pictures.test, n)
        rows += [
            {"forgotten": pictures.classes[label], "class": pictures.classes[other], "alpha": best, "seed": seed,
             "ratio": float(after[other] / before_test[other])}
            for other in range(n)
        ]  # fmt: skip
    return rows


def text(tables: Tables) -> str:
    """How many times its error the forgotten class has, and the others, in Markdown."""
    rows = []
    for name, some in tables["summary"].groupby("forgotten", sort=False):
        mine, others = some[some["class"] == name]["value"], some[some["class"] != name]["value"]
        rows.append([str(name), f"{mine.mean():.2f}", f"{others.mean():.2f}", f"{others.max():.2f}"])
    return table(["forgotten", "times its error", "the others', mean", "the others', largest"], rows)


def figures(tables: Tables) -> list[go.Figure]:
    """The matrix of errors."""
    summary = tables["summary"]
    names = list(summary["forgotten"].unique())
    square = summary.pivot(index="forgotten", columns="class", values="value").loc[names, names]
    heat = go.Heatmap(
        z=np.log2(square.to_numpy()), x=names, y=names, zmid=0, colorscale="RdBu_r",
        text=[[f"{value:.2f}" for value in row] for row in square.to_numpy()], texttemplate="%{text}",
        colorbar={"title": {"text": "log2 of the ratio"}},
    )  # fmt: skip
    figure = go.Figure(heat)
    figure.update_yaxes(autorange="reversed", title_text="engram ablated")
    figure.update_xaxes(title_text="class")
    title = "Reconstruction error on test pictures, over the unedited autoencoder's"
    return [figure.update_layout(title=title, height=160 + 36 * len(names))]


main = experiment(__file__, measure, text, figures, n_train=6000, seeds=3)

if __name__ == "__main__":
    main()
