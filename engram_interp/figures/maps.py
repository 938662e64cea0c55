"""Where in the model is it? Heat maps of components by layers, and of heads or experts by layers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Bool, Float
from plotly.subplots import make_subplots
from torch import Tensor

from engram_interp.figures.scale import Scale
from engram_interp.figures.style import styled

LETTERS = 96
"""So many letters, with a space for each cell, have room in a row of a map that stands alone; a third in one of two."""
MUCH = 3
"""Maps whose largest values differ by more than this factor get colour scales of their own."""
GAP = 90
"""Pixels between two rows of maps."""


def component_map(
    grid: Float[Tensor, "layer component"],
    significant: Bool[Tensor, "layer component"],
    components: Sequence[str],
    unembed: tuple[float, bool] | None,
    scale: Scale,
    title: str,
) -> go.Figure:
    """A heat map with a row for each component and a column for each layer. The unembedding has its own row below.

    Args:
        grid: `[layer component]`, NaN where there is no matrix.
        significant: which cells get a star.
        components: the columns of `grid`; none if only the unembedding is shown.
        unembed: the value of the unembedding, and whether it gets a star. None if it is not in the map.
        scale: what the values are.
        title: what is plotted.
    """
    layers = [str(layer) for layer in range(grid.shape[0])]
    rows, heights = [], []
    if components:
        rows.append(_heatmap(grid.T, significant.T, layers, components, scale, "%{y}, layer %{x}"))
        heights.append(len(components))
    if unembed is not None:
        value, star = (torch.tensor([[one]]) for one in unembed)
        rows.append(_heatmap(value, star, ["after the last layer"], ["W_U"], scale, "%{y}, %{x}"))
        heights.append(1)
    figure = make_subplots(rows=len(rows), cols=1, row_heights=heights, vertical_spacing=0.16 if len(rows) > 1 else 0)
    for index, row in enumerate(rows, start=1):
        in_blocks = bool(components) and index == 1
        figure.add_trace(row, index, 1)
        figure.update_xaxes(title_text="layer" if in_blocks else None, type="category", row=index, col=1)
        figure.update_yaxes(autorange="reversed", title_text="component" if in_blocks else None, row=index, col=1)
    values = [*grid.flatten().tolist(), *([] if unembed is None else [unembed[0]])]
    return styled(figure, title, 190 + 38 * sum(heights)).update_layout(coloraxis=scale.axis(values))


def matrix_map(
    matrices: pd.DataFrame, quantity: str, components: Sequence[str], n_layers: int, scale: Scale, title: str
) -> go.Figure:
    """The heat map of a column of a table of matrices. The experts of a layer share a cell, which has their mean.

    Of a plain module it is a bar for each matrix.

    Args:
        matrices: a row for each matrix: `key`, `component`, `layer` (missing for the unembedding) and the column.
        quantity: the column.
        components: all components, in the order of the map's rows.
        n_layers: how many layers are drawn.
        scale: what the values are.
        title: what is plotted.
    """
    if set(matrices.loc[matrices["layer"].notna(), "component"]) - set(components):
        names, values = matrices["key"].tolist(), matrices[quantity].tolist()
        return module_bars(names, values, [False] * len(names), scale, title)
    after_layers = matrices["layer"].isna()
    in_layers = matrices[~after_layers]
    present = set(in_layers["component"])
    names = [name for name in components if name in present]
    grid = torch.full((n_layers if names else 0, len(names)), torch.nan)
    for name, of_component in in_layers.groupby("component"):
        for layer, value in of_component.groupby("layer")[quantity].mean().items():
            grid[int(str(layer)), names.index(str(name))] = value
    unembed = matrices.loc[after_layers, quantity].tolist()
    last = (float(unembed[0]), False) if unembed else None
    return component_map(grid, torch.zeros_like(grid).bool(), names, last, scale, title)


def module_bars(
    names: Sequence[str], values: Sequence[float], significant: Sequence[bool], scale: Scale, title: str
) -> go.Figure:
    """A bar for each matrix of a plain module, from the first that is called to the last.

    Args:
        names: the matrices.
        values: a number for each; NaN where there is none.
        significant: which get a star.
        scale: what the values are.
        title: what is plotted.
    """
    values, names = [float(value) for value in values], list(names)
    colours = scale.colours(torch.tensor(values)).tolist()
    bars = go.Bar(
        x=values, y=names, orientation="h", text=["*" if star else "" for star in significant],
        textposition="outside", marker={"color": colours, "coloraxis": "coloraxis"},
        hovertemplate=f"%{{y}}<br>{scale.title}: %{{x:.4g}}<extra></extra>",
    )  # fmt: skip
    figure = go.Figure(bars)
    figure.update_xaxes(title_text=scale.title)
    figure.update_yaxes(title_text="matrix, in the order of calls", autorange="reversed", type="category")
    drawn = styled(figure, title, 160 + 24 * len(names))
    return drawn.update_layout(coloraxis=scale.axis(values))


def unit_rows(
    values: Mapping[str, Sequence[float]],
    significant: Mapping[str, Sequence[bool]],
    unit: str,
    scale: Scale,
    title: str,
) -> go.Figure:
    """A heat map with a row for each module and a column for each of its units.

    Args:
        values: of every unit, by module.
        significant: which get a star, by module.
        unit: what the columns are.
        scale: what the values are.
        title: what is plotted.
    """
    n = max(map(len, values.values()))
    grid, stars = torch.full((len(values), n), torch.nan), torch.zeros(len(values), n, dtype=torch.bool)
    for row, name in enumerate(values):
        grid[row, : len(values[name])] = torch.tensor(list(values[name]))
        stars[row, : len(values[name])] = torch.tensor(list(significant[name]))
    columns = [str(i) for i in range(n)]
    figure = go.Figure(_heatmap(grid, stars, columns, list(values), scale, f"%{{y}}, {unit} %{{x}}"))
    figure.update_xaxes(title_text=unit, type="category")
    figure.update_yaxes(title_text="module, in the order of calls", autorange="reversed", type="category")
    drawn = styled(figure, title, 190 + 28 * len(values))
    return drawn.update_layout(coloraxis=scale.axis(grid.flatten().tolist()))


def layer_maps(
    grids: Mapping[str, Float[Tensor, "layer unit"]],
    significant: Mapping[str, Bool[Tensor, "layer unit"]],
    unit: str,
    scale: Scale,
    title: str,
) -> go.Figure:
    """A heat map for every component, with a row for each layer and a column for each head or expert.

    Two components stand side by side. All have the same colours, unless their values differ so much that some of them
    would be all one colour. Then each has a colour scale of its own.

    Args:
        grids: `[layer unit]` by component, NaN where a layer is left out.
        significant: which cells get a star, by component.
        unit: what the columns are.
        scale: what the values are.
        title: what is plotted.
    """
    columns = min(len(grids), 2)
    rows, n_layers = math.ceil(len(grids) / columns), max(grid.shape[0] for grid in grids.values())
    height = rows * (30 + 24 * n_layers) + (rows - 1) * GAP
    figure = make_subplots(
        rows=rows, cols=columns, subplot_titles=list(grids), horizontal_spacing=0.16,
        vertical_spacing=GAP / height if rows > 1 else 0,
    )  # fmt: skip
    apart = _differ_by_much(list(grids.values()), scale)
    for index, (name, grid) in enumerate(grids.items()):
        row, column = index // columns + 1, index % columns + 1
        layers, units = ([str(i) for i in range(n)] for n in grid.shape)
        where = f"{name}, layer %{{y}}, {unit} %{{x}}"
        trace = _heatmap(grid, significant[name], units, layers, scale, where, narrow=len(grids) > 1)
        axis = f"coloraxis{index + 1 if apart and index else ''}"
        figure.add_trace(trace.update(coloraxis=axis), row, column)
        _name_axes(figure, row, column, "key/value head" if name in ("W_K", "W_V") else unit)
        if apart:
            _add_colour_axis(figure, axis, scale.axis(grid.flatten().tolist()), row, column)
    if not apart:
        values = [value for grid in grids.values() for value in grid.flatten().tolist()]
        figure.update_layout(coloraxis=scale.axis(values))
    return styled(figure, f"{title}, a colour scale each" if apart else title, height + 150)


def _differ_by_much(grids: Sequence[Tensor], scale: Scale) -> bool:
    """Whether one of the maps would be all one colour on the scale of another."""
    reach = [scale.colours(grid).nan_to_num(0.0).abs().max().item() for grid in grids]
    return max(reach) > MUCH * min(reach)


def _name_axes(figure: go.Figure, row: int, column: int, unit: str) -> None:
    figure.update_xaxes(title_text=unit, type="category", row=row, col=column)
    left = "layer" if column == 1 else None
    figure.update_yaxes(title_text=left, type="category", autorange="reversed", row=row, col=column)


def _add_colour_axis(figure: go.Figure, axis: str, colours: dict[str, object], row: int, column: int) -> None:
    """Gives a panel a colour axis, with a bar of the panel's height on its right."""
    subplot: Any = figure.get_subplot(row, column)
    across, up = subplot.xaxis.domain, subplot.yaxis.domain
    place = {"x": across[1] + 0.005, "y": (up[0] + up[1]) / 2, "len": up[1] - up[0], "lenmode": "fraction"}
    bar = {"title": None, "thickness": 10, **place}
    figure.update_layout({axis: colours}).update_layout({f"{axis}_colorbar": bar})


