"""How much memory do moments take while they are summed, and how many passes does a budget make of them?

A sum takes `d^2` numbers, or its rows where these are fewer. One pass sums as many inputs as the budget holds, in the
model's order, so that early passes end in early layers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch

from engram_interp.common.arguments import in_units
from engram_interp.statistics.moments import moment_dtype, most_rows
from engram_interp.statistics.ranks import owners


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


def least_budget(sizes: Mapping[str, list[int]]) -> int:
    """The smallest budget in which every input can be summed."""
    return max(map(sum, sizes.values())) + _to_write(sizes)


def passes_within(sizes: Mapping[str, list[int]], budget: int | None, n_ranks: int = 1) -> list[tuple[str, ...]]:
    """The inputs that each pass sums.

    Args:
        sizes: what the sums of every input take, group by group, in the model's order.
        budget: how many bytes sums may take in each process, with what writing the largest of them takes. None sets no
            limit.
        n_ranks: how many processes share the sums of a pass.

    Raises:
        ValueError: if the budget does not hold one of the inputs.

    Example:
        >>> passes_within({"a": [4, 4], "b": [4, 4], "c": [4, 4]}, budget=20)
        [('a', 'b'), ('c',)]
    """
    if budget is None:
        return [tuple(sizes)]
    room = budget - _to_write(sizes)
    largest = max(sizes, key=lambda name: sum(sizes[name]))
    if sum(sizes[largest]) > room:
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
    whole = {name: sum(sizes[name]) for name in names}
    for name, rank in owners(whole, n_ranks).items():
        taken[rank] += whole[name]
    return max(taken)


def _to_write(sizes: Mapping[str, list[int]]) -> int:
    """What is held beside the sums when one of them is written: its triangle, twice."""
    return max(max(of_groups) for of_groups in sizes.values())
