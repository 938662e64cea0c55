"""How large is an engram? `|W+| / |W|` in two metrics, and its ratio to what a target with nothing of its own gives.

The metrics are `|W|_F` (W-Norm; paper, Section 7) and `|W S^1/2|_F` (Fisher share; paper, Eq. 10): see `linalg/norms`.
With `S+ = (n/N) S` a target has the same share of every direction, and its engram is `(n/N) dW Pi`.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from engram_interp.engrams.parts import Part
from engram_interp.linalg.engram import engram_steps
from engram_interp.linalg.gram import compact
from engram_interp.linalg.norms import frobenius_norms, output_norms, share

logger = logging.getLogger("engram_interp")

Sizes: TypeAlias = dict[str, Tensor]
"""The numbers of a matrix, then of its heads, `[unit]`, by the map's columns."""


@dataclass(frozen=True)
class Metric:
    """One way to measure a matrix.

    Attributes:
        name: the column of the engram's size, as a share of the matrix's.
        whole: the column of the matrix's own size.
        title: how figures call it.
        prefix: what the metric's other columns begin with.
    """

    name: str
    whole: str
    title: str
    prefix: str = ""

    def column(self, kind: str) -> str:
        """The column of what this metric says, by its kind: see `KINDS`."""
        return self.name if kind == "size" else f"{self.prefix}{kind}"

    def norms(self, part: Part, matrix: Float[Tensor, "out d"]) -> Float[Tensor, "unit"]:
        """The size of a matrix of this shape, then of each of its heads."""
        if self is WNORM:
            return frobenius_norms(part.weight(matrix), part.heads)
        return output_norms(matrix, part.data.total.moment, part.heads, part.data.absorbed)


WNORM = Metric("wnorm", "weight_norm", "W-Norm")
FISHER = Metric("fisher", "output_norm", "Fisher share", "fisher_")
METRICS = (WNORM, FISHER)
"""The norms of engrams."""
GAIN = Metric("gain", "", "Gain", "gain_")
OBLIQUE = Metric("oblique_gain", "", "Gain of P+", "oblique_gain_")
SCORE = Metric("score", "", "Score", "score_")
RELIANCE = Metric("reliance", "", "Reliance", "reliance_")
STANDARDISED = (SCORE, RELIANCE)
"""Numbers in standard deviations of sets."""
RELATIVE = (GAIN, OBLIQUE, *STANDARDISED)
"""What sets of examples tell of a matrix: see `set_norms`, `scores` and `reliance`."""

Norms: TypeAlias = dict[Metric, Tensor]
"""The norms of a matrix, then of its heads, `[unit]`, by metric."""


@dataclass(frozen=True)
class Quantity:
    """A column of a map.

    Attributes:
        metric: how it is measured.
        kind: what it is; see `KINDS`.
    """

    metric: Metric
    kind: str

    @property
    def column(self) -> str:
        """Its name in the table."""
        return self.metric.column(self.kind)

    def beside(self, kind: str) -> str:
        """The column of another kind in the same metric."""
        return self.metric.column(kind)


KINDS = ("size", "expected", "null_low", "null_high", "excess", "p_value", "low", "high")
MAP_QUANTITIES = {metric.column(kind): Quantity(metric, kind) for metric in (*METRICS, *RELATIVE) for kind in KINDS}
"""What a map may hold, by column."""


def sizes_of(part: Part, target_share: float) -> Sizes:
    """What a map holds of a matrix and its heads: sizes in either metric, against the analytic null.

    The excess is NaN if the filter takes nothing from a target that owns nothing of its own, as `filters.hard` does:
    there is nothing to compare with. A resampled null still compares.

    Args:
        part: the matrix and its engram.
        target_share: `n/N`, the target's share of the positions that count.
    """
    part = _compacted(part)
    wholes = {metric: metric.norms(part, part.W) for metric in METRICS}
    engram, null = _engram_norms(part), _null_norms(part, target_share, wholes)
    sizes: Sizes = {}
    for metric in METRICS:
        size, whole, expected = engram[metric], wholes[metric], null[metric]
        sizes[metric.whole] = whole
        sizes[metric.name] = share(size, whole)
        sizes[metric.column("expected")] = share(expected, whole)
        sizes[metric.column("excess")] = share(size, expected).where((expected > 0) | (size == 0), torch.nan)
    return {name: values.cpu() for name, values in sizes.items()}


def _compacted(part: Part) -> Part:
    """A matrix of the same sizes with no more rows than columns; heads that are rows stay as they are."""
    if part.heads is not None:
        return part
    W = compact(part.W)
    return replace(part, W=W, dW=W if part.dW is part.W else compact(part.dW))


def _engram_norms(part: Part) -> Norms:
    """The sizes of the engram. `|W+ S^1/2|_F` is that of `dW S+ S^(-1/2)`, which is on the way to `W+`."""
    data, heads = part.data, part.heads
    if not data.is_paper:
        return {metric: metric.norms(part, part.W_plus) for metric in METRICS}
    whitened, W_plus = engram_steps(part.dW, data.target, data.solution)
    by_columns = heads is not None and heads.along == "columns"
    fisher = FISHER.norms(part, W_plus) if by_columns else frobenius_norms(whitened, heads)
    return {WNORM: WNORM.norms(part, W_plus), FISHER: fisher}


def _null_norms(part: Part, target_share: float, wholes: Norms) -> Norms:
    """The sizes of `(n/N) dW Pi`: of `dW` itself, times `n/N`, where no direction is dropped."""
    data = part.data
    if data.is_paper and part.dW is part.W and data.solution.rank == data.width:
        return {metric: target_share * whole for metric, whole in wholes.items()}
    null = data.null(part.dW, target_share, data.solve.filter)
    return {metric: metric.norms(part, null) for metric in METRICS}
