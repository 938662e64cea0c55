"""How many bytes, operations and seconds does each stage take? Everything follows from the shapes of the matrices.

A moment is `d^2` numbers, half of that on disk. A position takes `2 out d` operations in each matrix, and `d^2` more
for the moment of its input, of which the lower triangle is made. A Cholesky factor takes `d^3 / 3`, and the engram of a
matrix two triangular solves and a product.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd
import torch

from engram_interp.concepts.batches import Batch
from engram_interp.linalg.triangle import triangle_size
from engram_interp.models import Adapter
from engram_interp.models.language import LanguageAdapter
from engram_interp.models.sites import Site, by_input
from engram_interp.statistics.moments import moment_dtype, most_rows
from engram_interp.statistics.planning.sizes import (
    batch_within,
    owners_by_size,
    passes_within,
    sizes_of_inputs,
    token_bytes,
    tokens_within,
)
from engram_interp.statistics.summing import Summing

MATRICES_HELD = 8
"""So many float64 matrices of its width are held at most while an input is factorised and its projector is made."""
MEASURED = 8, 128
"""Examples and tokens of the batch that is measured."""


@dataclass(frozen=True)
class Shapes:
    """What a plan is made from.

    Attributes:
        adapter: the model.
        sites: the matrices.
        counts: how many positions count, by group.
    """

    adapter: Adapter
    sites: list[Site]
    counts: Mapping[str, int]

    @cached_property
    def dtype(self) -> torch.dtype:
        """The precision of activations."""
        return self.adapter.parameter(self.sites[0].path).dtype

    @cached_property
    def widths(self) -> dict[str, int]:
        """The size of every input."""
        return self.adapter.widths(by_input(self.sites))

    @cached_property
    def sizes(self) -> dict[str, list[int]]:
        """What the sums of every input take, group by group."""
        return sizes_of_inputs(self.widths, self.counts.values(), self.dtype)

    @cached_property
    def outs(self) -> dict[str, int]:
        """How many outputs every matrix has."""
        return {site.key: self.adapter.shape(site)[0] for site in self.sites}

    @cached_property
    def token(self) -> int:
        """About the bytes that a token of a batch takes; none of a model that is given batches."""
        return token_bytes(self.adapter) if isinstance(self.adapter, LanguageAdapter) else 0

    @property
    def n(self) -> int:
        """How many positions count."""
        return sum(self.counts.values())

    def parameters(self, site: Site) -> int:
        """How many numbers a matrix is."""
        return self.outs[site.key] * self.widths[site.input]

    def engram(self, site: Site) -> int:
        """The bytes of a matrix's engram."""
        return self.parameters(site) * torch.promote_types(self.dtype, torch.float32).itemsize

    def file(self, name: str) -> int:
        """The bytes of an input's moments on disk: a triangle and a sum for each group, or rows."""
        d = self.widths[name]
        triangle = triangle_size(d) * moment_dtype(d, self.dtype).itemsize + d * 8
        most = most_rows(d, self.dtype)
        return sum(n * d * self.dtype.itemsize if n <= most else triangle for n in self.counts.values())


def inputs_table(shapes: Shapes, passes: list[tuple[str, ...]], ranks: int) -> pd.DataFrame:
    """A row for each input, with the pass that sums it and the process that owns it."""
    in_pass = {name: i for i, names in enumerate(passes) for name in names}
    of_passes = [{name: shapes.sizes[name] for name in names} for names in passes]
    owner = {name: rank for sizes in of_passes for name, rank in owners_by_size(sizes, ranks).items()}
    return pd.DataFrame(
        {
            "input": str(name),
            "width": shapes.widths[name],
            "matrices": len(readers),
            "sums": sum(shapes.sizes[name]),
            "file": shapes.file(name),
            "rows": shapes.n * shapes.widths[name] * shapes.dtype.itemsize,
            "pass": in_pass[name],
            "rank": owner[name],
        }
        for name, readers in by_input(shapes.sites).items()
    )


def components_table(shapes: Shapes) -> pd.DataFrame:
    """A row for each component. Components that read the same inputs have the same bytes of moments."""
    found = []
    for component in dict.fromkeys(site.component for site in shapes.sites):
        mine = [site for site in shapes.sites if site.component == component]
        found.append(
            {
                "component": component,
                "matrices": len(mine),
                "parameters": sum(map(shapes.parameters, mine)),
                "moments": sum(sum(shapes.sizes[name]) for name in by_input(mine)),
                "engrams": sum(map(shapes.engram, mine)),
            }
        )
    return pd.DataFrame(found)


