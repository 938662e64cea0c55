"""Model + examples -> a folder of moments: in as many passes as the budget makes, with checkpoints in between.

A killed run leaves its last checkpoint. The same call reads the examples again up to there, checks that they are the
same, and goes on with the sums as they were, so that the moments end in the same bits.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from engram_interp.common.arguments import in_units
from engram_interp.common.heap import give_back_freed
from engram_interp.concepts.batches import AnyBatch, Examples, TokenStream, n_counted
from engram_interp.concepts.data import Data, are_batches
from engram_interp.concepts.digest import Digests, require_same_examples
from engram_interp.models import Adapter
from engram_interp.models.identity import weights_digest
from engram_interp.models.sites import Site, by_input
from engram_interp.options import Keep, Run, Which
from engram_interp.statistics.dealing import Between, dealt, owners_of, recording, summing_of, watch_of
from engram_interp.statistics.passes import batches_of, one_pass
from engram_interp.statistics.planning.sizes import (
    batch_within,
    passes_within,
    sizes_of_inputs,
    token_bytes,
    tokens_within,
)
from engram_interp.statistics.sharing.ranks import Ranks
from engram_interp.statistics.store.folder import Store
from engram_interp.statistics.store.index import Progress

logger = logging.getLogger("engram_interp")

LEAST_SHARE = 20
"""Between two checkpoints there is so many times what the last one took."""


def fill_store(
    adapter: Adapter,
    sites: list[Site],
    encoded: Mapping[str, Examples],
    positions: str | None,
    which: Which,
    run: Run,
    keep: Keep,
) -> list[Site]:
    """Sum every input of these matrices into a store, or finish it.

    Args:
        adapter: the model.
        sites: the matrices.
        encoded: examples by group.
        positions: which positions count, in words.
        which: which matrices were asked for.
        run: how examples go through the model.
        keep: where the store is, and how it is written.

    Returns:
        The matrices that a pass reached.

    Raises:
        ValueError: if the store was made with something else, the budget is too small, or an activation is not finite.
        FileExistsError: if there is a store and `resume` is False.
        RuntimeError: if another process writes into it.
    """
    assert keep.store is not None
    token = 0 if are_batches(encoded) else token_bytes(adapter)
    tokens = tokens_within(token, keep.room)
    settings = _settings(adapter, sites, encoded, positions, run, keep, tokens)
    n_rows = {group: n_counted(examples) for group, examples in encoded.items()}
    dtype = adapter.parameter(sites[0].path).dtype
    sizes = sizes_of_inputs(adapter.widths(by_input(sites)), n_rows.values(), dtype)
    ranks = Ranks.here()
    with Store.writing(keep.store, settings, sizes, keep.resume, ranks) as store:
        store.require_files()
        if store.index.is_finished:
            adapter.learn(store.index.reads)
            quietly = replace(run, progress=False)
            _require_examples(store, batches_of(encoded, quietly, keep.until is not None, tokens), keep)
            return adapter.reached(sites, which)
        passes = _passes(store, sizes, keep.room, ranks, batch_within(token, keep.room))
        _require_readable_again(encoded, len(passes))
        logger.info(
            "%d inputs take %s of moments, %d of them in %d passes to come",
            len(sizes), in_units(sum(map(sum, sizes.values()))), sum(map(len, passes)), len(passes),
        )  # fmt: skip
        for names in passes:
            some = [site for site in sites if site.input in names]
            one = _StoredPass(store, ranks, adapter, some, names, n_rows, keep, encoded)
            one.run(batches_of(encoded, run, keep.until is not None, tokens))
        reached = adapter.reached([site for site in sites if site.input in store.index.done], which)
        store.close(dict.fromkeys(by_input(reached)), adapter.reads, [site.key for site in reached])
    return reached


def _settings(
    adapter: Adapter,
    sites: Iterable[Site],
    encoded: Mapping[str, Examples],
    positions: str | None,
    run: Run,
    keep: Keep,
    tokens: int,
) -> dict[str, Any]:
    """What the moments depend on, as the store's index says it."""
    return {
        "model": adapter.info.to_dict(),
        "weights": weights_digest(adapter.model),
        "matrices": [site.key for site in sites],
        "groups": list(encoded),
        "positions": positions,
        "batch_size": run.batch_size,
        "tokens in a batch": tokens if run.batch_size is None else None,
        "max_tokens": keep.max_tokens,
        "until": None if keep.until is None else float(keep.until),
    }


def _require_readable_again(encoded: Mapping[str, Examples], n_passes: int) -> None:
    """Check, before any work, that examples can be read in every pass.

    Raises:
        ValueError: if a group comes from an iterator, and there are several passes.
    """
    once = [name for name, some in encoded.items() if isinstance(some, (Data, TokenStream)) and some.is_once]
    if once and n_passes > 1:
        raise ValueError(
            f"{' and '.join(once)} come from an iterator, which can be read once, and the budget makes {n_passes} "
            f"passes: give a list, a file or another iterable that can be read again, or a larger budget"
        )


def _passes(
    store: Store, sizes: Mapping[str, list[int]], room: int | None, ranks: Ranks, batch: int
) -> list[tuple[str, ...]]:
    """What each pass to come sums: first what was begun, if the budget holds it, then the rest."""
    progress, left = store.index.progress, store.left
    if progress is None:
        return passes_within({name: sizes[name] for name in left}, room, ranks.size, batch) if left else []
    begun = {name: sizes[name] for name in progress.inputs}
    if len(passes_within(begun, room, ranks.size, batch)) > 1:
        logger.warning("the pass that was begun sums %d inputs, more than the budget holds: it starts over", len(begun))
        store.drop_progress()
        return _passes(store, sizes, room, ranks, batch)
    rest = {name: sizes[name] for name in left if name not in begun}
    return [tuple(begun), *(passes_within(rest, room, ranks.size, batch) if rest else [])]


