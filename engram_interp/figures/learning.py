"""What does learning do to memories? Curves of grafts, and of memories over the steps of training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import torch
from plotly.colors import qualitative
from plotly.subplots import make_subplots

from engram_interp.figures.scale import Scale
from engram_interp.figures.style import CHOSEN_COLOUR, SIDE_COLOURS, styled

COLOURS = qualitative.D3
"""The colours of lines that are no sides."""


def graft_curves(curves: Mapping[str, pd.DataFrame], chosen: float | None, title: str) -> go.Figure:
    """Answer accuracy of the grafted model against the share that is grafted, on a logarithmic axis.

    One curve has its sides in the sides' colours. Several have a colour each, and a panel for each side.

    Args:
        curves: by what chose the entries; a row for each `share`, with `target_accuracy` and `reference_accuracy`.
        chosen: the share that was chosen; None draws none.
        title: what is plotted.
    """
    figure = make_subplots(
        rows=1, cols=2, subplot_titles=["target", "reference"], shared_yaxes=True, horizontal_spacing=0.05
    )
    for place, (name, curve) in enumerate(curves.items()):
        shown = curve[curve["share"] > 0]
        for column, (side, side_colour) in enumerate(SIDE_COLOURS.items(), start=1):
            colour = side_colour if len(curves) == 1 else COLOURS[place % len(COLOURS)]
            line = go.Scatter(
                x=shown["share"], y=shown[f"{side}_accuracy"], name=name, legendgroup=name, showlegend=column == 1,
                mode="lines+markers", line={"color": colour},
            )  # fmt: skip
            figure.add_trace(line, 1, column)
            before = float(curve.loc[curve["share"] == 0, f"{side}_accuracy"].mean())
            if place == 0 and before == before:  # a curve without a share of 0 has no base
                figure.add_hline(
                    y=before, line={"color": CHOSEN_COLOUR, "dash": "dot"}, annotation_text="the base",
                    annotation_position="bottom left", row=1, col=column,  # pyright: ignore[reportArgumentType]
                )  # fmt: skip
    if chosen is not None and chosen > 0:
        for column in (1, 2):
            mark = go.Scatter(
                x=[chosen, chosen], y=[0, 1], name=f"chosen: {chosen:.3g}", legendgroup="chosen", mode="lines",
                showlegend=column == 1, line={"color": CHOSEN_COLOUR, "dash": "dash"},
            )  # fmt: skip
            figure.add_trace(mark, 1, column)
    figure.update_xaxes(type="log", title_text="share of all entries that is grafted")
    figure.update_yaxes(title_text="answer accuracy (share of tokens)", range=[0, 1.03], col=1)
    figure.update_yaxes(range=[0, 1.03], col=2)
    return styled(figure, title, 420)


def continual_lines(
    accuracies: pd.DataFrame, ways: Sequence[str], sets: Sequence[str], stages: Sequence[str], title: str
) -> go.Figure:
    """Accuracy on every set after each stage of learning: a panel for each set, a line for each way.

    Args:
        accuracies: a row for each run: `way`, `after` (the stage), `on` (the set) and `accuracy`.
        ways: in the order of the legend.
        sets: what was learned.
        stages: in the order of time.
        title: what is plotted.
    """
    figure = make_subplots(
        rows=1, cols=len(sets), subplot_titles=list(sets), shared_yaxes=True, horizontal_spacing=0.03
    )
    for place, way in enumerate(ways):
        colour = COLOURS[place % len(COLOURS)]
        for column, on in enumerate(sets, start=1):
            mine = accuracies[(accuracies["way"] == way) & (accuracies["on"] == on)].groupby("after")["accuracy"]
            mean, spread = mine.mean().reindex([*stages]), mine.std().reindex([*stages])
            line = go.Scatter(
                x=list(stages), y=mean, name=way, legendgroup=way, showlegend=column == 1, mode="lines+markers",
                line={"color": colour}, error_y={"type": "data", "array": spread, "color": colour},
            )  # fmt: skip
            figure.add_trace(line, 1, column)
    figure.update_xaxes(title_text="after this set")
    figure.update_yaxes(title_text="answer accuracy (share of tokens)", range=[0, 1.03], col=1)
    return styled(figure, f"{title} (bars: standard deviation over seeds)", 420)


def component_lines(
    maps: pd.DataFrame,
    answers: pd.DataFrame,
    quantity: str,
    band: Sequence[str],
    components: Sequence[str],
    title: str,
) -> go.Figure:
    """A panel for each component, with the mean over its layers and the null's band, and one for what is answered.

    Args:
        maps: a row for each `step` and matrix, with `component` and the quantity.
        answers: a row for each `step` and `side`, with `accuracy`; none draws no such panel.
        quantity: the column.
        band: the columns of the band's ends; none draws no band.
        components: in the order of the panels.
        title: what is plotted.
    """
    names = [*components, *(["answers"] if len(answers) else [])]
    columns = min(4, len(names))
    rows = -(-len(names) // columns)
    height = 210 * rows
    figure = make_subplots(
        rows=rows, cols=columns, subplot_titles=names, horizontal_spacing=0.06, vertical_spacing=60 / height
    )
    for place, name in enumerate(components):
        where: dict[str, Any] = {"row": place // columns + 1, "col": place % columns + 1}
        mine = maps[maps["component"] == name].groupby("step")[[quantity, *band]].mean()
        if band:
            low, high = (mine[end] for end in band)
            edge = {"x": mine.index, "mode": "lines", "line": {"width": 0}, "hoverinfo": "skip"}
            figure.add_trace(go.Scatter(y=low, showlegend=False, **edge), **where)
            filled = go.Scatter(
                y=high, fill="tonexty", fillcolor="rgba(107,122,143,0.3)", name="the null's band",
                showlegend=place == 0, **edge,
            )  # fmt: skip
            figure.add_trace(filled, **where)
        line = go.Scatter(
            x=mine.index, y=mine[quantity], mode="lines+markers", line={"color": SIDE_COLOURS["target"]},
            name="the engram", showlegend=place == 0,
        )  # fmt: skip
        figure.add_trace(line, **where)
    if len(answers):
        place = len(components)
        for side, colour in SIDE_COLOURS.items():
            mine = answers[answers["side"] == side]
            line = go.Scatter(
                x=mine["step"], y=mine["accuracy"], mode="lines+markers", name=f"{side}'s answers",
                line={"color": colour, "dash": "dot"},
            )  # fmt: skip
            figure.add_trace(line, row=place // columns + 1, col=place % columns + 1)
        figure.update_yaxes(
            title_text="share of tokens right", range=[0, 1.03], row=place // columns + 1, col=place % columns + 1
        )
    for place in range(len(names) - columns, len(names)):
        figure.update_xaxes(title_text="step", row=place // columns + 1, col=place % columns + 1)
    return styled(figure, title, height + 60)


def step_maps(maps: pd.DataFrame, quantity: str, components: Sequence[str], scale: Scale, title: str) -> go.Figure:
    """A heat map for each component: layers by steps.

    Args:
        maps: a row for each `step` and matrix, with `component`, `layer` and the quantity.
        quantity: the column.
        components: in the order of the panels.
        scale: what the colours mean.
        title: what is plotted.
    """
    columns = min(4, len(components))
    rows = -(-len(components) // columns)
    height = 200 * rows
    figure = make_subplots(
        rows=rows, cols=columns, subplot_titles=list(components), horizontal_spacing=0.04,
        vertical_spacing=60 / height if rows > 1 else 0,
    )  # fmt: skip
    for place, name in enumerate(components):
        mine = maps[maps["component"] == name]
        mine = mine.assign(layer=mine["layer"].astype(object).where(mine["layer"].notna(), ""))
        grid = mine.pivot_table(index="layer", columns="step", values=quantity, aggfunc="mean", sort=False)
        heat = go.Heatmap(
            z=scale.colours(torch.from_numpy(grid.to_numpy(dtype=float, copy=True))).numpy(), coloraxis="coloraxis",
            x=[str(step) for step in grid.columns], y=[str(layer) for layer in grid.index],
            customdata=grid.to_numpy(dtype=float),
            hovertemplate="step %{x}, layer %{y}: %{customdata:.3g}<extra></extra>",
        )  # fmt: skip
        where: dict[str, Any] = {"row": place // columns + 1, "col": place % columns + 1}
        figure.add_trace(heat, **where)
        figure.update_xaxes(type="category", title_text="step" if place >= len(components) - columns else None, **where)
        left = "layer" if place % columns == 0 else None
        figure.update_yaxes(type="category", autorange="reversed", title_text=left, **where)
    figure.update_layout(coloraxis=scale.axis(maps[quantity].astype(float).tolist()))
    return styled(figure, title, height + 60)


def map_film(
    maps: pd.DataFrame,
    quantity: str,
    components: Sequence[str],
    scale: Scale,
    accuracy: Mapping[int, float],
    title: str,
) -> go.Figure:
    """A map that changes with the step: a frame for each, components by layers as in any map, one scale for all.

    Args:
        maps: a row for each `step` and matrix, with `component`, `layer` and the quantity.
        quantity: the column.
        components: in the order of the rows.
        scale: what the colours mean.
        accuracy: the target's answer accuracy by step, which the title of each frame says.
        title: what is plotted.
    """
    steps = list(dict.fromkeys(maps["step"]))

    def heat(step: int) -> go.Heatmap:
        mine = maps[maps["step"] == step]
        last = mine["layer"].max() if mine["layer"].notna().any() else 0
        mine = mine.assign(layer=mine["layer"].fillna(last).astype("int64"))
        grid = mine.pivot_table(index="component", columns="layer", values=quantity, aggfunc="mean")
        grid = grid.reindex(index=list(components))
        values = grid.to_numpy(dtype=float, copy=True)
        return go.Heatmap(
            z=scale.colours(torch.from_numpy(values)).numpy(), x=[str(layer) for layer in grid.columns],
            y=list(components),
            coloraxis="coloraxis", customdata=values, xgap=1, ygap=1,
            hovertemplate="%{y}, layer %{x}: %{customdata:.3g}<extra></extra>",
        )  # fmt: skip

    def said(step: int) -> str:
        return f"step {step}" + (f", {accuracy[step]:.0%} right" if step in accuracy else "")

    frames = [go.Frame(data=[heat(step)], name=str(step)) for step in steps]
    figure = go.Figure(data=[heat(steps[0])], frames=frames)
    at_once: dict[str, Any] = {
        "mode": "immediate",
        "frame": {"duration": 0, "redraw": True},
        "transition": {"duration": 0},
    }
    play = {**at_once, "frame": {"duration": 500, "redraw": True}, "fromcurrent": True}
    slider = {
        "active": 0, "currentvalue": {"prefix": ""}, "pad": {"t": 50},
        "steps": [{"label": said(step), "method": "animate", "args": [[str(step)], at_once]} for step in steps],
    }  # fmt: skip
    buttons = [
        {"label": "play", "method": "animate", "args": [None, play]},
        {"label": "stop", "method": "animate", "args": [[None], at_once]},
    ]
    figure.update_xaxes(title_text="layer", type="category")
    figure.update_yaxes(title_text="component", autorange="reversed")
    figure.update_layout(
        coloraxis=scale.axis(maps[quantity].astype(float).tolist()), sliders=[slider],
        updatemenus=[{"type": "buttons", "direction": "left", "x": 0, "y": 1.02, "yanchor": "bottom",
                      "buttons": buttons}],
    )  # fmt: skip
    drawn = styled(figure, title, 480)
    drawn.update_layout(margin={"b": 140, "t": 130})
    return drawn


def answer_lines(answers: pd.DataFrame, title: str) -> go.Figure:
    """Answer accuracy and loss over steps: a colour for each concept, dashes for its reference.

    Args:
        answers: a row for each `step`, `concept` and `side`, with `accuracy` and `loss`.
        title: what is plotted.
    """
    figure = make_subplots(rows=1, cols=2, horizontal_spacing=0.1)
    for place, name in enumerate(dict.fromkeys(answers["concept"])):
        for side, dash in (("target", "solid"), ("reference", "dot")):
            mine = answers[(answers["concept"] == name) & (answers["side"] == side)]
            for column, measure in enumerate(("accuracy", "loss"), start=1):
                line = go.Scatter(
                    x=mine["step"], y=mine[measure], name=f"{name}, {side}", legendgroup=f"{name} {side}",
                    showlegend=column == 1, mode="lines+markers",
                    line={"color": COLOURS[place % len(COLOURS)], "dash": dash},
                )  # fmt: skip
                figure.add_trace(line, 1, column)
    figure.update_xaxes(title_text="step")
    figure.update_yaxes(title_text="answer accuracy (share of tokens)", range=[0, 1.03], row=1, col=1)
    figure.update_yaxes(title_text="answer loss (nats a token)", rangemode="tozero", row=1, col=2)
    return styled(figure, title, 400)


def layer_shares(shares: pd.DataFrame, formed: int, title: str) -> go.Figure:
    """Which share of something lies in each layer, over the steps: a panel for each arm, a line for each layer.

    Args:
        shares: a row for each run: `arm`, `step`, `layer`, `share`.
        formed: the step from which on arms differ, which is marked.
        title: what is plotted.
    """
    arms = list(dict.fromkeys(shares["arm"]))
    figure = make_subplots(rows=1, cols=len(arms), subplot_titles=arms, shared_yaxes=True, horizontal_spacing=0.05)
    for column, arm in enumerate(arms, start=1):
        for place, (layer, some) in enumerate(shares[shares["arm"] == arm].groupby("layer")):
            means = some.groupby("step")["share"].agg(["mean", "std"])
            colour = COLOURS[place % len(COLOURS)]
            line = go.Scatter(
                x=means.index, y=means["mean"], name=f"layer {layer}", legendgroup=f"{layer}", showlegend=column == 1,
                mode="lines+markers", line={"color": colour},
                error_y={"type": "data", "array": means["std"], "color": colour},
            )  # fmt: skip
            figure.add_trace(line, 1, column)
        figure.add_vline(
            x=formed, line={"color": CHOSEN_COLOUR, "dash": "dash"}, row=1, col=column,  # pyright: ignore[reportArgumentType]
        )  # fmt: skip
    figure.update_xaxes(title_text="step")
    figure.update_yaxes(title_text="share of the energy of its outputs", rangemode="tozero", col=1)
    return styled(figure, f"{title} (bars: standard deviation over runs; dashed: arms part)", 420)
