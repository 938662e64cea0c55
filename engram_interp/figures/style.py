"""What do all figures have in common? Their colours, and their title, margins and legend."""

from __future__ import annotations

import math
import textwrap

import plotly.graph_objects as go

from engram_interp.figures.figure import Figure

TARGET_COLOUR = "#d1495b"
REFERENCE_COLOUR = "#2e6f95"
SIDE_COLOURS = {"target": TARGET_COLOUR, "reference": REFERENCE_COLOUR}
CHOSEN_COLOUR = "#444444"
MATRIX_COLOUR = "#6b7a8f"
TEMPLATE = "plotly_white"
TITLE_WIDTH = 105
"""Letters in a line of a title. A figure of 1000 pixels has room for them."""


def styled(figure: go.Figure, title: str, height: int) -> Figure:
    """A figure with its title, and with room for its title and its legend.

    Args:
        figure: what is drawn.
        title: it may be long; it is broken into lines.
        height: in pixels, without the legend.
    """
    lines = textwrap.wrap(title, TITLE_WIDTH, break_long_words=False) or [""]
    # A legend below the panels leaves them the whole width of the page.
    below = _legend_height(figure)
    drawn = Figure(figure)
    drawn.update_layout(
        title={"text": "<br>".join(lines), "font": {"size": 16}}, template=TEMPLATE, height=height + below,
        margin={"t": 60 + 22 * len(lines), "b": 50 + below},
        legend={"orientation": "h", "yref": "container", "y": 0.01, "yanchor": "bottom", "x": 0},
    )  # fmt: skip
    return drawn


def _legend_height(figure: go.Figure) -> int:
    names = {trace.name for trace in figure.data if trace.name and trace.showlegend is not False}
    return 60 + 22 * math.ceil(len(names) / 3) if len(names) > 1 else 0
