"""How does an engram depend on the cut? The spectra of `S` and of `M`, and what a soft projector is under every cut."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float
from plotly.subplots import make_subplots
from torch import Tensor

from engram_interp.figures.style import CHOSEN_COLOUR, MATRIX_COLOUR, REFERENCE_COLOUR, TARGET_COLOUR, styled

RANK_COLOUR = "#3a7d44"
DASHED = {"color": CHOSEN_COLOUR, "dash": "dash"}
DIMENSIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "rank": ("dimensions kept", {"color": MATRIX_COLOUR}),
    "owned": ("dimensions owned, tr P", {"color": TARGET_COLOUR}),
    "effective_rank": ("effective rank", {"color": RANK_COLOUR}),
}
"""The columns in the panel of dimensions, with their name and line."""
SHAPE: dict[str, tuple[str, dict[str, Any]]] = {
    "target_passes": ("target's energy that passes", {"color": TARGET_COLOUR}),
    "reference_passes": ("reference's energy that passes", {"color": REFERENCE_COLOUR}),
    "idempotence_defect": ("idempotence defect", {"color": MATRIX_COLOUR, "dash": "dot"}),
    "obliqueness": ("obliqueness", {"color": MATRIX_COLOUR, "dash": "dash"}),
}
"""The columns in the panel of what `P+` lets pass."""


def diagnosis_panels(
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
        shares: what the target owns of each kept direction, ascending.
        target_share: what a target without a direction of its own would own of each.
        rtol: the cut in use.
        cuts: a row for each cut: `rtol` and what `engram_interp.linalg.projectors.at_cuts` finds.
        wnorms: the W-Norm of a matrix, a row for each cut; None if the figure is about an input.
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
    _draw_spectra(figure, eigenvalues, shares, target_share)
    for name, (label, line) in DIMENSIONS.items():
        _by_cut(figure, cuts, name, label, line, 1)
    for name, (label, line) in SHAPE.items():
        _by_cut(figure, cuts, name, label, line, 2)
    if wnorms is not None:
        _by_cut(figure, wnorms, "wnorm", "W-Norm", {"color": CHOSEN_COLOUR, "width": 3}, 2)
    _mark_cut(figure, rtol, cuts, len(eigenvalues) - len(shares))
    figure.update_xaxes(title_text="direction, by size", row=1)
    figure.update_yaxes(title_text="share of the largest", type="log", exponentformat="power", row=1, col=1)
    figure.update_yaxes(title_text="share owned", rangemode="tozero", row=1, col=2)
    figure.update_yaxes(title_text="dimensions", type="log", dtick=1, row=2, col=1)
    figure.update_yaxes(title_text="share, or ratio", type="log", dtick=1, exponentformat="power", row=2, col=2)
    return styled(figure, title, 720)


def _draw_spectra(
    figure: go.Figure, eigenvalues: Float[Tensor, "r"], shares: Float[Tensor, "k"], target_share: float
) -> None:
    relative = (eigenvalues / eigenvalues[-1:]).flip(0)
    figure.add_trace(_spectrum(relative, MATRIX_COLOUR, "λ / λ max"), 1, 1)
    figure.add_trace(_spectrum(shares.flip(0), TARGET_COLOUR, "share"), 1, 2)
    chance = f"n/N = {target_share:.3g}: a target with nothing of its own"
    dots = {"color": CHOSEN_COLOUR, "dash": "dot"}
    ends = [1, max(len(shares), 1)]
    figure.add_trace(go.Scatter(x=ends, y=[target_share] * 2, mode="lines", line=dots, name=chance), 1, 2)


def _spectrum(values: Float[Tensor, "n"], colour: str, name: str) -> go.Scatter:
    ranks = list(range(1, len(values) + 1))
    return go.Scatter(x=ranks, y=values.tolist(), mode="lines", line={"color": colour}, showlegend=False, name=name)


def _by_cut(figure: go.Figure, rows: pd.DataFrame, name: str, label: str, line: dict[str, Any], column: int) -> None:
    points = go.Scatter(x=rows["rtol"], y=rows[name], name=label, mode="lines+markers", line=line, marker={"size": 4})
    figure.add_trace(points, 2, column)


def _mark_cut(figure: go.Figure, rtol: float, cuts: pd.DataFrame, n_dropped: int) -> None:
    """Draws the cut in use into the panels that have it on an axis."""
    shown = [math.log10(end) for end in (cuts["rtol"].min() / 2, cuts["rtol"].max() * 2)]
    for column in (1, 2):
        place: dict[str, Any] = {"row": 2, "col": column}
        figure.add_vline(x=rtol, line=DASHED, **place)
        figure.update_xaxes(
            title_text="rtol (dashed: in use)", type="log", range=shown, exponentformat="power", **place
        )
    first: dict[str, Any] = {"row": 1, "col": 1}
    figure.add_hline(y=rtol, line=DASHED, annotation_text=f"cut: {n_dropped} dropped", **first)