def stages_table(shapes: Shapes, inputs: pd.DataFrame, devices: int, room: int | None) -> pd.DataFrame:
    """Bytes of each stage, in the process or on the device that holds the most, and in all."""
    d = int(inputs["width"].max())
    held = inputs.groupby(["pass", "rank"])["sums"].sum()
    weights = sum(one.numel() * one.element_size() for one in shapes.adapter.model.parameters())
    engrams = sum(map(shapes.engram, shapes.sites))
    widest = max((shapes.outs[site.key] for site in shapes.sites if shapes.widths[site.input] == d), default=0)
    solve = 8 * (MATRICES_HELD * d * d + 3 * widest * d)
    tokens = tokens_within(shapes.token, room)
    rows = [
        ("weights", "the model itself", weights // devices, weights),
        ("batch", f"activations of {tokens} tokens, about", tokens * shapes.token, tokens * shapes.token),
        ("sums", "moments in memory, in the largest pass", int(held.max()), int(inputs["sums"].sum())),
        ("store", "moments on disk, as triangles", int(inputs["file"].sum()), int(inputs["file"].sum())),
        ("map", f"factorising the widest input ({d}), with one of its matrices", solve, solve),
        ("engrams", "what extract keeps", engrams, engrams),
        ("rows", 'what null="siblings" or "resampled" keeps', int(inputs["rows"].sum()), int(inputs["rows"].sum())),
    ]
    return pd.DataFrame(rows, columns=["stage", "what", "each", "all"])


def without_table(shapes: Shapes, room: int | None, ranks: int) -> pd.DataFrame:
    """What is left of the sums, and in how many passes, without the matrices that read each kind of input.

    An input is needed as long as any matrix reads it: without Q and K, V still reads theirs.
    """
    readers: dict[str, list[str]] = {}
    for site in shapes.sites:
        names = readers.setdefault(site.input.reads, [])
        names += [] if site.component in names else [site.component]
    found = []
    for some in dict.fromkeys(map(tuple, readers.values())):
        left: dict[str, list[int]] = {
            site.input: shapes.sizes[site.input] for site in shapes.sites if site.component not in some
        }
        if left:
            total = sum(map(sum, left.values()))
            fits = room is None or max(map(sum, left.values())) + max(map(max, left.values())) <= room
            n = len(passes_within(left, room, ranks, batch_within(shapes.token, room))) if fits else None
            found.append({"without": ", ".join(some), "moments": total, "passes": n})
    return pd.DataFrame(found, columns=["without", "moments", "passes"])


@dataclass(frozen=True)
class Rate:
    """How fast it goes.

    Attributes:
        forward: seconds of one position in the whole model.
        moments: seconds of one position in the moments of all inputs.
        solving: seconds of a float64 operation in the factorisations.
        said_by: where this comes from.
    """

    forward: float
    moments: float
    solving: float
    said_by: str


def stated_rate(shapes: Shapes, flops: float) -> Rate:
    """The rate of a machine that does so many operations a second."""
    n_parameters = sum(one.numel() for one in shapes.adapter.model.parameters())
    squares = sum(d * d for d in shapes.widths.values())
    return Rate(2 * n_parameters / flops, squares / flops, 1 / flops, f"at {flops:.3g} operations a second")


def measured_rate(shapes: Shapes) -> Rate | None:
    """The rate of this machine, by one batch of random tokens; None of a model without weights or without tokens."""
    adapter = shapes.adapter
    if not isinstance(adapter, LanguageAdapter) or any(one.device.type == "meta" for one in adapter.model.parameters()):
        return None
    n, pos = MEASURED
    pos = min(pos, adapter.encoder.n_ctx or pos)
    tokens = torch.randint(adapter.encoder.d_vocab, (n, pos), generator=torch.Generator().manual_seed(0))
    every = torch.ones_like(tokens, dtype=torch.bool)
    where = torch.zeros(n, dtype=torch.long)
    batch = Batch(tokens, every, every, where, torch.arange(n), tuple(f"random[{i}]" for i in range(n)))
    last = [shapes.sites[-1].input]
    without = _fastest(lambda: adapter.run(batch, last, lambda *_: None))
    summing = Summing(shapes.sites, {"random": None})

    def summed() -> None:
        summing.see(0, batch)
        adapter.run(batch, list(by_input(shapes.sites)), summing.record(batch))
        summing.check()

    whole = _fastest(summed)
    return Rate(without / (n * pos), max(whole - without, 0.0) / (n * pos), _seconds_an_operation(shapes), "measured")


def _fastest(run: Any, times: int = 3) -> float:
    """The fastest of a few runs: the first warms up, and others are disturbed."""
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def _seconds_an_operation(shapes: Shapes) -> float:
    """By a Cholesky factor in float64, where the model's weights are."""
    d = min(max(shapes.widths.values()), 1024)
    S = torch.eye(d, dtype=torch.float64, device=shapes.adapter.parameter(shapes.sites[0].path).device)
    return _fastest(lambda: torch.linalg.cholesky(S)[-1, -1].item()) / (d**3 / 3)


def seconds_of(shapes: Shapes, passes: list[tuple[str, ...]], rate: Rate, ranks: int) -> dict[str, float]:
    """Seconds by stage. A pass ends in the last layer that it needs, and processes share the examples."""
    n_layers = max(shapes.adapter.n_layers, 1)
    squares = sum(d * d for d in shapes.widths.values())
    layer = {site.input: site.layer for site in shapes.sites}
    forward = moments = 0.0
    for names in passes:
        ends = [layer[name] for name in names]  # pyright: ignore[reportArgumentType]
        depth = n_layers if None in ends else max(one for one in ends if one is not None) + 1
        forward += rate.forward * depth / n_layers
        moments += rate.moments * sum(shapes.widths[name] ** 2 for name in names) / squares
    work = sum(d**3 / 3 for d in shapes.widths.values())
    work += sum(3 * shapes.outs[site.key] * shapes.widths[site.input] ** 2 for site in shapes.sites)
    return {
        "forward": forward * shapes.n / ranks,
        "moments": moments * shapes.n / ranks,
        "map": rate.solving * work / ranks,
    }
