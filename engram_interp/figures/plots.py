"""Every figure, from plain numbers: nothing here knows a model, and nothing here shows a figure.

A share (W-Norm) is drawn on one sequential scale that begins at 0, a ratio on a diverging one, logarithmic around 1.
Target and reference keep their colours everywhere.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Bool, Float
from plotly.subplots import make_subplots
from torch import Tensor

from engram_interp.figures.figure import Figure
from engram_interp.models.sites import COMPONENTS, UNEMBED

SHARE_SCALE = "Viridis"
RATIO_SCALE = "RdBu_r"
LEAST_RATIO = 2.0**-6
"""A ratio below this has the colour of it."""
TARGET_COLOUR = "#d1495b"
REFERENCE_COLOUR = "#2e6f95"
SIDE_COLOURS = {"target": TARGET_COLOUR, "reference": REFERENCE_COLOUR}
CHOSEN_COLOUR = "#444444"
MATRIX_COLOUR = "#6b7a8f"
TEMPLATE = "plotly_white"
MAX_LABELLED_COLUMNS = 16
MUCH = 3
"""Maps whose largest values differ by more than this factor get colour scales of their own."""
TITLE_WIDTH = 105
"""Letters in a line of a title, which figures of 1000 pixels have room for."""


@dataclass(frozen=True)
class Scale:
    """What a map's colours mean.

    Attributes:
        title: what is drawn.
        ratio: whether it is a ratio, whose colours are its logarithm around 1; a share's begin at 0.
    """

    title: str
    ratio: bool = False

    def colours(self, values: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """What the colour axis measures."""
        return values.clamp(min=LEAST_RATIO).log2() if self.ratio else values

    def axis(self, values: Iterable[float]) -> dict[str, object]:
        """Plotly's colour axis for these values."""
        known = torch.tensor([value for value in values if not math.isnan(value)])
        # The empty line keeps the title off the uppermost number.
        bar: dict[str, object] = {"title": {"text": f"{self.title.replace(' over ', '<br>over ')}<br> "}}
        if not self.ratio:
            return {"colorscale": SHARE_SCALE, "cmin": 0, "cmax": float(known.max()), "colorbar": bar}
        reach = float(self.colours(known).abs().max()) or 1.0
        ticks = torch.linspace(-reach, reach, 5)
        bar |= {"tickvals": ticks.tolist(), "ticktext": [f"{value:.3g}" for value in ticks.exp2().tolist()]}
        return {"colorscale": RATIO_SCALE, "cmin": -reach, "cmax": reach, "colorbar": bar}


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
    return _styled(figure, title, 190 + 38 * sum(heights)).update_layout(coloraxis=scale.axis(values))


def matrix_map(matrices: pd.DataFrame, quantity: str, n_layers: int, scale: Scale, title: str) -> go.Figure:
    """The heat map of a column of a table of matrices; the experts of a layer share a cell, which has their mean.

    Args:
        matrices: a row a matrix: `component`, `layer` (missing for the unembedding) and the column.
        quantity: the column.
        n_layers: how many layers are drawn.
        scale: what the values are.
        title: what is plotted.
    """
    present = set(matrices["component"])
    names = [name for name in COMPONENTS if name in present and name != UNEMBED]
    grid = torch.full((n_layers if names else 0, len(names)), torch.nan)
    for name, of_component in matrices.groupby("component"):
        for layer, value in of_component.groupby("layer")[quantity].mean().items():
            grid[int(str(layer)), names.index(str(name))] = value
    unembed = matrices.loc[matrices["component"] == UNEMBED, quantity].tolist()
    last = (float(unembed[0]), False) if unembed else None
    return component_map(grid, torch.zeros_like(grid).bool(), names, last, scale, title)