def _heatmap(
    grid: Float[Tensor, "row column"],
    significant: Bool[Tensor, "row column"],
    x: Sequence[str],
    y: Sequence[str],
    scale: Scale,
    where: str,
    narrow: bool = False,
) -> go.Heatmap:
    """A heat map. Its cells show their value if all are wide enough to hold it, and their star in any case.

    Args:
        grid: the values.
        significant: which cells get a star.
        x: the names of the columns.
        y: the names of the rows.
        scale: what the values are.
        where: what a cell is called when the pointer is on it.
        narrow: whether another map stands beside this one.
    """
    labels = _labels(grid, significant, ".2g" if narrow else ".3g")
    if len(x) * (1 + max(len(text) for row in labels for text in row)) > (LETTERS // 3 if narrow else LETTERS):
        labels = _labels(grid, significant, None)
    return go.Heatmap(
        z=scale.colours(grid).tolist(), x=list(x), y=list(y), coloraxis="coloraxis", xgap=1, ygap=1, hoverongaps=False,
        text=labels, texttemplate="%{text}", textfont={"size": 11},
        hovertext=_labels(grid, significant, ".4g"), hovertemplate=where + ": %{hovertext}<extra></extra>",
    )  # fmt: skip


def _labels(
    grid: Float[Tensor, "row column"], significant: Bool[Tensor, "row column"], digits: str | None
) -> list[list[str]]:
    """The value of every cell that has one, unless `digits` is None, and its star."""
    return [
        [
            ("" if digits is None or math.isnan(value) else format(value, digits)) + ("*" if star else "")
            for value, star in zip(*row, strict=True)
        ]
        for row in zip(grid.tolist(), significant.tolist(), strict=True)
    ]
