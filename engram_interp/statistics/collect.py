"""One forward pass: model + concept -> `S+` and `S-` of every input.

Every example goes through the model once. Each input's counted positions are multiplied into the moment of their group
on the spot. No activation is kept, so the extra memory is the moments and one batch.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from functools import partial
from typing import TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from engram_interp.concepts.batches import AnyBatch, Examples, n_counted
from engram_interp.concepts.concept import Concept, require_concept
from engram_interp.models import Adapter, Record, adapt
from engram_interp.models.exclusive import exclusive
from engram_interp.models.sites import Input, Site, by_input
from engram_interp.options import Run, Which, takes
from engram_interp.statistics.moments import (
    NEVER,
    AnyMoment,
    GrowingSum,
    MomentSum,
    RowsKept,
    moment_dtype,
    moment_sum,
    rank_of,
)
from engram_interp.statistics.passes import keys_of, non_finite, one_pass, taken_rows, warn_of_few
from engram_interp.statistics.statistics import Statistics

Sums: TypeAlias = dict[str, dict[str, MomentSum | RowsKept | GrowingSum]]
"""Moments being summed, by group and input."""

CHECKED_EVERY = 16
"""After so many batches, what was summed is checked to be finite."""

logger = logging.getLogger("engram_interp")


@exclusive
@takes(Which, Run)
def collect(model: nn.Module, concept: Concept, *, which: Which, run: Run) -> Statistics:
    """Second moments of every input over a concept's target and reference examples (paper, Section 4).

    They serve every cut, ridge and filter: give them to `extract`, `localize` or `diagnose` in the concept's place.

    Args:
        model: a `HookedTransformer` or `TransformerBridge`, however its weights were processed, or any other module of
            linear and convolution layers.
        concept: what to look for.

    Raises:
        ValueError: if a component or layer is unknown, the model cannot read an example, no position of a group counts,
            or an activation is not finite (the message names its matrices and its batch).

    Example:
        >>> from engram_interp import testbed
        >>> concept = Concept(target=["the city of Oslo"], reference=["What is the capital of Norway?"])
        >>> collect(testbed.load("full"), concept, layers=[1]).counts
        {'target': 4, 'reference': 7}
    """
    require_concept(concept)
    adapter = adapt(model)
    adapter.look(concept)
    sites = adapter.sites(which.components, which.layers)
    groups = moments_of(adapter, sites, adapter.encode_concept(concept), run)
    sites = adapter.reached(sites, which)
    keys = tuple(site.key for site in sites)
    statistics = Statistics(adapter.info, keys, groups, concept.name, concept.in_words, reads=adapter.reads)
    n_rows = {name: sum(moments[name].count for moments in groups.values()) for name in statistics.inputs}
    widths = adapter.widths(by_input(sites))
    warn_of_few(n_rows, widths, sum(statistics.counts.values()), lambda name: rank_of(statistics.total(name)))
    return statistics


def moments_of(
    adapter: Adapter, sites: list[Site], encoded: Mapping[str, Examples], run: Run
) -> dict[str, dict[str, AnyMoment]]:
    """The second moment of every input of these matrices, by group of examples.

    Raises:
        ValueError: if an activation or a moment is not finite; the message names its matrices.
    """
    readers = by_input(sites)
    names: list[str] = [*readers]
    widths = adapter.widths(readers)
    megabytes = statistics_bytes(widths.values(), len(encoded)) / 1e6
    logger.info("statistics of %d inputs and %d groups take up to %.1f MB", len(readers), len(encoded), megabytes)

    sums: Sums = {group: {} for group in encoded}
    n_rows = {group: n_counted(examples) for group, examples in encoded.items()}
    seen: list[tuple[str, ...]] = []

    def begin(batch: AnyBatch) -> Record:
        if len(seen) % CHECKED_EVERY == 0:
            _require_finite(sums, readers, seen)
        seen.append(batch.examples)
        counted = {group: at for place, group in enumerate(encoded) if len(at := batch.counted(place))}
        return partial(_add, sums, counted, n_rows, len(seen) - 1)

    one_pass(adapter, sites, encoded, begin, run)
    _require_finite(sums, readers, seen)
    _require_seen(sums, keys_of(sites))
    seen_names = [name for name in names if any(name in moments for moments in sums.values())]
    groups = {group: {name: moments[name].result() for name in seen_names} for group, moments in sums.items()}
    for group, moments in groups.items():
        if overflowed := [name for name in readers if name in moments and not moments[name].is_finite]:
            raise ValueError(f"the second moment of {keys_of(readers[overflowed[0]])} over the {group} overflowed")
    return groups


def _require_seen(sums: Sums, keys: str) -> None:
    """Give every group a sum of every input that any group has: a group may never reach a module.

    Raises:
        ValueError: if no group reached any of the matrices, or a group has no example at all.
    """
    found = {name: one for moments in sums.values() for name, one in moments.items()}
    if not found:
        raise ValueError(f"{keys} did not multiply anything that counts: no module ran, or no position counts")
    for group, moments in sums.items():
        if not moments:
            raise ValueError(f"{group} must have a position that counts; none of its batches has one")
        for name, one in found.items():
            if name not in moments:
                moments[name] = RowsKept(one.like, 0)
                moments[name].add(one.like, next(iter(moments.values())).offered)


def statistics_bytes(widths: Iterable[int], n_groups: int) -> int:
    """The size in bytes of the second moments of inputs of these widths, for a model in float32 or less.

    Example:
        >>> statistics_bytes([1024, 4096], n_groups=2) == 2 * 4 * (1024**2 + 4096**2)
        True
    """
    return n_groups * sum(d * d * torch.finfo(moment_dtype(d)).bits // 8 for d in widths)


def _add(
    sums: Sums,
    counted: dict[str, Int[Tensor, "n"]],
    n_rows: Mapping[str, int | None],
    batch: int,
    name: str,
    activation: Float[Tensor, "*batch_pos d"],
    routed: Int[Tensor, "m"] | None = None,
) -> None:
    """Add an input's counted positions to the moments of their groups."""
    for group, at in counted.items():
        if at.device != activation.device:
            counted[group] = at = at.to(activation.device)  # once a batch
        rows, _ = taken_rows(activation, at, routed)
        if name not in sums[group]:
            # How many positions a router sends to an expert is not known.
            sums[group][name] = moment_sum(rows, n_rows[group], None if routed is None else len(rows))
        sums[group][name].add(rows, len(at), batch)


def _require_finite(sums: Sums, readers: Mapping[Input, list[Site]], seen: list[tuple[str, ...]]) -> None:
    """Check that every row so far was finite. This waits for the device, so it is not done for every batch.

    Args:
        sums: what was summed.
        readers: the matrices that read each input, in the order in which they run.
        seen: the examples of every batch so far.

    Raises:
        ValueError: if one was not; the message names its matrices and its batch.
    """
    spoiled = [(name, moments[name].spoiled) for name in readers for moments in sums.values() if name in moments]
    found = {batch: name for name, batch in reversed([(name, int(batch)) for name, batch in spoiled])}
    if (first := min(found, default=NEVER)) < NEVER:
        raise ValueError(non_finite(readers[found[first]], first, seen[first]))
