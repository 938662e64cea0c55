"""One forward pass: model + concept -> `S+` and `S-` of every input.

Each example goes through the model once. While it does, every input's counted positions are multiplied into its
group's moments on the spot; no activation is kept, so the extra memory is the moments and one batch.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from typing import TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from engram_interp.common.arguments import Layers
from engram_interp.concepts.concept import (
    BATCH_SIZE,
    Batch,
    Concept,
    TokenExample,
    batches,
    encode_groups,
    require_concept,
)
from engram_interp.models import Adapter, Record, adapt
from engram_interp.models.exclusive import exclusive
from engram_interp.models.sites import Site, by_input
from engram_interp.statistics.statistics import MomentSum, Statistics, moment_dtype

Sums: TypeAlias = dict[str, dict[str, MomentSum]]
"""Moments being summed, by group and input."""

logger = logging.getLogger("engram_interp")


@exclusive
def collect(
    model: nn.Module,
    concept: Concept,
    *,
    components: str | Collection[str] | None = None,
    layers: Layers = None,
    batch_size: int = BATCH_SIZE,
    rtol: float | int | None = None,
    absorb_bias: bool = True,
    delta_from: nn.Module | None = None,
    progress: bool | None = None,
) -> Statistics:
    """Second moments of every input over a concept's target and reference examples (paper, Section 4).

    Args:
        model: a `HookedTransformer` or `TransformerBridge`, whatever weight processing it was loaded with.
        concept: what to look for.
        components: which matrices, `W_Q` to `W_U` or short; every one that the model has by default.
        layers: which layers; all by default. The unembedding is in none: `layers` leaves it out, unless `components`
            names it.
        batch_size: examples in a batch. Affects memory, and the result by rounding only.
        rtol: taken so that the options of `extract` fit here too; the statistics serve every choice of it.
        absorb_bias: likewise.
        delta_from: likewise.
        progress: True or False shows or hides the bar; None shows it in a terminal and in a notebook.

    Raises:
        ValueError: an unknown component or layer, an example that the model cannot read, a group in which nothing
            counts, or a non-finite activation (the message names its matrices and its batch).

    Example:
        >>> from engram_interp import testbed
        >>> concept = Concept(target=["the city of Oslo"], reference=["What is the capital of Norway?"])
        >>> collect(testbed.load("full"), concept, layers=[1]).counts
        {'target': 4, 'reference': 7}
    """
    del rtol, absorb_bias, delta_from
    require_concept(concept)
    adapter = adapt(model)
    sites = adapter.sites(components, layers)
    readers = by_input(sites)
    encoded = encode_groups(concept.sides, adapter.encoder)
    needed = statistics_bytes(adapter.widths(readers).values(), len(encoded))
    logger.info("statistics of %d inputs and %d groups take %.1f MB", len(readers), len(encoded), needed / 1e6)

    sums: Sums = {group: {} for group in encoded}

    def begin(batch: Batch) -> Record:
        counted = {group: at for place, group in enumerate(encoded) if len(at := batch.counted(place))}
        return partial(_take_in, sums, counted)

    one_pass(adapter, sites, encoded, begin, batch_size, progress)
    groups = {group: {name: moments[name].result() for name in readers} for group, moments in sums.items()}
    for group, moments in groups.items():
        for name, moment in moments.items():
            if not moment.is_finite:
                raise ValueError(f"the second moment of {_keys(readers[name])} over the {group} overflowed")
    n_rows = {name: sum(moments[name].count for moments in groups.values()) for name in readers}
    statistics = Statistics(adapter.info, tuple(site.key for site in sites), groups, concept.name)
    warn_of_few(n_rows, adapter.widths(readers), sum(statistics.counts.values()))
    return statistics


def one_pass(
    adapter: Adapter,
    sites: Iterable[Site],
    encoded: dict[str, list[TokenExample]],
    begin: Callable[[Batch], Record],
    batch_size: int,
    progress: bool | None,
) -> None:
    """Run the model over every example once, as far as the sites' inputs need it.

    Args:
        adapter: the model.
        sites: the matrices whose inputs are wanted.
        encoded: token examples by group.
        begin: given a batch, says what to call with every input's activation; see `Record`. What is called raises
            `NonFiniteError` where an activation is not finite.
        batch_size: examples in a batch.
        progress: whether a bar is shown.

    Raises:
        ValueError: a non-finite activation, by the matrices that read it and its batch.
    """
    readers = by_input(sites)
    if hooks := adapter.foreign_hooks():
        logger.warning(
            "hooks that are not this package's run in this pass, on %s%s: where they change an activation, the "
            "statistics are of the changed model. Take them off, as model.reset_hooks() does", ", ".join(hooks[:3]),
            f" and {len(hooks) - 3} more" if len(hooks) > 3 else "",
        )  # fmt: skip
    for index, batch in enumerate(batches(encoded, batch_size, progress, "collecting")):
        try:
            adapter.run(batch, readers, begin(batch))
        except NonFiniteError as error:
            raise ValueError(_non_finite(_keys(readers[str(error)]), batch, index)) from None


def taken_rows(
    activation: Float[Tensor, "*batch_pos d"], at: Int[Tensor, "n"], routed: Int[Tensor, "m"] | None
) -> tuple[Float[Tensor, "taken d"], Int[Tensor, "taken"]]:
    """An input's rows at the positions `at`, or at those of them that were `routed` to it, and these positions."""
    rows = activation.flatten(0, -2)
    if routed is None:
        return rows.index_select(0, at.to(rows.device)), at
    taken = torch.isin(routed, at.to(routed.device)).nonzero().flatten()
    return rows.index_select(0, taken.to(rows.device)), routed[taken]


