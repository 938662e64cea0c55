"""What do concepts share? Heat maps of concepts by concepts, and what ablating one costs another."""

from __future__ import annotations

from textwrap import wrap
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots

from engram_interp.figures.scale import RATIO_SCALE, Scale
from engram_interp.figures.style import MATRIX_COLOUR, styled

NAMED = 30
"""With so many concepts every column is named; there is no room for more names."""


def overlap_map(shared: pd.DataFrame, scale: Scale, title: str) -> go.Figure:
    """What every two concepts share.

    Args:
        shared: `[concept concept]`, symmetric.
        scale: what the values are.
        title: what is plotted.
    """
    figure = go.Figure(_square(shared, scale, "coloraxis", "%{y} and %{x}: "))
    return styled(figure, title, 300 + 18 * len(shared)).update_layout(
        coloraxis=scale.axis(_off_diagonal(shared)), yaxis={"autorange": "reversed"}
    )


def overlap_and_cost(shared: pd.DataFrame, cost: pd.DataFrame, scale: Scale, title: str) -> go.Figure:
    """What every two concepts share, next to what ablating one costs the other, and one plotted against the other.

    Args:
        shared: `[concept concept]`, symmetric.
        cost: the share of answer tokens lost, with a row for each ablated concept and a column for each scored one.
        scale: what is shared.
        title: what is plotted.
    """
    pairs = pd.DataFrame({"shared": _off_diagonal(shared), "cost": _off_diagonal(cost)})
    rank_correlation = pairs.corr(method="spearman").loc["shared", "cost"]
    figure = make_subplots(
        rows=2, cols=2, horizontal_spacing=0.14, vertical_spacing=0.26, row_heights=[0.68, 0.32],
        specs=[[{}, {}], [{"colspan": 2}, None]],
        subplot_titles=[
            "<br>".join(wrap(scale.title[0].upper() + scale.title[1:], 34)),
            "What ablating the row<br>costs the column",
            f"One against the other: rank correlation {rank_correlation:.2f}",
        ],
    )  # fmt: skip
    figure.add_trace(_square(shared, scale, "coloraxis", "%{y} and %{x}: "), 1, 1)
    figure.add_trace(_square(cost, Scale("share lost"), "coloraxis2", "ablating %{y} costs %{x} "), 1, 2)
    figure.add_trace(
        go.Scatter(
            x=pairs["shared"], y=pairs["cost"], mode="markers", showlegend=False,
            text=[f"ablating {a} costs {b}" for a, b in _pairs(shared)], marker={"color": MATRIX_COLOUR, "size": 5},
        ), 2, 1,
    )  # fmt: skip
    figure.update_yaxes(autorange="reversed", row=1, col=1)
    figure.update_yaxes(autorange="reversed", showticklabels=False, row=1, col=2)
    if len(shared) <= NAMED:
        figure.update_xaxes(dtick=1, tickangle=60, tickfont_size=10, row=1)
    figure.update_xaxes(title_text=scale.title, row=2, col=1)
    figure.update_yaxes(title_text="answer tokens<br>lost (share)", tickformat=".0%", row=2, col=1)
    figure.update_annotations(font_size=13)
    _colour(figure, pairs, scale)
    return styled(figure, title, 560 + 18 * len(shared)).update_layout(margin={"t": 120})


def _colour(figure: go.Figure, pairs: pd.DataFrame, scale: Scale) -> None:
    """Gives both maps their colours, each with a bar on its right."""
    reach = float(pairs["cost"].abs().max()) or 1.0
    bars: list[dict[str, Any]] = [
        {"thickness": 10, "len": 0.5, "y": 0.75, "title": None, "x": right} for right in (0.44, 1.01)
    ]
    costs = {"colorscale": RATIO_SCALE, "cmin": -reach, "cmax": reach, "colorbar": {**bars[1], "tickformat": ".0%"}}
    figure.update_layout(coloraxis=scale.axis(pairs["shared"]), coloraxis2=costs)
    figure.update_layout(coloraxis_colorbar=bars[0])


def _pairs(square: pd.DataFrame) -> list[tuple[str, str]]:
    """Every two different concepts, in both orders."""
    return [(a, b) for a in square.index for b in square.columns if a != b]


def _off_diagonal(square: pd.DataFrame) -> list[float]:
    values = square.to_numpy(dtype=float)
    return values[~torch.eye(len(values), dtype=torch.bool).numpy()].tolist()


def _square(values: pd.DataFrame, scale: Scale, axis: str, where: str) -> go.Heatmap:
    """A heat map of concepts by concepts with a blank diagonal."""
    grid = torch.tensor(values.to_numpy(dtype=float)).fill_diagonal_(torch.nan)
    return go.Heatmap(
        z=scale.colours(grid).tolist(), x=list(values.columns), y=list(values.index), hovertext=grid.tolist(),
        coloraxis=axis, xgap=1, ygap=1, hoverongaps=False,
        hovertemplate=where + "%{hovertext:.3~g}<extra></extra>",
    )  # fmt: skip
