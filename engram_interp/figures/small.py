"""What does a result look like at a glance? Small pictures in SVG for notebooks, without a script.

Plotly's figures (`plot`) say more. These stand beside a table, and take the colour of the text around them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from engram_interp.figures.colours import Colours
from engram_interp.figures.scale import Scale
from engram_interp.figures.style import REFERENCE_COLOUR, SIDE_COLOURS, TARGET_COLOUR

CELL, GAP, LETTER, LINE = 16, 1, 6.2, 13
"""Pixels: of a cell, between cells, of a letter, of a line of text."""
MAX_CELLS = 64
"""A map with more columns gets narrower cells."""
WIDTH, HEIGHT, TOP = 280, 118, 18
"""Pixels of a drawing of lines, and of the room above them."""
COLOURS = (TARGET_COLOUR, REFERENCE_COLOUR, "#e09f3e", "#5a8f4e", "#7a5195")


def cells(
    values: Sequence[Sequence[float]], rows: Sequence[str], columns: Sequence[str], scale: Scale, what: str
) -> str:
    """A map: a coloured cell for each number, and nothing for NaN.

    Args:
        values: a list of numbers for each row.
        rows: their names.
        columns: the names of the columns, shown when the pointer rests on a cell.
        scale: what the numbers are.
        what: what is drawn, for whoever cannot see it.

    Example:
        >>> cells([[0.5, float("nan")]], ["W_Q"], ["layer 0", "layer 1"], Scale("share"), "shares").count("<title>")
        1
    """
    colours = Colours(scale, [one for row in values for one in row])
    side = CELL if len(columns) <= MAX_CELLS else max(2, CELL * MAX_CELLS // len(columns))
    left = LETTER * max(map(len, rows), default=0) + 6
    drawn = []
    for y, (name, row) in enumerate(zip(rows, values, strict=True)):
        drawn.append(_text(left - 4, y * (CELL + GAP) + 12, name, "end"))
        for x, (value, colour) in enumerate(zip(row, colours.of(row), strict=True)):
            if colour is not None:
                place = f'x="{left + x * (side + GAP):g}" y="{y * (CELL + GAP)}" width="{side}" height="{CELL}"'
                said = escape(f"{name}, {columns[x]}: {value:.3g}")
                drawn.append(f'<rect {place} fill="{colour}"><title>{said}</title></rect>')
    legend = colours.legend()
    top = len(rows) * (CELL + GAP) + 4
    for i, (said, colour) in enumerate(legend):
        drawn.append(f'<rect x="{left + i * 60:g}" y="{top}" width="10" height="10" fill="{colour}"/>')
        drawn.append(_text(left + i * 60 + 13, top + 9, said))
    width = left + max(len(columns) * (side + GAP), len(legend) * 60)
    return _svg(width, top + 14, what, drawn)


def bars(values: Mapping[Any, float], what: str, form: str = "{:.3g}") -> str:
    """A bar for each number, from 0.

    Args:
        values: the numbers, by name.
        what: what is drawn, for whoever cannot see it.
        form: how a number is written.

    Example:
        >>> bars({"target": 85.0, "reference": 1720.0}, "tokens").count("<rect")
        2
    """
    values = {str(name): value for name, value in values.items()}
    left = LETTER * max(map(len, values), default=0) + 8
    most = max([abs(one) for one in values.values() if math.isfinite(one)], default=0.0) or 1.0
    drawn = []
    for i, (name, value) in enumerate(values.items()):
        y, long = i * (LINE + 3), 0.0 if math.isnan(value) else 140 * min(abs(value) / most, 1.0)
        colour = SIDE_COLOURS.get(name, COLOURS[1])
        drawn.append(_text(left - 5, y + 11, name, "end"))
        drawn.append(f'<rect x="{left:g}" y="{y + 1}" width="{max(long, 1):.1f}" height="{LINE}" fill="{colour}"/>')
        drawn.append(_text(left + long + 5, y + 11, "-" if math.isnan(value) else form.format(value)))
    return _svg(left + 230, len(values) * (LINE + 3) + 2, what, drawn)


def lines(
    x: Sequence[float | int],
    series: Mapping[str, Sequence[float | int]],
    across: str,
    up: str,
    marked: float | int | None = None,
) -> str:
    """Lines over a common axis, between the smallest and the largest of their numbers.

    Args:
        x: where they are known, in any order.
        series: the numbers of each line, by its name; NaN is left out.
        across: the name of the axis across.
        up: the name of the axis up, with its unit.
        marked: a place across that gets a line of its own.

    Example:
        >>> lines([0, 1], {"target": [1.0, 0.2]}, "alpha", "accuracy").count("<polyline")
        1
    """
    x = [one if math.isfinite(one) else float("nan") for one in x]
    known = [one for values in series.values() for one in values if math.isfinite(one)]
    low, high = min(known, default=0.0), max(known, default=1.0)
    places = [one for one in x if math.isfinite(one)]
    first, last = min(places, default=0.0), max(places, default=1.0)
    left, bottom = 46, HEIGHT - 18

    def across_at(value: float | int) -> float:
        return left + (WIDTH - left - 8) * ((value - first) / (last - first) if last > first else 0.5)

    def up_at(value: float | int) -> float:
        return bottom - (bottom - TOP) * ((value - low) / (high - low) if high > low else 0.5)

    drawn = [f'<path d="M{left} {TOP}V{bottom}H{WIDTH - 4}" fill="none" stroke="currentColor" stroke-opacity="0.4"/>']
    drawn += [
        _text(left - 4, up_at(high) + 4, f"{high:.3g}", "end"),
        _text(left - 4, up_at(low) + 4, f"{low:.3g}", "end"),
    ]
    drawn += [_text(left, HEIGHT - 5, f"{first:.4g}"), _text(WIDTH - 4, HEIGHT - 5, f"{last:.4g}", "end")]
    drawn.append(_text((left + WIDTH) / 2, HEIGHT - 5, across, "middle"))
    if marked is not None:
        drawn.append(
            f'<path d="M{across_at(marked):.1f} {TOP}V{bottom}" stroke="currentColor" stroke-dasharray="3 3"/>'
        )
    for i, (name, values) in enumerate(series.items()):
        colour = SIDE_COLOURS.get(name, COLOURS[i % len(COLOURS)])
        points = sorted((a, b) for a, b in zip(x, values, strict=True) if math.isfinite(a) and math.isfinite(b))
        path = " ".join(f"{across_at(a):.1f},{up_at(b):.1f}" for a, b in points)
        drawn.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        drawn.append(_text(WIDTH + 6, TOP + 10 + i * LINE, name, colour=colour))
    wide = WIDTH + 10 + LETTER * max(map(len, series), default=0)
    return _svg(wide, HEIGHT, f"{up} by {across}", [_text(left, 11, up), *drawn])


def _text(x: float | int, y: float | int, text: str, anchor: str = "start", colour: str = "currentColor") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{escape(text)}</text>'


def _svg(width: float | int, height: float | int, what: str, drawn: Sequence[str]) -> str:
    size = f'width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}"'
    style = 'style="max-width: 100%; font: 11px sans-serif"'
    return f'<svg {size} {style} role="img" aria-label="{escape(what, quote=True)}">{"".join(drawn)}</svg>'
