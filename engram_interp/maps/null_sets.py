"""What is a target compared with? Sets of examples that have no memory of their own, or another one.

`"resampled"`: random examples of target and reference together, as many as the target has. `"siblings"`: whole
memories, as many as the target consists of, drawn from its own and the reference's together. Without a memory of its
own, the target is one of these sets like any other, so the share of sets that are as far out is an exact p-value.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from engram_interp.concepts.memories import Memories
from engram_interp.statistics.rows import Rows

logger = logging.getLogger("engram_interp")

MIN_DRAWS = 19
"""With fewer sets no p-value is 0.05 or less."""
N_BOOTSTRAPS = 50
"""Enough for a standard deviation, from which intervals are made."""


@dataclass(frozen=True)
class NullSets:
    """The rows of every example, and the sets of examples whose engrams are compared.

    Attributes:
        rows: by input.
        sets: the examples of every set: the target's own, then null sets, then bootstraps, drawn from the target with
            repetition.
        memories: what null sets are made of, if they are whole memories.
        products: see `reliance.set_products`, by key, if gradients were asked for.
    """

    rows: dict[str, Rows]
    sets: list[Int[Tensor, "_"]]
    memories: Memories | None = None
    products: dict[str, Float[Tensor, "set unit 2"]] = field(default_factory=dict)

    @property
    def n_target(self) -> int:
        """How many examples the target has."""
        return len(self.sets[0])

    def growth(self, rows: Rows) -> Tensor:
        """How many positions of an input each set has for each of the target's."""
        offered = torch.stack([rows.offered[some].sum() for some in self.sets]).double()
        return offered / offered[0]


def random_sets(n_target: int, n_examples: int, draws: int, seed: int) -> list[Int[Tensor, "_"]]:
    """The target (the first examples), random sets of the same size, and bootstraps of the target."""
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randperm(n_examples, generator=generator)[:n_target] for _ in range(draws)]
    # Sorted, so that the same examples have the same size to the last bit.
    return [torch.arange(n_target), *(one.sort().values for one in drawn), *_bootstraps(n_target, generator)]


def sibling_sets(memories: Memories, n_target: int, draws: int, seed: int) -> list[Int[Tensor, "_"]]:
    """The target, sets of whole memories, as many as it has, and bootstraps of the target.

    All sets that there are, if they are no more than `draws`, or so many at random.
    """
    every, k = [*memories.target, *memories.siblings], len(memories.target)
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.cat([torch.tensor(every[i]) for i in some]) for some in _chosen(len(every), k, draws, generator)]
    return [torch.arange(n_target), *(one.sort().values for one in drawn), *_bootstraps(n_target, generator)]


def _chosen(n: int, k: int, draws: int, generator: torch.Generator) -> list[tuple[int, ...]]:
    """Different sets of `k` of `n` numbers, but for the first `k`."""
    first = tuple(range(k))
    if math.comb(n, k) <= draws + 1:
        return [some for some in itertools.combinations(range(n), k) if some != first]
    found: dict[tuple[int, ...], None] = {}
    while len(found) < draws:
        some = tuple(sorted(torch.randperm(n, generator=generator)[:k].tolist()))
        if some != first:
            found[some] = None
    return list(found)


def _bootstraps(n_target: int, generator: torch.Generator) -> list[Int[Tensor, "_"]]:
    drawn = torch.randint(n_target, (N_BOOTSTRAPS, n_target), generator=generator)
    return list(drawn.sort(dim=1).values)


def memories_in(memories: Memories, sets: Sequence[Int[Tensor, "_"]]) -> Float[Tensor, "set memory"]:
    """Which memories the target and the null sets consist of: 1 for each that is in a set."""
    first = torch.tensor([some[0] for some in (*memories.target, *memories.siblings)])
    return torch.stack([torch.isin(first, some) for some in sets[:-N_BOOTSTRAPS]]).double()


def rows_of_sets(rows: Rows, sets: Sequence[Int[Tensor, "_"]]) -> Int[Tensor, "set n"]:
    """The places of every set's rows, padded with `len(rows.X)`, the place of a row of zeros."""
    starts = torch.searchsorted(rows.example, torch.arange(len(rows.offered) + 1))
    places = [_ranges(starts[some], starts[some + 1]) for some in sets]
    return pad_sequence(places, batch_first=True, padding_value=len(rows.X))


def _ranges(starts: Int[Tensor, "m"], ends: Int[Tensor, "m"]) -> Int[Tensor, "n"]:
    """All whole numbers from each start up to, not including, its end."""
    lengths = ends - starts
    return torch.arange(int(lengths.sum())) + (starts - lengths.cumsum(0) + lengths).repeat_interleave(lengths)


def warn_of_few_sets(n_sets: int, what: str) -> None:
    """Warn if no p-value can be 0.05 or less.

    Args:
        n_sets: how many different sets there are, the target among them.
        what: what they are drawn from.
    """
    if n_sets < MIN_DRAWS + 1:
        logger.warning(
            "there are only %d sets of %s, so no p-value is below about %.2g: give more reference examples",
            n_sets, what, 1 / n_sets,
        )  # fmt: skip
