"""Figures 7, 8 and 15: does an attribute's engram work as a slider in a Wasserstein autoencoder, and do they add up?

An attribute's engram is ablated (alpha above 0) or added (below 0), in encoder and decoder. A classifier that was
trained apart, on other pictures, says how much of each attribute the reconstructions show. A face is still itself if,
of all unedited reconstructions, its own is the nearest to the edited one. Faces are drawn, and attributes are
independent, so that what an edit does to the others is its own doing. A second set has each attribute in half of its
faces, where the paper's are rare. `python -m analyses.paper.vision.attributes`.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import engram_interp as ei
from analyses.markdown import table
from analyses.paper.vision import data
from analyses.paper.vision.models import WAE, mmd
from analyses.paper.vision.running import Setting, experiment, over_seeds, seeded
from analyses.paper.vision.training import outputs, shuffled
from analyses.results import Tables

ALPHAS = (-2 / 3, -1 / 3, 0.0, 1 / 3, 2 / 3, 1.0, 4 / 3)
"""The paper's."""
EPOCHS, WEIGHT = 25, 1.0


def fit(model: WAE, x: Tensor, seed: int) -> WAE:
    """Train on the squared error and the MMD of codes."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    device = next(model.parameters()).device
    for _ in range(EPOCHS):
        for some in shuffled(len(x), generator):
            if len(some) < 2:
                continue
            batch = x[some].to(device)
            optimizer.zero_grad()
            z = model.encoder(batch)
            prior = torch.randn(z.shape, generator=generator).to(device)
            lost = (model.decoder(z) - batch).square().flatten(1).sum(1).mean()
            (lost + WEIGHT * mmd(z, prior)).backward()
            optimizer.step()
    return model.eval()


def classifier(x: Tensor, y: Tensor, size: int, seed: int) -> nn.Module:
    """A convolutional network that says which attributes a face has, trained apart from the autoencoder."""
    small = size // 4
    model = seeded(seed, lambda: nn.Sequential(
        nn.Conv2d(x.shape[1], 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(), nn.Flatten(),
        nn.Linear(32 * small * small, 64), nn.ReLU(), nn.Linear(64, y.shape[1]),
    ), "cpu")  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(6):
        for some in shuffled(len(x), generator, 64):
            optimizer.zero_grad()
            # Reconstructions are smooth and have no noise: the classifier sees such pictures too.
            blurred = nn.functional.avg_pool2d(x[some], 3, 1, 1) if int(some[0]) % 2 else x[some]
            nn.functional.binary_cross_entropy_with_logits(model(blurred), y[some].float()).backward()
            optimizer.step()
    return model.eval()


def measure(setting: Setting) -> Tables:
    """The classifier's score of every attribute by strength, how alike reconstructions stay, and sums of engrams."""
    whole = data.load(setting.data, setting.n_train, 1000)
    half = len(whole.x) // 2
    judge = classifier(whole.x[half:], whole.y[half:], whole.shape[1], 0)
    sure = ((outputs(judge, whole.test_x) > 0) == (whole.test_y > 0)).double().mean(0)
    rows, sums, grids = [], [], []
    for seed in range(setting.seeds):
        make = partial(WAE, *whole.shape, **setting.sized)
        model = fit(seeded(seed, make, setting.device), whole.x[:half], seed)  # pyright: ignore[reportArgumentType]
        engrams = _engrams(model, TensorDataset(whole.x[:half], whole.y[:half]), whole.classes)
        rows += _sliders(model, engrams, judge, whole, seed)
        sums += _sums(model, engrams, judge, whole, seed)
        if not seed:
            grids = _pictures(model, engrams, whole)
    runs, arithmetic = pd.DataFrame(rows), pd.DataFrame(sums)
    return {
        "common": _common(setting),
        "runs": runs,
        "summary": over_seeds(runs, ["ablated", "attribute", "alpha"], "score"),
        "identity": over_seeds(runs[runs["ablated"] == runs["attribute"]], ["ablated", "alpha"], "identity"),
        "sums": over_seeds(arithmetic, ["ablated", "attribute"], "change"),
        "judge": pd.DataFrame({"attribute": list(whole.classes), "accuracy": sure.tolist()}),
        "pictures": pd.DataFrame(grids),
    }


