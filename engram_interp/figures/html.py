"""How does a figure get into a page? As HTML that needs no other file and no network."""

from __future__ import annotations

import plotly.graph_objects as go


def to_html(figure: go.Figure, index: int) -> str:
    """A figure as part of a page. A film waits until somebody plays it.

    Args:
        figure: the figure.
        index: its place among the figures of the page. The first one, 0, brings plotly's script.
    """
    options = {"displaylogo": False}
    return figure.to_html(
        full_html=False, include_plotlyjs=index == 0, div_id=f"figure-{index}", config=options, auto_play=False
    )