def layer_maps(
    grids: Mapping[str, Float[Tensor, "layer unit"]],
    significant: Mapping[str, Bool[Tensor, "layer unit"]],
    unit: str,
    scale: Scale,
    title: str,
) -> go.Figure:
    """A heat map for every component, a row a layer and a column a head or an expert, two components side by side.

    Colours are the same everywhere, unless components differ by more than their colours could show: then each has a
    scale of its own.

    Args:
        grids: `[layer unit]` by component, NaN where a layer is left out.
        significant: which cells get a star, by component.
        unit: what the columns are.
        scale: what the values are.
        title: what is plotted.
    """
    columns, gap = min(len(grids), 2), 90
    rows, n_layers = math.ceil(len(grids) / columns), max(grid.shape[0] for grid in grids.values())
    height = rows * (30 + 24 * n_layers) + (rows - 1) * gap
    figure = make_subplots(
        rows=rows, cols=columns, subplot_titles=list(grids), horizontal_spacing=0.16,
        vertical_spacing=gap / height if rows > 1 else 0,
    )  # fmt: skip
    apart = _differ_by_much(list(grids.values()), scale)
    for index, (name, grid) in enumerate(grids.items()):
        row, column = index // columns + 1, index % columns + 1
        layers, units = ([str(i) for i in range(n)] for n in grid.shape)
        where = f"{name}, layer %{{y}}, {unit} %{{x}}"
        trace = _heatmap(grid, significant[name], units, layers, scale, where, narrow=len(grids) > 1)
        axis = f"coloraxis{index + 1 if apart and index else ''}"
        figure.add_trace(trace.update(coloraxis=axis), row, column)
        kind = "key/value head" if name in ("W_K", "W_V") else unit
        figure.update_xaxes(title_text=kind, type="category", row=row, col=column)
        figure.update_yaxes(
            title_text="layer" if column == 1 else None, type="category", autorange="reversed", row=row, col=column
        )
        if apart:
            bar = {"title": None, "thickness": 10, **_beside(figure, row, column)}
            figure.update_layout({axis: scale.axis(grid.flatten().tolist())}).update_layout({f"{axis}_colorbar": bar})
    if not apart:
        values = [value for grid in grids.values() for value in grid.flatten().tolist()]
        figure.update_layout(coloraxis=scale.axis(values))
    return _styled(figure, f"{title}, a colour scale each" if apart else title, height + 150)


def _differ_by_much(grids: Sequence[Tensor], scale: Scale) -> bool:
    """Whether one of the maps would be all one colour on the scale of another."""
    reach = [scale.colours(grid).nan_to_num(0.0).abs().max().item() for grid in grids]
    return max(reach) > MUCH * min(reach)


def _beside(figure: go.Figure, row: int, column: int) -> dict[str, float | str]:
    """Where a panel's colour bar stands: right of it, and as high."""
    subplot: Any = figure.get_subplot(row, column)
    across, up = subplot.xaxis.domain, subplot.yaxis.domain
    return {"x": across[1] + 0.005, "y": (up[0] + up[1]) / 2, "len": up[1] - up[0], "lenmode": "fraction"}


def alpha_curve(points: pd.DataFrame, alpha: float, floor: float, title: str) -> go.Figure:
    """Answer accuracy and loss of target and reference against the strength of the edit, and the strength chosen.

    Args:
        points: a row a strength: `alpha`, and `accuracy` and `loss` after `target_` and `reference_`.
        alpha: the strength chosen.
        floor: the least reference accuracy allowed.
        title: what is plotted.
    """
    figure = make_subplots(rows=1, cols=2, horizontal_spacing=0.1)
    for side, colour in SIDE_COLOURS.items():
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