def _require_examples(store: Store, batches: Iterable[AnyBatch], keep: Keep) -> None:
    """Check that these examples are those of a finished store: all of them, or those that `until` has read."""
    digests = Digests(store.groups)
    for index, batch in enumerate(batches):
        if keep.until is not None and index == store.index.n_batches:
            break
        digests.add(batch)
    store.require_examples(digests)


class _StoredPass(Between):
    """One pass over the examples, from its last checkpoint on.

    Args:
        store: where its moments go.
        ranks: this process among all.
        adapter: the model.
        sites: the matrices whose inputs it sums.
        names: these inputs.
        n_rows: how many positions count, by group.
        keep: how the store is written.
        encoded: examples by group.
    """

    def __init__(
        self,
        store: Store,
        ranks: Ranks,
        adapter: Adapter,
        sites: list[Site],
        names: tuple[str, ...],
        n_rows: Mapping[str, int | None],
        keep: Keep,
        encoded: Mapping[str, Examples],
    ) -> None:
        self._store, self._ranks, self._adapter, self._sites, self._names = store, ranks, adapter, sites, names
        self._keep = keep
        devices = {str(site.input): adapter.parameter(site.path).device for site in sites}
        owned = owners_of(adapter, sites, n_rows, ranks)
        mine = [name for name in names if owned[name] == ranks.rank]
        sums = store.sums(mine, keep.storage_device, devices)
        self._summing = summing_of(ranks, adapter, sites, n_rows, sums, keep.storage_device)
        self._begun = store.index.progress
        # The first pass finds how much is enough, and the others read as much.
        until = None if keep.until is None or store.index.n_batches is not None else float(keep.until)
        so_far = 0 if self._begun is None else self._begun.batches
        super().__init__(watch_of(ranks, adapter, sites, encoded, until, store.watched(), so_far))
        self._digests = Digests(store.groups)
        self._n_batches = 0
        self._clock = _Clock(float(keep.checkpoint_every))

    def run(self, batches: Iterable[AnyBatch]) -> None:
        """Sum the batches that are left, and write the moments."""
        mine = dealt(batches, self._summing, self._ranks, self)
        one_pass(self._adapter, self._sites, mine, recording(self._summing, self.watch))
        self._summing.check()
        self._require_begun()
        self._summing.require_seen()
        if self._store.index.n_batches is not None:
            self._store.require_examples(self._digests)
        seen, offered = self._summing.seen, dict(self._summing.offered)
        done = {name: self._store.write_input(name, self._summing.result(name)) for name in seen}
        self._store.finish(self._ranks.merged(done), self._digests, offered, self._n_batches)
        give_back_freed()  # the next pass should not begin on top of what this one has held

    def skips(self, index: int, batch: AnyBatch) -> bool:
        """Whether the sums hold a batch already. At the last of those, all so far must be the same as before."""
        is_beyond = self._store.index.n_batches is not None and index >= self._store.index.n_batches
        if is_beyond and self._keep.until is not None:
            return True
        self._digests.add(batch)  # of what is beyond too: it is then told that there is more than before
        if is_beyond:
            return True
        self._n_batches = index + 1
        if self._begun is None or index >= self._begun.batches:
            return False
        if self.watch is not None:
            self.watch.pass_over(batch)
        if self._n_batches == self._begun.batches:
            require_same_examples(self._digests.values, self._begun.digests, f"the store {self._store.folder}")
            self._summing.offered = dict(self._begun.offered)
        return True

    def after(self, index: int) -> bool:
        """Write a checkpoint, if one is due."""
        if self._keep.budget is not None:
            give_back_freed()  # what a batch has freed would lie between the sums, and count against the budget
        if self._ranks.from_first(self._clock.is_due):
            self._checkpoint()
        if self._keep.until is not None and index + 1 == self._store.index.n_batches:
            return False
        return super().after(index)

    def _require_begun(self) -> None:
        if self._begun is not None and self._n_batches < self._begun.batches:
            require_same_examples({}, self._begun.digests, f"the store {self._store.folder}, which has more of them")

    def _checkpoint(self) -> None:
        self._summing.check()
        with self._clock:
            shards = self._ranks.merged(self._store.write_states(self._summing.sums, self._n_batches))
            watched = {} if self.watch is None else self._store.write_watched(self.watch.sums, self._n_batches)
            digests, offered = dict(self._digests.values), dict(self._summing.offered)
            self._store.checkpoint(Progress(self._names, self._n_batches, digests, shards, offered, watched))


class _Clock:
    """When is a checkpoint due? After a time, and not before many times what the last one took."""

    def __init__(self, every: float) -> None:
        self._every, self._next, self._began = every, time.monotonic() + every, 0.0

    @property
    def is_due(self) -> bool:
        """Whether it is time."""
        return time.monotonic() >= self._next

    def __enter__(self) -> None:
        self._began = time.monotonic()

    def __exit__(self, *_: object) -> None:
        now = time.monotonic()
        self._next = now + max(self._every, LEAST_SHARE * (now - self._began))
