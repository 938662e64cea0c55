"""What does an edit do? Answers against its strength, by criterion, and by which part of an engram is ablated.

Target and reference have the same colours in every figure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from engram_interp.figures.style import CHOSEN_COLOUR, MATRIX_COLOUR, REFERENCE_COLOUR, SIDE_COLOURS, styled

GAP = 75
"""Pixels between two rows of panels."""
STRENGTH_LINES = {
    "target": ("target", SIDE_COLOURS["target"], "solid"),
    "check": ("reference, held out", REFERENCE_COLOUR, "solid"),
    "reference": ("reference, fitted", REFERENCE_COLOUR, "dash"),
}
"""What a strength is judged by: its name in the legend, its colour and its dashes."""
LOSSES = [f"{side}_loss" for side in STRENGTH_LINES]


def alpha_curve(points: pd.DataFrame, alpha: float, floor: float, title: str) -> go.Figure:
    """Answer accuracy and loss against the strength of the edit, and the strength chosen.

    Args:
        points: a row for each strength: `alpha`, and `accuracy` and `loss` after `target_`, `check_` (what the
            projector has not seen) and `reference_` (what it was fitted to).
        alpha: the strength chosen.
        floor: the least accuracy allowed of what it has not seen.
        title: what is plotted.
    """
    figure = make_subplots(rows=1, cols=2, horizontal_spacing=0.1)
    for side, (name, colour, dash) in STRENGTH_LINES.items():
        for column, measure in enumerate(("accuracy", "loss"), start=1):
            line = go.Scatter(
                x=points["alpha"], y=points[f"{side}_{measure}"], name=name, legendgroup=side, showlegend=column == 1,
                mode="lines+markers", line={"color": colour, "dash": dash},
            )  # fmt: skip
            figure.add_trace(line, 1, column)
    least = go.Scatter(
        x=[0, max(points["alpha"].tolist())], y=[floor, floor], name="least held-out accuracy allowed",
        mode="lines", line={"color": CHOSEN_COLOUR, "dash": "dot"},
    )  # fmt: skip
    figure.add_trace(least, 1, 1)
    for column, top in ((1, 1.0), (2, float(points[LOSSES].to_numpy().max()))):
        chosen = go.Scatter(
            x=[alpha, alpha], y=[0, top], name=f"chosen: alpha = {alpha:.3g}", legendgroup="chosen", mode="lines",
            showlegend=column == 1, line={"color": CHOSEN_COLOUR, "dash": "dash"},
        )  # fmt: skip
        figure.add_trace(chosen, 1, column)
    figure.update_xaxes(title_text="edit strength alpha", rangemode="tozero")
    figure.update_yaxes(title_text="answer accuracy (share of tokens)", range=[0, 1.03], row=1, col=1)
    figure.update_yaxes(title_text="answer loss (nats a token)", rangemode="tozero", row=1, col=2)
    return styled(figure, title, 400)


def criteria_panels(
    matrices: pd.DataFrame, missed: Mapping[str, float], behaviour: pd.DataFrame, title: str
) -> go.Figure:
    """By how much every matrix, and the whole edit, misses each criterion, and the answers of the model in each state.

    Args:
        matrices: a row for each matrix: `key`, `component`, and a column for each criterion.
        missed: by how much the answers miss each criterion.
        behaviour: a row for each state, with `target_accuracy` and `reference_accuracy`.
        title: what is plotted.
    """
    figure = make_subplots(
        rows=1, cols=2, horizontal_spacing=0.12, column_widths=[0.5, 0.5],
        subplot_titles=["By how much each criterion is missed (0: met)", "What is answered"],
    )  # fmt: skip
    for index, name in enumerate(missed):
        figure.add_trace(_box_of_matrices(matrices, name, showlegend=index == 0), 1, 1)
    edit = go.Scatter(
        x=list(missed), y=list(missed.values()), mode="markers+text", name="the edit, of the answers",
        marker={"color": CHOSEN_COLOUR, "size": 12, "symbol": "diamond"}, texttemplate="%{y:.0%}",
        textposition="middle right",
    )  # fmt: skip
    figure.add_trace(edit, 1, 1)
    for side, colour in SIDE_COLOURS.items():
        answers = go.Bar(
            x=list(behaviour.index), y=behaviour[f"{side}_accuracy"], name=side, marker={"color": colour},
            texttemplate="%{y:.0%}", textposition="outside",
        )  # fmt: skip
        figure.add_trace(answers, 1, 2)
    figure.update_yaxes(title_text="share missed", rangemode="tozero", row=1, col=1)
    figure.update_yaxes(title_text="answer accuracy (share of tokens)", range=[0, 1.12], row=1, col=2)
    figure.update_xaxes(title_text="criterion", row=1, col=1)
    figure.update_xaxes(title_text="state of the model", row=1, col=2)
    return styled(figure, title, 430).update_layout(barmode="group")


def _box_of_matrices(matrices: pd.DataFrame, criterion: str, showlegend: bool) -> go.Box:
    return go.Box(
        y=matrices[criterion], x=[criterion] * len(matrices), text=matrices["key"], boxpoints="all", pointpos=0,
        jitter=0.6, marker={"color": MATRIX_COLOUR, "size": 4}, line={"color": MATRIX_COLOUR, "width": 1},
        fillcolor="rgba(0,0,0,0)", name="matrices, of their output", showlegend=showlegend,
        hovertemplate="%{text}: %{y:.3~g}<extra></extra>",
    )  # fmt: skip


def ablation_panels(table: pd.DataFrame, unedited: str, title: str) -> go.Figure:
    """A panel for each score: the value of every subset with its interval. A dashed line shows the unedited model.

    Args:
        table: a row for each subset and score: `subset`, `score`, `value`, `low` and `high`.
        unedited: what `subset` says in the rows of the unedited model.
        title: what is plotted.
    """
    scores, subsets = list(table["score"].unique()), [name for name in table["subset"].unique() if name != unedited]
    columns = min(len(scores), 2)
    rows = math.ceil(len(scores) / columns)
    height = rows * max(28 * len(subsets), 80) + (rows - 1) * GAP
    figure = make_subplots(
        rows=rows, cols=columns, subplot_titles=scores, shared_yaxes=True, horizontal_spacing=0.06,
        vertical_spacing=GAP / height if rows > 1 else 0,
    )  # fmt: skip
    for index, score in enumerate(scores):
        row, column = index // columns + 1, index % columns + 1
        values = table[table["score"] == score].set_index("subset")
        figure.add_trace(_intervals(values.loc[subsets], subsets, _colour_of(score)), row, column)
        place: dict[str, Any] = {"row": row, "col": column}
        before = float(values.at[unedited, "value"])
        figure.add_vline(x=before, line={"color": CHOSEN_COLOUR, "dash": "dash"}, **place)
        reach = [0, 1.03] if "accuracy" in score else None
        what = "mean over examples" if row == rows else None
        figure.update_xaxes(title_text=what, range=reach, rangemode="tozero", **place)
        figure.update_yaxes(autorange="reversed", title_text="ablated" if column == 1 else None, **place)
    return styled(figure, f"{title} (dashed: {unedited})", height + 140)


def _colour_of(score: str) -> str:
    """The colour of the side that a score is about."""
    return next((colour for side, colour in SIDE_COLOURS.items() if score.startswith(side)), MATRIX_COLOUR)


def _intervals(shown: pd.DataFrame, subsets: Sequence[str], colour: str) -> go.Scatter:
    ends = {"array": shown["high"] - shown["value"], "arrayminus": shown["value"] - shown["low"]}
    return go.Scatter(
        x=shown["value"], y=subsets, mode="markers", marker={"color": colour, "size": 9}, showlegend=False,
        error_x={"type": "data", "symmetric": False, "color": colour, **ends},
        hovertemplate="%{y}: %{x:.4~g}<extra></extra>",
    )  # fmt: skip