def criteria(matrices: pd.DataFrame, missed: Mapping[str, float], behaviour: pd.DataFrame, title: str) -> go.Figure:
    """By how much every matrix, and the whole edit, misses each criterion, and the answers of the model in each state.

    Args:
        matrices: a row a matrix: `key`, `component`, and a column a criterion.
        missed: by how much the answers miss each criterion.
        behaviour: a row a state, with `target_accuracy` and `reference_accuracy`.
        title: what is plotted.
    """
    figure = make_subplots(
        rows=1, cols=2, horizontal_spacing=0.12, column_widths=[0.5, 0.5],
        subplot_titles=["By how much each criterion is missed (0: met)", "What is answered"],
    )  # fmt: skip
    for index, name in enumerate(missed):
        figure.add_trace(
            go.Box(
                y=matrices[name], x=[name] * len(matrices), text=matrices["key"], boxpoints="all", pointpos=0,
                jitter=0.6, marker={"color": MATRIX_COLOUR, "size": 4}, line={"color": MATRIX_COLOUR, "width": 1},
                fillcolor="rgba(0,0,0,0)", name="matrices, of their output", showlegend=index == 0,
                hovertemplate="%{text}: %{y:.3~g}<extra></extra>",
            ), 1, 1,
        )  # fmt: skip
    figure.add_trace(
        go.Scatter(
            x=list(missed), y=list(missed.values()), mode="markers+text", name="the edit, of the answers",
            marker={"color": CHOSEN_COLOUR, "size": 12, "symbol": "diamond"}, texttemplate="%{y:.0%}",
            textposition="middle right",
        ), 1, 1,
    )  # fmt: skip
    for side, colour in SIDE_COLOURS.items():
        accuracy = behaviour[f"{side}_accuracy"]
        figure.add_trace(
            go.Bar(
                x=list(behaviour.index), y=accuracy, name=side, marker={"color": colour}, texttemplate="%{y:.0%}",
                textposition="outside",
            ), 1, 2,
        )  # fmt: skip
    figure.update_yaxes(title_text="share missed", rangemode="tozero", row=1, col=1)
    figure.update_yaxes(title_text="answer accuracy (share of tokens)", range=[0, 1.12], row=1, col=2)
    figure.update_xaxes(title_text="criterion", row=1, col=1)
    figure.update_xaxes(title_text="state of the model", row=1, col=2)
    return _styled(figure, title, 430).update_layout(barmode="group")


def ablation_study(table: pd.DataFrame, unedited: str, title: str) -> go.Figure:
    """A panel a score: every subset's value with its interval, and the unedited model's as a dashed line.

    Args:
        table: a row a subset and score: `subset`, `score`, `value`, `low` and `high`.
        unedited: the subset that is none.
        title: what is plotted.
    """
    scores, subsets = list(table["score"].unique()), [name for name in table["subset"].unique() if name != unedited]
    columns = min(len(scores), 2)
    rows = math.ceil(len(scores) / columns)
    panel, gap = max(28 * len(subsets), 80), 75
    height = rows * panel + (rows - 1) * gap
    figure = make_subplots(
        rows=rows, cols=columns, subplot_titles=scores, shared_yaxes=True, horizontal_spacing=0.06,
        vertical_spacing=gap / height if rows > 1 else 0,
    )  # fmt: skip
    for index, score in enumerate(scores):
        row, column = index // columns + 1, index % columns + 1
        values = table[table["score"] == score].set_index("subset")
        shown = values.loc[subsets]
        colour = next((colour for side, colour in SIDE_COLOURS.items() if score.startswith(side)), MATRIX_COLOUR)
        figure.add_trace(
            go.Scatter(
                x=shown["value"], y=subsets, mode="markers", marker={"color": colour, "size": 9}, showlegend=False,
                error_x={
                    "type": "data", "symmetric": False, "array": shown["high"] - shown["value"],
                    "arrayminus": shown["value"] - shown["low"], "color": colour,
                },
                hovertemplate="%{y}: %{x:.4~g}<extra></extra>",
            ), row, column,
        )  # fmt: skip
        before = float(values.at[unedited, "value"])
        place: dict[str, Any] = {"row": row, "col": column}
        figure.add_vline(x=before, line={"color": CHOSEN_COLOUR, "dash": "dash"}, **place)
        reach = [0, 1.03] if "accuracy" in score else None
        what = "mean over examples" if row == rows else None
        figure.update_xaxes(title_text=what, range=reach, rangemode="tozero", row=row, col=column)
        figure.update_yaxes(autorange="reversed", title_text="ablated" if column == 1 else None, row=row, col=column)
    return _styled(figure, f"{title} (dashed: {unedited})", height + 140)


