"""Which method finds planted memories? AUROC, first place, detection and false alarms, a point for each target."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from engram_interp.figures.figure import Figure
from engram_interp.figures.style import MATRIX_COLOUR, TARGET_COLOUR, styled

PANELS = {
    "auroc": "AUROC of the matrices that hold it",
    "first": "first matrix holds it",
    "detected": "significant, of those that hold it",
    "false_alarms": "significant, of all others",
}


def leaderboard_figure(planted: pd.DataFrame, title: str) -> Figure:
    """A panel for each measure, a row for each method: a point for each target, and a bar at their mean.

    Args:
        planted: a row for each method and planted memory, with `method`, `target_set` and the measures.
        title: what is plotted.
    """
    methods = list(planted["method"].unique())
    figure = make_subplots(
        rows=1, cols=len(PANELS), shared_yaxes=True, horizontal_spacing=0.02, subplot_titles=list(PANELS.values())
    )
    of_target = planted.groupby(["method", "target_set"])[list(PANELS)].mean().reset_index()
    means = of_target.groupby("method")[list(PANELS)].mean().loc[methods]
    for column, measure in enumerate(PANELS, start=1):
        named = column == 1
        figure.add_trace(
            go.Scatter(
                x=of_target[measure], y=of_target["method"], mode="markers", name="one target", showlegend=named,
                marker={"color": MATRIX_COLOUR, "size": 6, "opacity": 0.6},
            ), 1, column,
        )  # fmt: skip
        figure.add_trace(
            go.Scatter(
                x=means[measure], y=methods, mode="markers", name="mean of targets", showlegend=named,
                marker={"color": TARGET_COLOUR, "size": 12, "symbol": "line-ns-open", "line": {"width": 3}},
            ), 1, column,
        )  # fmt: skip
        figure.update_xaxes(title_text="share" if column > 1 else "AUROC", range=[-0.03, 1.03], row=1, col=column)
    figure.update_annotations(font_size=12)
    figure.update_yaxes(autorange="reversed", categoryorder="array", categoryarray=methods)
    return styled(figure, title, 160 + 24 * len(methods))