def finite_rows(
    name: str, activation: Float[Tensor, "*batch_pos d"], at: Int[Tensor, "n"], routed: Int[Tensor, "m"] | None
) -> tuple[Float[Tensor, "taken d"], Int[Tensor, "taken"]]:
    """`taken_rows` to keep, their positions on the CPU.

    Raises:
        NonFiniteError: one of them is not finite.
    """
    rows, positions = taken_rows(activation, at, routed)
    if not rows.isfinite().all():
        raise NonFiniteError(name)
    return rows.detach(), positions.cpu()


def warn_of_few(n_rows: Mapping[str, int], widths: Mapping[str, int], count: int) -> None:
    """Say which inputs were not seen at all, and whether there are fewer positions than the statistics need.

    Args:
        n_rows: by input, how many positions it was seen at.
        widths: by input, its dimensions.
        count: how many positions count.
    """
    if unseen := [name for name, n in n_rows.items() if not n]:
        logger.warning("no position that counts was sent to %s: what reads it has no engram", ", ".join(unseen))
    d = max(widths.values())
    if count < 2 * d:
        logger.warning(
            "%d positions count, and inputs have up to %d dimensions: from fewer than two positions a dimension, "
            "W-Norms and edits are mostly noise. Give more (reference) examples, or a larger rtol, as 1e-2", count, d,
        )  # fmt: skip


class NonFiniteError(ValueError):
    """Carries the name of the input that was not finite."""


def _take_in(
    sums: Sums,
    counted: dict[str, Int[Tensor, "n"]],
    name: str,
    activation: Float[Tensor, "*batch_pos d"],
    routed: Int[Tensor, "m"] | None = None,
) -> None:
    """Multiply an input's counted positions into its groups' moments; of `routed` ones, those that are there."""
    for group, at in counted.items():
        rows, _ = taken_rows(activation, at, routed)
        if name not in sums[group]:
            sums[group][name] = MomentSum(rows)
        sums[group][name].add(rows, offered=len(at))
        if not sums[group][name].is_finite:
            raise NonFiniteError(name)


def statistics_bytes(widths: Iterable[int], n_groups: int) -> int:
    """Bytes that the second moments of inputs of these widths take in a model of float32 or less.

    Example:
        >>> statistics_bytes([1024, 4096], n_groups=2) == 2 * 4 * (1024**2 + 4096**2)
        True
    """
    return n_groups * sum(d * d * torch.finfo(moment_dtype(d)).bits // 8 for d in widths)


def _keys(sites: Iterable[Site]) -> str:
    return ", ".join(site.key for site in sites)


def _non_finite(keys: str, batch: Batch, index: int) -> str:
    return (
        f"non-finite activation in the input of {keys}, batch {index} "
        f"({batch.examples[0]} to {batch.examples[-1]}): look at these examples, or run the model in a wider dtype"
    )