def diagnosis(
    eigenvalues: Float[Tensor, "r"],
    shares: Float[Tensor, "k"],
    target_share: float,
    rtol: float,
    cuts: pd.DataFrame,
    wnorms: pd.DataFrame | None,
    title: str,
) -> go.Figure:
    """The spectra of `S` and of `M`, and how a soft projector moves with the cut.

    Args:
        eigenvalues: of `S`, ascending.
        shares: of the kept directions, ascending: what the target owns of each.
        target_share: what a target without a direction of its own would own of each.
        rtol: the cut in use.
        cuts: a row a cut: `rtol` and what `engram_interp.linalg.projectors.at_cuts` finds.
        wnorms: the W-Norm of a matrix, a row a cut; None where an input is looked at.
        title: what is plotted.
    """
    figure = make_subplots(
        rows=2, cols=2, horizontal_spacing=0.1, vertical_spacing=0.16,
        subplot_titles=[
            "What the data have: eigenvalues of S",
            "What the target owns: eigenvalues of M",
            "Dimensions of P+, by cut",
            "What P+ lets pass, and its shape, by cut",
        ],
    )  # fmt: skip
    n_dropped = len(eigenvalues) - len(shares)
    relative = (eigenvalues / eigenvalues[-1:]).flip(0).tolist()
    kept = {"line": {"color": MATRIX_COLOUR}, "showlegend": False}
    figure.add_trace(go.Scatter(x=_ranks(len(relative)), y=relative, mode="lines", name="λ / λ max", **kept), 1, 1)
    figure.add_trace(
        go.Scatter(
            x=_ranks(len(shares)), y=shares.flip(0).tolist(), mode="lines", line={"color": TARGET_COLOUR},
            showlegend=False, name="share",
        ), 1, 2,
    )  # fmt: skip
    chance = f"n/N = {target_share:.3g}: a target with nothing of its own"
    dots = {"color": CHOSEN_COLOUR, "dash": "dot"}
    ends = [1, max(len(shares), 1)]
    figure.add_trace(go.Scatter(x=ends, y=[target_share] * 2, mode="lines", line=dots, name=chance), 1, 2)
    dimensions = {"rank": "dimensions kept", "owned": "dimensions owned, tr P", "effective_rank": "effective rank"}
    for colour, (name, label) in zip((MATRIX_COLOUR, TARGET_COLOUR, "#3a7d44"), dimensions.items(), strict=True):
        _by_cut(figure, cuts, name, label, {"color": colour}, 1)
    _by_cut(figure, cuts, "target_passes", "target's energy that passes", {"color": TARGET_COLOUR}, 2)
    _by_cut(figure, cuts, "reference_passes", "reference's energy that passes", {"color": REFERENCE_COLOUR}, 2)
    _by_cut(figure, cuts, "idempotence_defect", "idempotence defect", {"color": MATRIX_COLOUR, "dash": "dot"}, 2)
    _by_cut(figure, cuts, "obliqueness", "obliqueness", {"color": MATRIX_COLOUR, "dash": "dash"}, 2)
    if wnorms is not None:
        _by_cut(figure, wnorms, "wnorm", "W-Norm", {"color": CHOSEN_COLOUR, "width": 3}, 2)
    dashes = {"color": CHOSEN_COLOUR, "dash": "dash"}
    places: list[dict[str, Any]] = [{"row": row, "col": column} for row in (1, 2) for column in (1, 2)]
    shown = [math.log10(end) for end in (cuts["rtol"].min() / 2, cuts["rtol"].max() * 2)]
    for place in places[2:]:
        figure.add_vline(x=rtol, line=dashes, **place)
        figure.update_xaxes(
            title_text="rtol (dashed: in use)", type="log", range=shown,
            exponentformat="power", **place,
        )  # fmt: skip
    figure.update_xaxes(title_text="direction, by size", row=1)
    figure.add_hline(y=rtol, line=dashes, annotation_text=f"cut: {n_dropped} dropped", **places[0])
    figure.update_yaxes(title_text="share of the largest", type="log", exponentformat="power", row=1, col=1)
    figure.update_yaxes(title_text="share owned", rangemode="tozero", row=1, col=2)
    figure.update_yaxes(title_text="dimensions", type="log", dtick=1, row=2, col=1)
    figure.update_yaxes(title_text="share, or ratio", type="log", dtick=1, exponentformat="power", row=2, col=2)
    return _styled(figure, title, 720)


