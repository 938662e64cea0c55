"""Which colour has a number on a scale, as text that a page understands? The same as in the figures."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import torch
from plotly.colors import sample_colorscale, unlabel_rgb

from engram_interp.figures.scale import Scale

N_TICKS, N_COLOURS = 5, 256


class Colours:
    """The colours of a scale, for all numbers that are shown together.

    Args:
        scale: what the numbers are.
        values: all of them; NaN is no number.
    """

    def __init__(self, scale: Scale, values: Iterable[float]) -> None:
        known = [value for value in values if math.isfinite(value)]
        self._scale, self._axis = scale, scale.axis(known)

    def of(self, values: Sequence[float]) -> list[str | None]:
        """`rgb(...)` for each number; None for NaN."""
        measured = self._scale.colours(torch.tensor(list(values), dtype=torch.float64)).tolist()
        return [None if math.isnan(value) else self._at(value) for value in measured]

    def legend(self) -> list[tuple[str, str]]:
        """Numbers along the scale, from its least to its greatest, with their colours."""
        low, high = self._ends
        places = [low + (high - low) * i / (N_TICKS - 1) for i in range(N_TICKS)]
        return [(f"{2.0**place if self._scale.ratio else place:.3g}", self._at(place)) for place in places]

    @property
    def _ends(self) -> tuple[float, float]:
        axis: dict[str, Any] = self._axis
        return float(axis["cmin"]), float(axis["cmax"])

    def _at(self, place: float) -> str:
        low, high = self._ends
        share = (place - low) / (high - low) if high > low else 0.0
        return self._table[round(min(max(share, 0.0), 1.0) * N_COLOURS)]

    @cached_property
    def _table(self) -> list[str]:
        """The colours along the scale: to look one up is faster than to mix it."""
        shares = [i / N_COLOURS for i in range(N_COLOURS + 1)]
        return [str(one) for one in sample_colorscale(str(self._axis["colorscale"]), shares)]


def takes_dark_text(colour: str) -> bool:
    """Whether dark text is easier to read on a colour than light text.

    Example:
        >>> takes_dark_text("rgb(255, 255, 0)"), takes_dark_text("rgb(0, 0, 90)")
        (True, False)
    """
    shares = [c / 255 for c in unlabel_rgb(colour)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in shares)
    # Where black and white stand out alike from a colour of this luminance (WCAG 2).
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.179
