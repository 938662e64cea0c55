"""Is the map settled? The 95 % interval of W-Norms over bootstraps of the examples read so far tells.

Examples of each side are dealt into blocks, of which the sums are kept for some inputs. A bootstrap draws as many
blocks as there are, with repetition: `S+* = sum w_b S+_b`, and `S-*` likewise. Sides that have been read to their end
are as they are, since further reading changes nothing about them. Checks come at set numbers of batches, so that the
same call ends at the same one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from engram_interp.concepts.batches import AnyBatch, Examples, TokenStream
from engram_interp.concepts.concept import TARGET
from engram_interp.concepts.data import Data
from engram_interp.linalg.engram import engram_matrix
from engram_interp.linalg.gram import compact
from engram_interp.linalg.second_moment import SecondMoment
from engram_interp.linalg.total import Total
from engram_interp.models import Adapter, Record
from engram_interp.models.sites import Input, Site, by_input
from engram_interp.statistics.planning.sizes import moment_bytes
from engram_interp.statistics.summing import Summing
from engram_interp.statistics.sums import AnySum, restored

logger = logging.getLogger("engram_interp")

N_BLOCKS = 8
N_DRAWS = 24
"""Enough for a standard deviation, from which the interval is made."""
MOST_INPUTS = 8
MOST_BYTES = 10**9
"""The sums of blocks are kept for so many inputs, evenly spaced, and for no more bytes."""
FIRST_CHECK, GROWTH = 16, 1.5
"""The first check comes after so many batches, and each further one after so many times as many."""


class Watch:
    """The sums of blocks of examples, and the interval that they give.

    Args:
        adapter: the model.
        sites: the matrices.
        encoded: examples by group.
        until: how wide intervals may be.
        sums: by input, block and group, as far as there are any.
        so_far: how many batches they hold.
    """

    def __init__(
        self,
        adapter: Adapter,
        sites: Sequence[Site],
        encoded: Mapping[str, Examples],
        until: float,
        sums: Mapping[str, dict[str, AnySum]] | None = None,
        so_far: int = 0,
    ) -> None:
        self._adapter, self._until = adapter, until
        names = _watched(adapter.widths(by_input(sites)), len(encoded))
        self._sites = [site for site in sites if site.input in names]
        self._blocks = [Summing(self._sites, dict.fromkeys(encoded)) for _ in range(N_BLOCKS)]
        for key, by_group in (sums or {}).items():
            name, _, block = key.rpartition("#")
            self._blocks[int(block)].sums[name] = by_group
        self._left = {group: _known_length(examples) for group, examples in encoded.items()}
        self._came: dict[str, bool] = dict.fromkeys(encoded, True)
        self._next = FIRST_CHECK
        while self._next <= so_far:
            self._next = _later(self._next)

    @property
    def sums(self) -> dict[str, dict[str, AnySum]]:
        """The sums by input and block, as a checkpoint has them."""
        return {f"{name}#{i}": one for i, block in enumerate(self._blocks) for name, one in block.sums.items()}

    def pass_over(self, batch: AnyBatch) -> None:
        """Take note of a batch that the sums hold already."""
        self._note(batch)

    def record(self, batch: AnyBatch) -> Record:
        """What takes every watched input's activation of a batch."""
        self._note(batch)
        block_of = batch.numbers % N_BLOCKS
        parts = [replace(batch, counts=batch.counts & (block_of == i)[:, None]) for i in range(N_BLOCKS)]
        records = [block.record(part) for block, part in zip(self._blocks, parts, strict=True)]

        def take(name: Input, activation: Tensor, routed: Int[Tensor, "m"] | None = None) -> None:
            if name in self._blocks[0].readers:
                for record in records:
                    record(name, activation, routed)

        return take

    def _note(self, batch: AnyBatch) -> None:
        for place, group in enumerate(self._left):
            n = int((batch.groups == place).sum())
            left = self._left[group]
            self._left[group] = None if left is None else left - n
            self._came[group] = self._came[group] or n > 0

    def is_settled(self, n_batches: int) -> bool:
        """Whether every interval is narrow enough, if a check is due after so many batches."""
        if n_batches < self._next:
            return False
        self._next = _later(self._next)
        coming = [group for group, left in self._left.items() if left != 0 and self._came[group]]
        self._came = dict.fromkeys(self._came, False)
        widths = self._widths(coming)
        if not widths:
            return False
        widest = max(widths, key=lambda key: widths[key])
        settled = widths[widest] <= self._until
        logger.info(
            "after %d batches the 95%% interval of W-Norms is at most %.3g wide (%s)%s",
            n_batches, widths[widest], widest, ": that is enough" if settled else "",
        )  # fmt: skip
        return settled

    @torch.no_grad()
    def _widths(self, coming: Sequence[str]) -> dict[str, float]:
        """How wide the interval of each watched matrix is; nothing if a group has no rows yet."""
        generator = torch.Generator().manual_seed(0)
        found: dict[str, float] = {}
        for name, readers in by_input(self._sites).items():
            groups = {group: self._moments(name, group) for group in self._left}
            if not all(len(blocks) for blocks in groups.values()):
                continue
            roots = {site.key: _root(self._adapter, site) for site in readers}
            draws = [self._wnorms(groups, roots, _draw(coming, generator)) for _ in range(N_DRAWS)]
            for key in roots:
                values = torch.tensor([one[key] for one in draws if one], dtype=torch.float64)
                found[key] = 2 * 1.96 * float(values.std()) if len(values) > 1 else float("inf")
        return found

    def _moments(self, name: str, group: str) -> dict[int, Float[Tensor, "d d"]]:
        """The second moment of every block that has rows, in float64."""
        sums = {i: block.sums.get(name, {}).get(group) for i, block in enumerate(self._blocks)}
        return {i: restored(one.state()).result().matrix(ones=False) for i, one in sums.items() if one is not None}

    def _wnorms(
        self,
        groups: Mapping[str, Mapping[int, Tensor]],
        roots: Mapping[str, tuple[Tensor, float]],
        weights_of: Callable[[str], Tensor],
    ) -> dict[str, float]:
        """W-Norms of one bootstrap; nothing if it drew no row of a group."""
        drawn = {}
        for group, blocks in groups.items():
            weights = weights_of(group)
            some = [float(weights[i]) * S for i, S in blocks.items() if weights[i]]
            if not some:
                return {}
            drawn[group] = torch.stack(some).sum(0)
        target = drawn.get(TARGET, next(iter(drawn.values())))
        solution = Total(SecondMoment(torch.stack([*drawn.values()]).sum(0))).solution(None)
        return {
            key: float(engram_matrix(root, SecondMoment(target), solution).norm()) / size
            for key, (root, size) in roots.items()
        }


