"""How much memory do moments take while they are summed, and how many passes does a budget make of them?

A sum takes `d^2` numbers, or its rows where these are fewer. One pass sums as many inputs as the budget holds, in the
model's order, so that early passes end in early layers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch

from engram_interp.common.arguments import in_units
from engram_interp.concepts.batches import TOKENS
from engram_interp.models import Adapter
from engram_interp.models.sites import by_input
from engram_interp.statistics.moments import moment_dtype, most_rows
from engram_interp.statistics.sharing.ranks import owners


def moment_bytes(d: int, dtype: torch.dtype = torch.float32) -> int:
    """The size of the second moment of an input of size `d`.

    Example:
        >>> moment_bytes(576), moment_bytes(1536)
        (2654208, 9437184)
    """
    return d * d * moment_dtype(d, dtype).itemsize


def sum_bytes(d: int, n_rows: int | None, dtype: torch.dtype = torch.float32) -> int:
    """The size of what sums up `n_rows` rows of `d` numbers; None if nobody knows how many will come.

    Example:
        >>> sum_bytes(1536, 100), sum_bytes(1536, None)
        (614400, 9437184)
    """
    if n_rows is not None and n_rows <= most_rows(d, dtype):
        return n_rows * d * dtype.itemsize
    return moment_bytes(d, dtype)


def statistics_bytes(widths: Iterable[int], n_groups: int) -> int:
    """The size of the second moments of inputs of these widths, for a model in float32 or less.

    Example:
        >>> statistics_bytes([1024, 4096], n_groups=2) == 2 * 4 * (1024**2 + 4096**2)
        True
    """
    return n_groups * sum(map(moment_bytes, widths))


def sizes_of_inputs(
    widths: Mapping[str, int], n_rows: Iterable[int | None], dtype: torch.dtype
) -> dict[str, list[int]]:
    """What the sums of every input take, group by group.

    Args:
        widths: of every input.
        n_rows: how many rows each group has; None if nobody knows.
        dtype: of the activations.
    """
    rows = list(n_rows)
    return {name: [sum_bytes(d, n, dtype) for n in rows] for name, d in widths.items()}


BATCH_SHARE = 0.1
"""The share of a budget that a batch should take."""
SMALLEST = 256
"""Fewer tokens are no batch: a pass over each costs more than its tokens."""
COPIES = 9
"""So many copies of what a block's matrices read are alive at most while it runs, with holes between them. On Llamas of
576 x 30 and 1024 x 12 a token took 90 to 250 KB on the CPU, and this says 164 and 172."""


def token_bytes(adapter: Adapter) -> int:
    """About how much memory a token of a batch takes while the model runs: activations, and keys and values."""
    sites = adapter.all_sites()
    widths, layers = adapter.widths(by_input(sites)), {site.input: site.layer for site in sites}
    in_layer: dict[int | None, int] = {}
    for name, layer in layers.items():
        in_layer[layer] = in_layer.get(layer, 0) + widths[name]
    cached = sum(adapter.shape(site)[0] for site in sites if site.component in ("W_K", "W_V"))
    return (COPIES * max(in_layer.values()) + cached) * adapter.parameter(sites[0].path).element_size()


def tokens_within(token: int, budget: int | None) -> int:
    """How many tokens a batch should have, if nobody says how many examples.

    A budget that does not hold a small batch twice is not about batches, and leaves them as they are.

    Args:
        token: the bytes that a token takes.
        budget: in bytes. None sets no limit.

    Example:
        >>> tokens_within(147_000, 10**9), tokens_within(147_000, 10**6), tokens_within(147_000, None)
        (680, 4096, 4096)
    """
    if budget is None or not token or 2 * SMALLEST * token > budget:
        return TOKENS
    return max(SMALLEST, min(TOKENS, int(BATCH_SHARE * budget / token)))


def batch_within(token: int, budget: int | None) -> int:
    """The bytes of a budget that are left to a batch."""
    size = tokens_within(token, budget) * token
    return 0 if budget is None or 2 * size > budget else size


def least_budget(sizes: Mapping[str, list[int]]) -> int:
    """The smallest budget in which every input can be summed."""
    return max(map(sum, sizes.values())) + _to_write(sizes)


def passes_within(
    sizes: Mapping[str, list[int]], budget: int | None, n_ranks: int = 1, batch: int = 0
) -> list[tuple[str, ...]]:
    """The inputs that each pass sums.

    Args:
        sizes: what the sums of every input take, group by group, in the model's order.
        budget: how many bytes sums may take in each process, with what writing the largest of them takes. None sets no
            limit.
        n_ranks: how many processes share the sums of a pass.
        batch: how many of the bytes are left to a batch. Where the largest input needs them, it gets them.

    Raises:
        ValueError: if the budget does not hold one of the inputs.

    Example:
        >>> passes_within({"a": [4, 4], "b": [4, 4], "c": [4, 4]}, budget=20)
        [('a', 'b'), ('c',)]
    """
    if budget is None:
        return [tuple(sizes)]
    largest = max(sizes, key=lambda name: sum(sizes[name]))
    room = max(budget - _to_write(sizes) - batch, sum(sizes[largest]))
    if least_budget(sizes) > budget:
        raise ValueError(
            f"budget must be {in_units(least_budget(sizes))} or more: {largest} alone takes "
            f"{in_units(sum(sizes[largest]))}, and the larger of its groups as much again while it is written; got "
            f"{in_units(budget)}. components=... leaves out what is large"
        )
    found: list[list[str]] = [[]]
    for name in sizes:
        if _fullest([*found[-1], name], sizes, n_ranks) > room:
            found.append([])
        found[-1].append(name)
    return [tuple(names) for names in found]


def _fullest(names: Iterable[str], sizes: Mapping[str, list[int]], n_ranks: int) -> int:
    """What the process holds that owns the most of these inputs."""
    taken = [0] * n_ranks
    for name, rank in owners_by_size({name: sizes[name] for name in names}, n_ranks).items():
        taken[rank] += sum(sizes[name])
    return max(taken)


def owners_by_size(sizes: Mapping[str, list[int]], n_ranks: int) -> dict[str, int]:
    """The rank that holds the sums of each input of a pass.

    Args:
        sizes: what these sums take, group by group.
        n_ranks: how many processes share them.
    """
    return owners({name: sum(of_groups) for name, of_groups in sizes.items()}, n_ranks)


def _to_write(sizes: Mapping[str, list[int]]) -> int:
    """What is held beside the sums when one of them is written: its triangle, twice."""
    return max(max(of_groups) for of_groups in sizes.values())
