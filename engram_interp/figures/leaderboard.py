"""Which method finds planted memories, and where? AUROC, first place, detection and false alarms of each target."""

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


def leaderboard_figure(planted: pd.DataFrame, title: str, of: str = "method") -> Figure:
    """A panel for each measure, a row for each method or place: a point for each target, and a bar at their mean.

    Args:
        planted: a row for each method and planted memory, with `method`, `place`, `target_set` and the measures.
        title: what is plotted.
        of: the column that rows are of.
    """
    names = list(planted[of].unique())
    figure = make_subplots(
        rows=1, cols=len(PANELS), shared_yaxes=True, horizontal_spacing=0.02, subplot_titles=list(PANELS.values())
    )
    of_target = planted.groupby([of, "target_set"])[list(PANELS)].mean().reset_index()
    means = of_target.groupby(of)[list(PANELS)].mean().loc[names]
    for column, measure in enumerate(PANELS, start=1):
        named = column == 1
        figure.add_trace(
            go.Scatter(
                x=of_target[measure], y=of_target[of], mode="markers", name="one target", showlegend=named,
                marker={"color": MATRIX_COLOUR, "size": 6, "opacity": 0.6},
            ), 1, column,
        )  # fmt: skip
        figure.add_trace(
            go.Scatter(
                x=means[measure], y=names, mode="markers", name="mean of targets", showlegend=named,
                marker={"color": TARGET_COLOUR, "size": 12, "symbol": "line-ns-open", "line": {"width": 3}},
            ), 1, column,
        )  # fmt: skip
        figure.update_xaxes(title_text="share" if column > 1 else "AUROC", range=[-0.03, 1.03], row=1, col=column)
    figure.update_annotations(font_size=12)
    figure.update_yaxes(autorange="reversed", categoryorder="array", categoryarray=names)
    return styled(figure, title, 160 + 24 * len(names))
