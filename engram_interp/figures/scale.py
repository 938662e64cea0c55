"""What do the colours of a map mean? A share has a sequential scale from 0, a ratio a diverging one around 1.

A difference has a diverging one around 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from textwrap import wrap

import torch
from jaxtyping import Float
from torch import Tensor

SHARE_SCALE = "Viridis"
RATIO_SCALE = "RdBu_r"
LEAST_RATIO = 2.0**-6
"""Smaller ratios have the colour of this one."""
TITLE_WIDTH = 18
"""Letters in a line of a colour bar's title, which is otherwise wider than its place."""


@dataclass(frozen=True)
class Scale:
    """What the colours of a map mean.

    Attributes:
        title: what is drawn.
        ratio: whether this is a ratio. Its colours show the logarithm, around 1; those of a share begin at 0.
        signed: whether this is a difference, whose colours lie around 0.
    """

    title: str
    ratio: bool = False
    signed: bool = False

    def colours(self, values: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """What the colour axis measures."""
        return values.clamp(min=LEAST_RATIO).log2() if self.ratio else values

    def axis(self, values: Iterable[float]) -> dict[str, object]:
        """Plotly's colour axis for these values."""
        known = torch.tensor([value for value in values if math.isfinite(value)] or [0.0])
        # The empty line keeps the title off the uppermost number.
        bar: dict[str, object] = {"title": {"text": "<br>".join([*wrap(self.title, TITLE_WIDTH), " "])}}
        if self.signed:
            reach = float(known.abs().max()) or 1.0
            return {"colorscale": RATIO_SCALE, "cmin": -reach, "cmax": reach, "colorbar": bar}
        if not self.ratio:
            return {"colorscale": SHARE_SCALE, "cmin": 0, "cmax": float(known.max()), "colorbar": bar}
        reach = float(self.colours(known).abs().max()) or 1.0
        ticks = torch.linspace(-reach, reach, 5)
        bar |= {"tickvals": ticks.tolist(), "ticktext": [f"{value:.3g}" for value in ticks.exp2().tolist()]}
        return {"colorscale": RATIO_SCALE, "cmin": -reach, "cmax": reach, "colorbar": bar}