def _draw(coming: Sequence[str], generator: torch.Generator) -> Callable[[str], Tensor]:
    """How often each block is drawn, by group. Groups that do not come any more have each block once."""
    found = {
        group: torch.bincount(torch.randint(N_BLOCKS, (N_BLOCKS,), generator=generator), minlength=N_BLOCKS)
        for group in coming
    }
    return lambda group: found.get(group, torch.ones(N_BLOCKS))


def _root(adapter: Adapter, site: Site) -> tuple[Float[Tensor, "rows d"], float]:
    """Rows that have the size of a matrix in every direction, no more than columns, and that size."""
    W = adapter.weight(site).detach().double()
    return compact(W), float(W.norm())


def _watched(widths: Mapping[str, int], n_groups: int) -> set[str]:
    """Inputs that are evenly spaced, as many as memory should hold, the widest left out first."""
    names = [*widths]
    n = min(MOST_INPUTS, len(names))
    chosen = [names[i * len(names) // n] for i in range(n)]
    # One of each kind of width, so that no kind goes unseen.
    for d in dict.fromkeys(widths.values()):
        if all(widths[name] != d for name in chosen):
            chosen.append(next(name for name in names if widths[name] == d))
    chosen.sort(key=lambda name: widths[name])
    while len(chosen) > 1 and N_BLOCKS * n_groups * sum(moment_bytes(widths[name]) for name in chosen) > MOST_BYTES:
        chosen.pop()
    return set(chosen)


def _later(n: int) -> int:
    return int(n * GROWTH)


def _known_length(examples: Examples) -> int | None:
    """How many examples there are, if that is known without reading them."""
    return None if isinstance(examples, (TokenStream, Data)) else len(examples)
