"""Which batches does this process run, and what is done between them? Each in turn, and in rounds of one a process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from torch import Tensor

from engram_interp.concepts.batches import AnyBatch, Examples
from engram_interp.models import Adapter, Record
from engram_interp.models.sites import Input, Site, by_input
from engram_interp.statistics.convergence import Watch
from engram_interp.statistics.planning.sizes import owners_by_size, sizes_of_inputs
from engram_interp.statistics.sharing.ranks import Ranks
from engram_interp.statistics.sharing.shared_summing import SharedSumming
from engram_interp.statistics.summing import Summing
from engram_interp.statistics.sums import AnySum


class Between:
    """What is done between batches: whether it is enough, if anybody watches.

    Args:
        watch: who does.
    """

    def __init__(self, watch: Watch | None = None) -> None:
        self.watch = watch

    def skips(self, index: int, batch: AnyBatch) -> bool:
        """Whether a batch is not run, by any process. Each process is asked about every batch, in order."""
        del index, batch
        return False

    def after(self, index: int) -> bool:
        """Whether to go on after a round, of which this is the number of the last batch."""
        return self.watch is None or not self.watch.is_settled(index + 1)


def summing_of(
    ranks: Ranks,
    adapter: Adapter,
    sites: list[Site],
    n_rows: Mapping[str, int | None],
    sums: Mapping[str, dict[str, AnySum]] | None = None,
    device: torch.device | str | None = None,
) -> Summing:
    """What sums the inputs of these matrices: all of them, or those that this process owns.

    Args:
        ranks: this process among all.
        adapter: the model.
        sites: the matrices.
        n_rows: how many positions count, by group; None if nobody knows.
        sums: by input and group, as far as there are any.
        device: where sums are kept. None keeps each where its input is.
    """
    if ranks.size == 1:
        return Summing(sites, n_rows, sums, device)
    widths, like = adapter.widths(by_input(sites)), adapter.parameter(sites[0].path)
    return SharedSumming(ranks, owners_of(adapter, sites, n_rows, ranks), widths, sites, n_rows, sums, device, like)


def owners_of(adapter: Adapter, sites: list[Site], n_rows: Mapping[str, int | None], ranks: Ranks) -> dict[str, int]:
    """The rank that holds the sums of each input, as `plan` has it."""
    sizes = sizes_of_inputs(adapter.widths(by_input(sites)), n_rows.values(), adapter.parameter(sites[0].path).dtype)
    return owners_by_size(sizes, ranks.size)


def recording(summing: Summing, watch: Watch | None) -> Callable[[AnyBatch], Record]:
    """What gives, for a batch, the function that takes every input's activation: for the sums, and for who watches."""
    if watch is None:
        return summing.record

    def begin(batch: AnyBatch) -> Record:
        records = summing.record(batch), watch.record(batch)

        def take(name: Input, activation: Tensor, routed: Tensor | None = None) -> None:
            for record in records:
                record(name, activation, routed)

        return take

    return begin


def watch_of(
    ranks: Ranks,
    adapter: Adapter,
    sites: list[Site],
    encoded: Mapping[str, Examples],
    until: float | None,
    sums: Mapping[str, dict[str, AnySum]] | None = None,
    so_far: int = 0,
) -> Watch | None:
    """Who says when it is enough, if anybody asks; see `Watch`.

    Raises:
        ValueError: if several processes share the work: none of them sees enough of each input.
    """
    if until is None:
        return None
    if ranks.size > 1:
        raise ValueError(f"until needs a single process, which sees all of an input; there are {ranks.size}")
    return Watch(adapter, sites, encoded, until, sums, so_far)


def dealt(batches: Iterable[AnyBatch], summing: Summing, ranks: Ranks, between: Between) -> Iterator[AnyBatch]:
    """The batches that this process runs.

    Args:
        batches: all batches. Every process reads them.
        summing: what sums them.
        ranks: this process among all.
        between: what is done between them.
    """
    waiting = 0
    index = -1
    for index, batch in enumerate(batches):
        if between.skips(index, batch):
            continue
        summing.see(index, batch)
        if waiting == ranks.rank:
            yield batch
        waiting += 1
        if waiting == ranks.size:
            waiting = 0
            summing.end_round(index)
            if summing.is_due:
                summing.check()
            if not between.after(index):
                return
    if waiting:
        summing.end_round(index)
