"""Every figure, from plain numbers: nothing here knows a model, and nothing here shows a figure.

A share (W-Norm) is drawn on one sequential scale that begins at 0, a ratio on a diverging one around its centre. Target
and reference keep their colours everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Bool, Float
from plotly.subplots import make_subplots
from torch import Tensor

SHARE_SCALE = "Viridis"
RATIO_SCALE = "RdBu_r"
TARGET_COLOUR = "#d1495b"
REFERENCE_COLOUR = "#2e6f95"
CHOSEN_COLOUR = "#444444"
TEMPLATE = "plotly_white"
MAX_LABELLED_COLUMNS = 16


@dataclass(frozen=True)
class Scale:
    """What a map's colours mean.

    Attributes:
        title: what is drawn.
        centre: the value that means nothing either way; None of a share, whose colours begin at 0.
    """

    title: str
    centre: float | None = None

    def axis(self, values: Iterable[float]) -> dict[str, object]:
        """Plotly's colour axis for these values."""
        known = [value for value in values if not math.isnan(value)]
        bar = {"colorbar": {"title": {"text": self.title.replace(" over ", "<br>over ")}}}
        if self.centre is None:
            return {"colorscale": SHARE_SCALE, "cmin": 0, "cmax": max(known), **bar}
        reach = max(abs(value - self.centre) for value in known) or 1.0
        return {"colorscale": RATIO_SCALE, "cmin": self.centre - reach, "cmax": self.centre + reach, **bar}


def component_map(
    grid: Float[Tensor, "layer component"],
    significant: Bool[Tensor, "layer component"],
    components: Sequence[str],
    unembed: tuple[float, bool] | None,
    scale: Scale,
    title: str,
) -> go.Figure:
    """Heat map, a row a component and a column a layer, the unembedding in a row of its own below.

    Args:
        grid: `[layer component]`, NaN where there is no matrix.
        significant: which cells get a star.
        components: the columns of `grid`; none when only the unembedding is shown.
        unembed: the unembedding's value, and whether it gets a star; None where it is not in the map.
        scale: what the values are.
        title: what is plotted.
    """
    layers = [str(layer) for layer in range(grid.shape[0])]
    rows = [_heatmap(grid.T, significant.T, layers, components, "%{y}, layer %{x}")] if components else []
    if unembed is not None:
        value, star = (torch.tensor([[one]]) for one in unembed)
        rows.append(_heatmap(value, star, ["after the last layer"], ["W_U"], "%{y}, %{x}"))
    figure = make_subplots(
        rows=len(rows), cols=1, row_heights=[len(row.y) for row in rows], vertical_spacing=0.16 if len(rows) > 1 else 0
    )
    for index, row in enumerate(rows, start=1):
        in_blocks = bool(components) and index == 1
        figure.add_trace(row, index, 1)
        figure.update_xaxes(title_text="layer" if in_blocks else None, type="category", row=index, col=1)
        figure.update_yaxes(autorange="reversed", title_text="component" if in_blocks else None, row=index, col=1)
    height = 190 + 38 * sum(len(row.y) for row in rows)
    values = [*grid.flatten().tolist(), *([] if unembed is None else [unembed[0]])]
    return _styled(figure, title, height).update_layout(coloraxis=scale.axis(values))


def layer_maps(
    grids: Mapping[str, Float[Tensor, "layer unit"]],
    significant: Mapping[str, Bool[Tensor, "layer unit"]],
    unit: str,
    scale: Scale,
    title: str,
) -> go.Figure:
    """A heat map for every component, a row a layer and a column a head or an expert.

    Args:
        grids: `[layer unit]` by component, NaN where a layer is left out.
        significant: which cells get a star, by component.
        unit: what the columns are.
        scale: what the values are.
        title: what is plotted.
    """
    figure = make_subplots(
        rows=1,
        cols=len(grids),
        subplot_titles=list(grids),
        column_widths=[max(grid.shape[1], 3) for grid in grids.values()],
        horizontal_spacing=0.06,
    )
    for column, (name, grid) in enumerate(grids.items(), start=1):
        layers, units = ([str(i) for i in range(n)] for n in grid.shape)
        where = f"{name}, layer %{{y}}, {unit} %{{x}}"
        figure.add_trace(_heatmap(grid, significant[name], units, layers, where), 1, column)
        kind = "key/value head" if name in ("W_K", "W_V") else unit
        figure.update_xaxes(title_text=kind, type="category", row=1, col=column)
        figure.update_yaxes(
            title_text="layer" if column == 1 else None, type="category", autorange="reversed", row=1, col=column
        )
    height = 200 + 34 * max(grid.shape[0] for grid in grids.values())
    values = [value for grid in grids.values() for value in grid.flatten().tolist()]
    return _styled(figure, title, height).update_layout(coloraxis=scale.axis(values))


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


def _heatmap(
    grid: Float[Tensor, "row column"],
    significant: Bool[Tensor, "row column"],
    x: Sequence[str],
    y: Sequence[str],
    where: str,
) -> go.Heatmap:
    """Cells are labelled with their value while they are wide enough to hold it, else with their star alone."""
    stars = [["*" if star else "" for star in row] for row in significant.tolist()]
    return go.Heatmap(
        z=grid.tolist(),
        x=list(x),
        y=list(y),
        text=stars,
        coloraxis="coloraxis",
        xgap=1,
        ygap=1,
        hoverongaps=False,
        texttemplate="%{z:.3~g}%{text}" if len(x) <= MAX_LABELLED_COLUMNS else "%{text}",
        textfont={"size": 11},
        hovertemplate=where + ": %{z:.4~g}%{text}<extra></extra>",
    )


def _styled(figure: go.Figure, title: str, height: int) -> go.Figure:
    return figure.update_layout(title=title, template=TEMPLATE, height=height, margin={"t": 80, "b": 50})