COMMON = 0.5


def _common(setting: Setting) -> pd.DataFrame:
    """The sliders of one model where half of the faces have each attribute; nothing for faces that are not drawn."""
    if setting.data != "faces":
        return pd.DataFrame()
    pictures = data.faces(COMMON)
    half = len(pictures.x) // 2
    judge = classifier(pictures.x[half:], pictures.y[half:], pictures.shape[1], 0)
    model = fit(WAE(*pictures.shape, **setting.sized).to(setting.device), pictures.x[:half], 0)
    engrams = _engrams(model, TensorDataset(pictures.x[:half], pictures.y[:half]), pictures.classes)
    rows = pd.DataFrame(_sliders(model, engrams, judge, pictures, 0))
    return rows[rows["ablated"] == rows["attribute"]].drop(columns="seed")


def _engrams(model: nn.Module, train: TensorDataset, names: tuple[str, ...]) -> dict[str, ei.Engram]:
    """The engram of every attribute: faces with it against faces without it."""
    x, y = train.tensors
    return {
        name: ei.extract(
            model,
            ei.Concept.from_batches(x[y[:, i] == 1].split(128), x[y[:, i] == 0].split(128), name=name),
            progress=False,
        )
        for i, name in enumerate(names)
    }


def _shown(model: nn.Module, judge: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Reconstructions, and the classifier's probability of every attribute in them."""
    made = outputs(model, x, next(model.parameters()).device)
    return made, outputs(judge, made).sigmoid().double()


def _sliders(
    model: nn.Module, engrams: dict[str, ei.Engram], judge: nn.Module, pictures: data.Pictures, seed: int
) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    names = list(engrams)
    for i, name in enumerate(names):
        x = pictures.test_x[pictures.test_y[:, i] == 1]
        plain, _ = _shown(model, judge, x)
        with engrams[name].editing(model) as ablate:
            for alpha in ALPHAS:
                ablate(alpha)
                made, shown = _shown(model, judge, x)
                nearest = torch.cdist(made.flatten(1), plain.flatten(1)).argmin(1)
                itself = float((nearest == torch.arange(len(nearest))).double().mean())
                rows += [
                    {"ablated": name, "attribute": other, "alpha": alpha, "score": float(shown[:, j].mean()),
                     "identity": itself, "seed": seed}
                    for j, other in enumerate(names)
                ]  # fmt: skip
    return rows


def _sums(
    model: nn.Module, engrams: dict[str, ei.Engram], judge: nn.Module, pictures: data.Pictures, seed: int
) -> list[dict[str, object]]:
    """What a sum and a difference of two engrams change, on faces that have both attributes."""
    rows: list[dict[str, object]] = []
    names = list(engrams)
    for i, first in enumerate(names):
        for j, second in enumerate(names[i + 1 :], i + 1):
            both = (pictures.test_y[:, i] == 1) & (pictures.test_y[:, j] == 1)
            _, before = _shown(model, judge, pictures.test_x[both])
            edits = {
                f"{first} + {second}": engrams[first] + engrams[second],
                f"{first} - {second}": engrams[first] - engrams[second],
            }
            for title, engram in edits.items():
                with engram.ablated(model):
                    _, after = _shown(model, judge, pictures.test_x[both])
                change = (after - before).mean(0)
                rows += [
                    {"ablated": title, "attribute": name, "change": float(change[k]), "seed": seed}
                    for k, name in enumerate(names)
                ]
    return rows


def _pictures(model: nn.Module, engrams: dict[str, ei.Engram], pictures: data.Pictures) -> list[dict[str, object]]:
    """The reconstruction of one face for every attribute and strength, as rows of pixels."""
    rows: list[dict[str, object]] = []
    for i, name in enumerate(engrams):
        face = pictures.test_x[pictures.test_y[:, i] == 1][:1]
        with engrams[name].editing(model) as ablate:
            for alpha in ALPHAS:
                ablate(alpha)
                made = outputs(model, face, next(model.parameters()).device)[0, 0]
                rows.append({"ablated": name, "alpha": alpha, "pixels": (255 * made).round().int().tolist()})
    return rows


def text(tables: Tables) -> str:
    """The slider of every attribute, in Markdown: its score by strength, and the share of faces still themselves."""
    summary, identity = tables["summary"], tables["identity"]
    own = summary[summary["ablated"] == summary["attribute"]].pivot(index="ablated", columns="alpha", values="value")
    alike = identity.pivot(index="ablated", columns="alpha", values="value")
    rows = [
        [str(name), *(f"{own.loc[name, alpha]:.2f} ({alike.loc[name, alpha]:.2f})" for alpha in own.columns)]
        for name in own.index
    ]
    return table(["attribute", *(f"alpha = {alpha:.2f}" for alpha in own.columns)], rows)


def figures(tables: Tables) -> list[go.Figure]:
    """The sliders, one face under each of them, and sums of engrams."""
    summary = tables["summary"]
    names = list(summary["ablated"].unique())
    lines = make_subplots(rows=1, cols=len(names), subplot_titles=names, shared_yaxes=True)
    colours = ("#4477aa", "#ee6677", "#228833", "#ccbb44")
    for place, name in enumerate(names, 1):
        for colour, other in zip(colours, names, strict=False):
            some = summary[(summary["ablated"] == name) & (summary["attribute"] == other)]
            lines.add_scatter(
                x=some["alpha"], y=some["value"], name=other, legendgroup=other, showlegend=place == 1,
                line={"color": colour, "width": 4 if other == name else 1.5}, row=1, col=place,
            )  # fmt: skip
    lines.update_xaxes(title_text="alpha")
    lines.update_yaxes(title_text="classifier's probability", range=[0, 1.02], col=1)
    lines.update_layout(title="An attribute's engram, ablated (right) or added (left): what a classifier still sees")
    return [lines, _faces(tables["pictures"], names), _arithmetic(tables["sums"])]


def _faces(pictures: pd.DataFrame, names: list[str]) -> go.Figure:
    rows = []
    for name in names:
        some = pictures[pictures["ablated"] == name].sort_values("alpha")
        rows.append(np.concatenate([np.array(one) for one in some["pixels"]], axis=1))
    whole = np.concatenate(rows)
    size = len(whole) // len(names)
    figure = go.Figure(go.Heatmap(z=whole, colorscale="gray", showscale=False))
    figure.update_yaxes(autorange="reversed", tickvals=[size * (i + 0.5) for i in range(len(names))], ticktext=names)
    alphas = sorted(pictures["alpha"].unique())
    width = whole.shape[1] // len(alphas)
    figure.update_xaxes(
        tickvals=[width * (i + 0.5) for i in range(len(alphas))],
        ticktext=[f"{a:.2f}" for a in alphas],
        title_text="alpha",
    )
    return figure.update_layout(
        title="One face by strength (seed 0)", height=150 + 130 * len(names), width=160 + 130 * len(alphas)
    )


def _arithmetic(sums: pd.DataFrame) -> go.Figure:
    square = sums.pivot(index="ablated", columns="attribute", values="value")
    square = square.loc[sums["ablated"].unique(), sums["attribute"].unique()]
    heat = go.Heatmap(
        z=square.to_numpy(), x=list(square.columns), y=list(square.index), zmid=0, colorscale="RdBu_r",
        text=[[f"{value:+.2f}" for value in row] for row in square.to_numpy()], texttemplate="%{text}",
        colorbar={"title": {"text": "change"}},
    )  # fmt: skip
    figure = go.Figure(heat)
    figure.update_yaxes(autorange="reversed", title_text="engrams ablated")
    figure.update_xaxes(title_text="attribute that a classifier sees")
    return figure.update_layout(title="Sums and differences of engrams, alpha = 1: change of probabilities", height=520)


main = experiment(__file__, measure, text, figures, data="faces", n_train=None, seeds=3)

if __name__ == "__main__":
    main()