def _ranks(n: int) -> list[int]:
    return list(range(1, n + 1))


def _by_cut(figure: go.Figure, rows: pd.DataFrame, name: str, label: str, line: dict[str, Any], column: int) -> None:
    figure.add_trace(
        go.Scatter(x=rows["rtol"], y=rows[name], name=label, mode="lines+markers", line=line, marker={"size": 4}),
        2,
        column,
    )


def overlap(shared: pd.DataFrame, scale: Scale, title: str) -> go.Figure:
    """What every two concepts share.

    Args:
        shared: `[concept concept]`, symmetric.
        scale: what the values are.
        title: what is plotted.
    """
    figure = go.Figure(_square(shared, scale, "coloraxis", "%{y} and %{x}: "))
    return _styled(figure, title, 300 + 18 * len(shared)).update_layout(
        coloraxis=scale.axis(_off_diagonal(shared)), yaxis={"autorange": "reversed"}
    )


def overlap_and_cost(shared: pd.DataFrame, cost: pd.DataFrame, scale: Scale, title: str) -> go.Figure:
    """The same, next to what ablating one concept costs another, and one against the other.

    Args:
        shared: `[concept concept]`, symmetric.
        cost: share of answer tokens lost, a row an ablated concept and a column a scored one.
        scale: what is shared.
        title: what is plotted.
    """
    pairs = pd.DataFrame({"shared": _off_diagonal(shared), "cost": _off_diagonal(cost)})
    rank_correlation = pairs.corr(method="spearman").loc["shared", "cost"]
    figure = make_subplots(
        rows=1, cols=3, horizontal_spacing=0.12, column_widths=[0.4, 0.4, 0.2],
        subplot_titles=[
            scale.title[0].upper() + scale.title[1:],
            "What ablating the row costs the column",
            f"Rank correlation {rank_correlation:.2f}",
        ],
    )  # fmt: skip
    figure.add_trace(_square(shared, scale, "coloraxis", "%{y} and %{x}: "), 1, 1)
    figure.add_trace(_square(cost, Scale("share lost"), "coloraxis2", "ablating %{y} costs %{x} "), 1, 2)
    figure.add_trace(
        go.Scatter(
            x=pairs["shared"], y=pairs["cost"], mode="markers", showlegend=False,
            text=[f"ablating {a} costs {b}" for a, b in _pairs(shared)], marker={"color": MATRIX_COLOUR, "size": 5},
        ), 1, 3,
    )  # fmt: skip
    figure.update_yaxes(autorange="reversed", row=1, col=1)
    figure.update_yaxes(autorange="reversed", showticklabels=False, row=1, col=2)
    figure.update_xaxes(title_text=scale.title, row=1, col=3)
    figure.update_yaxes(title_text="answer tokens lost (share)", tickformat=".0%", side="right", row=1, col=3)
    reach = float(pairs["cost"].abs().max()) or 1.0
    bars: list[dict[str, Any]] = [
        {"thickness": 10, "len": 0.6, "y": 0.7, "title": None, "x": right} for right in (0.31, 0.735)
    ]
    first = scale.axis(pairs["shared"])
    costs = {"colorscale": RATIO_SCALE, "cmin": -reach, "cmax": reach, "colorbar": {**bars[1], "tickformat": ".0%"}}
    figure.update_layout(coloraxis=first, coloraxis2=costs).update_layout(coloraxis_colorbar=bars[0])
    return _styled(figure, title, 330 + 16 * len(shared)).update_layout(margin={"t": 100})


