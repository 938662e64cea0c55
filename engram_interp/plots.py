"""Every figure, from plain numbers: nothing here knows a model, and nothing here shows a figure.

A share (W-Norm) is drawn on one sequential scale that begins at 0. Target and reference keep their colours everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float
from plotly.subplots import make_subplots
from torch import Tensor

SHARE_SCALE = "Viridis"
TARGET_COLOUR = "#d1495b"
REFERENCE_COLOUR = "#2e6f95"
CHOSEN_COLOUR = "#444444"
TEMPLATE = "plotly_white"
MAX_LABELLED_COLUMNS = 16
"""Cells are labelled with their value while they are wide enough to hold it."""


def wnorm_map(
    grid: Float[Tensor, "layer component"], components: Sequence[str], unembed: float | None, title: str
) -> go.Figure:
    """Heat map of W-Norms, a row a component and a column a layer, the unembedding in a row of its own below.

    Args:
        grid: `[layer component]`, NaN where there is no matrix.
        components: the columns of `grid`; none when only the unembedding is shown.
        unembed: the unembedding's W-Norm, or None where it is not in the map.
        title: what is plotted.
    """
    n_layers = grid.shape[0]
    blocks = {name: grid[:, i].tolist() for i, name in enumerate(components)}
    rows = [blocks] if blocks else []
    if unembed is not None:
        rows.append({"W_U": [unembed]})
    figure = make_subplots(
        rows=len(rows), cols=1, row_heights=[len(row) for row in rows], vertical_spacing=0.16 if len(rows) > 1 else 0
    )
    for index, row in enumerate(rows, start=1):
        in_blocks = "W_U" not in row
        columns = [str(layer) for layer in range(n_layers)] if in_blocks else ["after the last layer"]
        figure.add_trace(
            _heatmap(list(row.values()), columns, list(row), "layer %{x}" if in_blocks else "%{x}"), index, 1
        )
        figure.update_xaxes(title_text="layer" if in_blocks else None, type="category", row=index, col=1)
        figure.update_yaxes(autorange="reversed", title_text="component" if in_blocks else None, row=index, col=1)
    height = 190 + 38 * sum(len(row) for row in rows)
    values = [*grid.flatten().tolist(), *([] if unembed is None else [unembed])]
    return _styled(figure, title, height).update_layout(coloraxis=_share_axis("W-Norm", values))


def layer_maps(grids: Mapping[str, Float[Tensor, "layer unit"]], unit: str, title: str) -> go.Figure:
    """A heat map for every component, a row a layer and a column a head or an expert.

    Args:
        grids: `[layer unit]` by component, NaN where a layer is left out.
        unit: what the columns are.
        title: what is plotted.
    """
    names = list(grids)
    figure = make_subplots(
        rows=1,
        cols=len(names),
        subplot_titles=names,
        column_widths=[max(grids[name].shape[1], 3) for name in names],
        horizontal_spacing=0.06,
    )
    for column, name in enumerate(names, start=1):
        grid = grids[name]
        units, layers = [str(i) for i in range(grid.shape[1])], [str(i) for i in range(grid.shape[0])]
        figure.add_trace(_heatmap(grid.tolist(), units, layers, f"{name}, layer %{{y}}, {unit} %{{x}}"), 1, column)
        kind = "key/value head" if name in ("W_K", "W_V") else unit
        figure.update_xaxes(title_text=kind, type="category", row=1, col=column)
        figure.update_yaxes(
            title_text="layer" if column == 1 else None, type="category", autorange="reversed", row=1, col=column
        )
    height = 200 + 34 * max(grid.shape[0] for grid in grids.values())
    values = [value for grid in grids.values() for value in grid.flatten().tolist()]
    return _styled(figure, title, height).update_layout(coloraxis=_share_axis("W-Norm", values))


def alpha_curve(points: pd.DataFrame, alpha: float, floor: float, title: str) -> go.Figure:
    """Answer accuracy and loss of target and reference against the strength of the edit, and the strength chosen.

    Args:
        points: a row a strength: `alpha`, and `accuracy` and `loss` after `target_` and `reference_`.
        alpha: the strength chosen.
        floor: the least reference accuracy allowed.
        title: what is plotted.
    """
    figure = make_subplots(rows=1, cols=2, horizontal_spacing=0.1)
    for side, colour in (("target", TARGET_COLOUR), ("reference", REFERENCE_COLOUR)):
        for column, measure in enumerate(("accuracy", "loss"), start=1):
            figure.add_trace(
                go.Scatter(
                    x=points["alpha"],
                    y=points[f"{side}_{measure}"],
                    name=side,
                    legendgroup=side,
                    showlegend=column == 1,
                    mode="lines+markers",
                    line={"color": colour},
                ),
                1,
                column,
            )
    ends = [0, max(points["alpha"].tolist())]
    figure.add_trace(
        go.Scatter(
            x=ends, y=[floor, floor], name="least reference allowed", mode="lines",
            line={"color": REFERENCE_COLOUR, "dash": "dot"},
        ), 1, 1,
    )  # fmt: skip
    for column, top in ((1, 1.0), (2, float(points[["target_loss", "reference_loss"]].to_numpy().max()))):
        figure.add_trace(
            go.Scatter(
                x=[alpha, alpha], y=[0, top], name=f"chosen: alpha = {alpha:.3g}", legendgroup="chosen", mode="lines",
                showlegend=column == 1, line={"color": CHOSEN_COLOUR, "dash": "dash"},
            ), 1, column,
        )  # fmt: skip
    figure.update_xaxes(title_text="edit strength alpha", rangemode="tozero")
    figure.update_yaxes(title_text="answer accuracy (share of tokens)", range=[0, 1.03], row=1, col=1)
    figure.update_yaxes(title_text="answer loss (nats a token)", rangemode="tozero", row=1, col=2)
    return _styled(figure, title, 400)


def to_html(figure: go.Figure, index: int) -> str:
    """A figure as part of a page that needs nothing else: the first one brings plotly's script."""
    options = {"displaylogo": False}
    return figure.to_html(full_html=False, include_plotlyjs=index == 0, div_id=f"figure-{index}", config=options)


def _heatmap(z: list[list[float]], x: list[str], y: list[str], where: str) -> go.Heatmap:
    return go.Heatmap(
        z=z,
        x=x,
        y=y,
        coloraxis="coloraxis",
        xgap=1,
        ygap=1,
        hoverongaps=False,
        texttemplate="%{z:.3f}" if len(x) <= MAX_LABELLED_COLUMNS else None,
        textfont={"size": 11},
        hovertemplate=where + (", %{y}" if "%{y}" not in where else "") + ": %{z:.4f}<extra></extra>",
    )


def _share_axis(title: str, values: list[float]) -> dict[str, object]:
    top = max(value for value in values if not math.isnan(value))
    return {"colorscale": SHARE_SCALE, "cmin": 0, "cmax": top, "colorbar": {"title": {"text": title}}}


def _styled(figure: go.Figure, title: str, height: int) -> go.Figure:
    return figure.update_layout(title=title, template=TEMPLATE, height=height, margin={"t": 80, "b": 50})
