"""`X`: the counted positions of an input, row by row, and the example that each row comes from.

The second moment of any set of examples follows without another pass: `S = X^T X` over the set's rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from engram_interp.concepts.batches import AnyBatch, Examples
from engram_interp.models import Adapter, Record
from engram_interp.models.sites import Site
from engram_interp.options import Run
from engram_interp.statistics.moments import AnyMoment
from engram_interp.statistics.passes import batches_of, finite_rows, one_pass
from engram_interp.statistics.sums import moment_of


@dataclass(frozen=True)
class Rows:
    """The rows of one input.

    Attributes:
        X: `[n d]`, as the model computes them, in its precision.
        example: `[n]`, ascending, the number of the example that each row comes from.
        offered: `[example]`, how many positions of each example count. An expert has rows only for those that are sent
            to it.
    """

    X: Float[Tensor, "n d"]
    example: Int[Tensor, "n"]
    offered: Int[Tensor, "example"]

    def moment(self, start: int, stop: int) -> AnyMoment:
        """The moment of the examples from `start` up to, not including, `stop`."""
        first, last = torch.searchsorted(self.example, torch.tensor([start, stop])).tolist()
        return moment_of(self.X[first:last], offered=int(self.offered[start:stop].sum()))


def collect_rows(
    adapter: Adapter,
    sites: Iterable[Site],
    encoded: Mapping[str, Examples],
    run: Run,
) -> dict[str, Rows]:
    """The rows of every input. Examples are numbered from the first group to the last.

    Raises:
        ValueError: if an activation is not finite.
    """
    starts = torch.tensor([0, *(len(examples) for examples in encoded.values())]).cumsum(0)
    offered = torch.zeros(int(starts[-1]), dtype=torch.long)
    pieces: dict[str, list[tuple[Tensor, Tensor]]] = {}

    def begin(batch: AnyBatch) -> Record:
        numbers = starts[batch.groups] + batch.numbers
        offered[numbers] = batch.counts.sum(1)
        example = numbers[:, None].expand_as(batch.counts).flatten()
        return partial(_add, pieces, batch.counts.flatten().nonzero().flatten(), example)

    one_pass(adapter, sites, batches_of(encoded, run), begin)
    # The pieces of an input are dropped once they are joined, so only one input is in memory twice.
    return {name: _joined(pieces.pop(name), offered) for name in list(pieces)}


def _add(
    pieces: dict[str, list[tuple[Tensor, Tensor]]],
    at: Int[Tensor, "n"],
    example: Int[Tensor, "batch_pos"],
    name: str,
    activation: Float[Tensor, "*positions d"],
    routed: Int[Tensor, "m"] | None = None,
) -> None:
    rows, positions = finite_rows(name, activation, at, routed)
    pieces.setdefault(name, []).append((rows, example[positions]))


def _joined(pieces: list[tuple[Tensor, Tensor]], offered: Int[Tensor, "example"]) -> Rows:
    example, order = torch.cat([example for _, example in pieces]).sort(stable=True)
    X = torch.cat([rows for rows, _ in pieces])
    return Rows(X[order.to(X.device)], example, offered)