def _pairs(square: pd.DataFrame) -> list[tuple[str, str]]:
    """Every two different concepts, in either order."""
    return [(a, b) for a in square.index for b in square.columns if a != b]


def _off_diagonal(square: pd.DataFrame) -> list[float]:
    values = square.to_numpy(dtype=float)
    return values[~torch.eye(len(values), dtype=torch.bool).numpy()].tolist()


def _square(values: pd.DataFrame, scale: Scale, axis: str, where: str) -> go.Heatmap:
    """A heat map of concepts by concepts whose diagonal is left blank."""
    grid = torch.tensor(values.to_numpy(dtype=float)).fill_diagonal_(torch.nan)
    return go.Heatmap(
        z=scale.colours(grid).tolist(), x=list(values.columns), y=list(values.index), hovertext=grid.tolist(),
        coloraxis=axis, xgap=1, ygap=1, hoverongaps=False,
        hovertemplate=where + "%{hovertext:.3~g}<extra></extra>",
    )  # fmt: skip


def to_html(figure: go.Figure, index: int) -> str:
    """A figure as part of a page that needs nothing else: the first one brings plotly's script."""
    options = {"displaylogo": False}
    return figure.to_html(full_html=False, include_plotlyjs=index == 0, div_id=f"figure-{index}", config=options)


def _heatmap(
    grid: Float[Tensor, "row column"],
    significant: Bool[Tensor, "row column"],
    x: Sequence[str],
    y: Sequence[str],
    scale: Scale,
    where: str,
    narrow: bool = False,
) -> go.Heatmap:
    """Cells are labelled with their value while they are wide enough to hold it, else with their star alone.

    A narrow map is one of two side by side.
    """
    labelled, digits = len(x) <= MAX_LABELLED_COLUMNS // (1 + narrow), ".2g" if narrow else ".3g"
    return go.Heatmap(
        z=scale.colours(grid).tolist(),
        x=list(x),
        y=list(y),
        text=_labels(grid, significant, digits if labelled else None),
        hovertext=_labels(grid, significant, ".4g"),
        coloraxis="coloraxis",
        xgap=1,
        ygap=1,
        hoverongaps=False,
        texttemplate="%{text}",
        textfont={"size": 11},
        hovertemplate=where + ": %{hovertext}<extra></extra>",
    )


def _labels(
    grid: Float[Tensor, "row column"], significant: Bool[Tensor, "row column"], digits: str | None
) -> list[list[str]]:
    """Every cell's value, if it has one and `digits` are given, and its star."""
    return [
        [
            ("" if digits is None or math.isnan(value) else format(value, digits)) + ("*" if star else "")
            for value, star in zip(*row, strict=True)
        ]
        for row in zip(grid.tolist(), significant.tolist(), strict=True)
    ]


def _styled(figure: go.Figure, title: str, height: int) -> Figure:
    lines = textwrap.wrap(title, TITLE_WIDTH, break_long_words=False) or [""]
    top = 60 + 22 * len(lines)
    styled = Figure(figure)
    names = {trace.name for trace in figure.data if trace.name and trace.showlegend is not False}
    # Below the panels, a legend leaves them the width of the page.
    below = 60 + 22 * math.ceil(len(names) / 3) if len(names) > 1 else 0
    styled.update_layout(
        title={"text": "<br>".join(lines), "font": {"size": 16}}, template=TEMPLATE, height=height + below,
        margin={"t": top, "b": 50 + below},
        legend={"orientation": "h", "yref": "container", "y": 0.01, "yanchor": "bottom", "x": 0},
    )  # fmt: skip
    return styled
