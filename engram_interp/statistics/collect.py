"""One forward pass: model + concept -> `S+` and `S-` of every input.

Every example goes through the model once. Each input's counted positions are multiplied into the moment of their group
on the spot. No activation is kept, so the extra memory is the moments and one batch. With a store, the moments lie in a
folder, and a budget of memory decides how many passes there are: see `store/filling.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from engram_interp.concepts.batches import Examples, limited, n_counted
from engram_interp.concepts.concept import Concept, require_concept
from engram_interp.concepts.data import are_batches
from engram_interp.models import Adapter, adapt
from engram_interp.models.exclusive import exclusive
from engram_interp.models.sites import Site, by_input
from engram_interp.options import Keep, Read, Run, Which, takes
from engram_interp.statistics.dealing import Between, dealt, recording, summing_of, watch_of
from engram_interp.statistics.moments import AnyMoment, rank_of
from engram_interp.statistics.passes import batches_of, one_pass, warn_of_few
from engram_interp.statistics.planning.sizes import statistics_bytes
from engram_interp.statistics.sharing.ranks import Ranks
from engram_interp.statistics.statistics import Statistics
from engram_interp.statistics.store.filling import fill_store

logger = logging.getLogger("engram_interp")


@exclusive
@takes(Which, Read, Run, Keep)
def collect(
    model: nn.Module, concept: Concept | Mapping[str, Any], *, which: Which, read: Read, run: Run, keep: Keep
) -> Statistics:
    """Second moments of every input over a concept's target and reference examples (paper, Section 4).

    They serve every cut, ridge and filter: give them to `extract`, `localize` or `diagnose` in the concept's place.

    Args:
        model: a `HookedTransformer` or `TransformerBridge`, however its weights were processed, or any other module of
            linear and convolution layers.
        concept: what to look for, or groups of examples by name, as `decompose` takes them. A `Concept` says itself
            which positions count.

    Raises:
        TypeError: if it is neither, or a `Concept` comes with `positions` or `eos`.
        ValueError: if a component or layer is unknown, the model cannot read an example, no position of a group counts,
            or an activation is not finite (the message names its matrices and its batch).

    Example:
        >>> from engram_interp import testbed
        >>> concept = Concept(target=["the city of Oslo"], reference=["What is the capital of Norway?"])
        >>> collect(testbed.load("full"), concept, layers=[1]).counts
        {'target': 4, 'reference': 7}
    """
    groups, read, name = _read(concept, read)
    adapter = adapt(model)
    adapter.look(concept if isinstance(concept, Concept) else next(iter(groups.values())))
    sites = adapter.sites(which.components, which.layers)
    encoded = limited(adapter.encode(groups, read), keep.max_tokens)
    in_words = None if adapter.info.is_plain or are_batches(groups) else read.in_words
    if keep.store is not None:
        fill_store(adapter, sites, encoded, in_words, which, run, keep)
        return replace(Statistics.open(keep.store), name=name)
    until = None if keep.until is None else float(keep.until)
    moments = moments_of(adapter, sites, encoded, run, keep.storage_device, until)
    sites = adapter.reached(sites, which)
    keys = tuple(site.key for site in sites)
    statistics = Statistics(adapter.info, keys, moments, name, in_words, reads=adapter.reads)
    n_rows = {name: sum(some[name].count for some in moments.values()) for name in statistics.inputs}
    widths = adapter.widths(by_input(sites))
    warn_of_few(n_rows, widths, sum(statistics.counts.values()), lambda name: rank_of(statistics.total(name)))
    return statistics


def _read(concept: object, read: Read) -> tuple[Mapping[str, Any], Read, str | None]:
    """The groups of examples, which of their positions count, and the concept's name."""
    if isinstance(concept, Mapping):
        if not concept or not all(isinstance(name, str) for name in concept):
            raise TypeError(f"groups must be examples by name; got the names {list(concept)}")
        return concept, read, None
    require_concept(concept)
    assert isinstance(concept, Concept)
    if read != Read():
        raise TypeError(f"a Concept says itself which positions count: {concept.read.in_words}; got {read.in_words}")
    return concept.sides, concept.read, concept.name


def moments_of(
    adapter: Adapter,
    sites: list[Site],
    encoded: Mapping[str, Examples],
    run: Run,
    device: torch.device | str | None = None,
    until: float | None = None,
) -> dict[str, dict[str, AnyMoment]]:
    """The second moment of every input of these matrices, by group of examples.

    In a process group every process runs its share of the examples and owns some inputs, and all get all moments in
    the end.

    Args:
        adapter: the model.
        sites: the matrices.
        encoded: examples by group.
        run: how examples go through the model.
        device: where sums are kept. None keeps each where its input is.
        until: ends the pass when intervals of W-Norms are this narrow; see `convergence.py`. None reads all.

    Raises:
        ValueError: if an activation or a moment is not finite; the message names its matrices.
    """
    widths = adapter.widths(by_input(sites))
    megabytes = statistics_bytes(widths.values(), len(encoded)) / 1e6
    logger.info("statistics of %d inputs and %d groups take up to %.1f MB", len(widths), len(encoded), megabytes)
    ranks, n_rows = Ranks.here(), {group: n_counted(examples) for group, examples in encoded.items()}
    summing = summing_of(ranks, adapter, sites, n_rows, device=device)
    watch = watch_of(ranks, adapter, sites, encoded, until)
    batches = batches_of(encoded, run, in_order=watch is not None)
    one_pass(adapter, sites, dealt(batches, summing, ranks, Between(watch)), recording(summing, watch))
    summing.check()
    summing.require_seen()
    seen = summing.all_seen()
    mine = {name: summing.result(name) for name in summing.seen}
    of_inputs = ranks.merged(mine)
    return {group: {name: of_inputs[name][group] for name in seen} for group in encoded}
