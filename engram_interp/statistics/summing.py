"""`S+` and `S-` of every input, by one pass or by a part of one: rows come in, and are added up at once.

No activation is kept, so the extra memory is the sums and one batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from engram_interp.concepts.batches import AnyBatch
from engram_interp.models import Record
from engram_interp.models.sites import Input, Site, by_input
from engram_interp.statistics.moments import AnyMoment
from engram_interp.statistics.passes import keys_of, non_finite, taken_rows
from engram_interp.statistics.sums import NEVER, AnySum, RowsKept, moment_sum

CHECKED_EVERY = 16
"""After so many batches, what was summed is checked to be finite."""


class Summing:
    """The sums of some inputs over groups of examples.

    Args:
        sites: the matrices that read these inputs, in the order in which they run.
        n_rows: how many positions count, by group; None if nobody knows.
        sums: by input and group, as far as there are any.
        device: where sums are kept. None keeps each where its input is.

    Attributes:
        sums: by input and group.
        offered: how many positions counted so far, by group.
    """

    def __init__(
        self,
        sites: Sequence[Site],
        n_rows: Mapping[str, int | None],
        sums: Mapping[str, dict[str, AnySum]] | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        self.readers: dict[str, list[Site]] = {**by_input(sites)}
        self.sums: dict[str, dict[str, AnySum]] = dict(sums or {})
        self.offered = dict.fromkeys(n_rows, 0)
        self._n_rows, self._device = dict(n_rows), device
        self._unchecked: list[tuple[str, ...]] = []
        self._first_unchecked = self._last_seen = 0

    def see(self, index: int, batch: AnyBatch) -> None:
        """Take note of a batch before it runs, here or in another process. It is the batch of this number."""
        if not self._unchecked:
            self._first_unchecked = index
        self._last_seen = index
        self._unchecked.append(batch.examples)
        for place, group in enumerate(self.offered):
            self.offered[group] += len(batch.counted(place))

    def record(self, batch: AnyBatch) -> Record:
        """What takes every input's activation of the batch that was seen last."""
        counted = {group: at for place, group in enumerate(self.offered) if len(at := batch.counted(place))}
        return partial(self._take, counted, self._last_seen)

    def _take(
        self,
        counted: dict[str, Int[Tensor, "n"]],
        index: int,
        name: Input,
        activation: Float[Tensor, "*batch_pos d"],
        routed: Int[Tensor, "m"] | None = None,
    ) -> None:
        """Add an input's counted positions to the sums of their groups."""
        for group, at in counted.items():
            if at.device != activation.device:
                counted[group] = at = at.to(activation.device)  # once a batch
            rows, _ = taken_rows(activation, at, routed)
            self.add(name, group, rows, len(at), index, routed is not None)

    def add(
        self, name: Input | str, group: str, rows: Float[Tensor, "n d"], offered: int, index: int, routed: bool
    ) -> None:
        """Add rows of an input to the sum of a group.

        Args:
            name: the input.
            group: whose examples they come from.
            rows: as the model computes them.
            offered: how many positions count.
            index: the number of the batch.
            routed: whether a router chose them. How many it will send to an expert, nobody knows.
        """
        rows = rows if self._device is None else rows.to(self._device)
        by_group = self.sums.setdefault(name, {})
        if group not in by_group:
            by_group[group] = moment_sum(rows, self._n_rows[group], len(rows) if routed else None)
        by_group[group].add(rows, offered, index)

    def end_round(self, index: int) -> None:
        """Do what is left to do once a batch has run, of this number. Here it is nothing."""
        del index

    def all_seen(self) -> list[str]:
        """The inputs that anything reached, in any process, in the order in which they run."""
        return self.seen

    @property
    def is_due(self) -> bool:
        """Whether so many batches were seen that a check is due."""
        return len(self._unchecked) >= CHECKED_EVERY

    def check(self) -> None:
        """Check that every row so far was finite. This waits for the device, so it is not done for every batch.

        Raises:
            ValueError: if one was not; the message names its matrices and its batch.
        """
        self.refuse(self.first_spoiled())

    def first_spoiled(self) -> tuple[int, int] | None:
        """The first batch with a row that was not finite, and the place of the input where it was; None if all were."""
        spoiled = [
            (int(one.spoiled), place)
            for place, name in enumerate(self.readers)
            for one in self.sums.get(name, {}).values()
        ]
        return min((one for one in spoiled if one[0] < NEVER), default=None)

    def refuse(self, spoiled: tuple[int, int] | None) -> None:
        """Take it that all batches so far were finite, or raise if one was not.

        Args:
            spoiled: see `first_spoiled`.

        Raises:
            ValueError: if one was not; the message names its matrices and its batch.
        """
        if spoiled is not None:
            batch, place = spoiled
            examples = self._unchecked[batch - self._first_unchecked]
            raise ValueError(non_finite([*self.readers.values()][place], batch, examples))
        self._unchecked = []

    @property
    def seen(self) -> list[str]:
        """The inputs that anything reached, in the order in which they run."""
        return [name for name in self.readers if name in self.sums]

    def result(self, name: str) -> dict[str, AnyMoment]:
        """The moments of one input, by group. Its sums are used up.

        Raises:
            ValueError: if one overflowed.
        """
        by_group = self.sums.pop(name)
        moments: dict[str, AnyMoment] = {}
        for group, offered in self.offered.items():
            total = by_group.pop(group, None) or _nothing(next(iter([*by_group.values(), *moments.values()])), offered)
            moments[group] = total.result()
            if not moments[group].is_finite:
                raise ValueError(f"the second moment of {keys_of(self.readers[name])} over the {group} overflowed")
        return moments

    def require_seen(self) -> None:
        """Check that something was summed.

        Raises:
            ValueError: if no group reached any of the matrices, or a group has no position that counts.
        """
        if not self.all_seen():
            keys = keys_of(site for sites in self.readers.values() for site in sites)
            raise ValueError(f"{keys} did not multiply anything that counts: no module ran, or no position counts")
        for group, offered in self.offered.items():
            if not offered:
                raise ValueError(f"{group} must have a position that counts; none of its batches has one")


def _nothing(other: AnySum | AnyMoment, offered: int) -> RowsKept:
    """The sum of a group that never reached an input."""
    like = other.like if isinstance(other, AnySum) else other.first.new_empty(0, other.width)
    total = RowsKept(like, 0)
    total.add(like, offered)
    return total
