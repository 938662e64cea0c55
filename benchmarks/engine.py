"""How near is `collect` to what the arithmetic must cost, and how long does a map take beside the authors' package?

The floor of `collect` is the model's forward pass without the unembedding, plus half of the moments' multiply-adds
(they are symmetric) at the rate of a product measured here. `ai-engram` runs on the same weights and tokens: its
statistics of the target and of everything, then its engrams.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from engram import EditorConfig, EngramEditor

import engram_interp as ei
from benchmarks.models import BATCH_SIZE, DEVICE, DTYPE, LENGTH, N_TARGET, SHAPES, Subject, subject
from benchmarks.timing import Row, medians, peak_megabytes
from engram_interp.models import adapt
from engram_interp.models.sites import by_input
from engram_interp.statistics.planning.sizes import statistics_bytes

N_PRODUCTS = 10
"""So many products are timed together, since one is over in milliseconds."""


def rows(shape: str, repeats: int) -> Iterator[Row]:
    """The lines of one shape."""
    given = subject(SHAPES[shape])
    yield from memory(shape, given)
    one, concept = SHAPES[shape], given.concept
    run = {"batch_size": BATCH_SIZE, "progress": False}
    a = torch.randn(BATCH_SIZE * LENGTH, one.mlp).to(DEVICE, DTYPE)
    b = torch.randn(BATCH_SIZE * LENGTH, one.width).to(DEVICE, DTYPE)
    found = ei.collect(given.hooked, concept, **run)
    target, everything = their_statistics(given)
    took = medians(
        {
            "forward": lambda: forward(given.hooked, given.tokens),
            "bridge forward": lambda: bridge_forward(given.bridge, given.tokens),
            "gemm": lambda: [b.T @ a for _ in range(N_PRODUCTS)],
            "collect": lambda: ei.collect(given.hooked, concept, **run),
            "bridge collect": lambda: ei.collect(given.bridge, concept, **run),
            "extract": lambda: ei.extract(given.hooked, found, progress=False),
            "localize": lambda: ei.localize(given.hooked, concept, null="analytic", **run),
            "bridge localize": lambda: ei.localize(given.bridge, concept, null="analytic", **run),
            "their solve": lambda: editor(given).compute_engram_weights(target, everything),
            "theirs": lambda: editor(given).compute_engram_weights(*their_statistics(given)),
        },
        repeats,
    )
    half = given.tokens.numel() * sum(d * d for d in adapt(given.hooked).widths(found.inputs).values()) / 2
    moments = half * took["gemm"] / (N_PRODUCTS * BATCH_SIZE * LENGTH * one.width * one.mlp)
    for name, prefix in (("HookedTransformer", ""), ("bridge", "bridge ")):
        on = f"{shape} {name}"
        floor = took[f"{prefix}forward"] + moments
        yield Row("collect", on, took[f"{prefix}collect"], "s", took[f"{prefix}collect"] / floor, "the floor")
        seconds = took[f"{prefix}localize"]
        yield Row("localize, end to end", on, seconds, "s", seconds / took["theirs"], "ai-engram, end to end")
    yield Row(
        "extract",
        f"{shape} HookedTransformer",
        took["extract"],
        "s",
        took["extract"] / took["their solve"],
        "ai-engram's solve",
    )


def memory(shape: str, given: Subject) -> Iterator[Row]:
    """The line on memory: the peak of a map beside the statistics that it collects. To be run before all else.

    A process keeps memory that was freed, and what is taken from there would not be seen.
    """
    forward(given.hooked, given.tokens[:BATCH_SIZE])
    adapter = adapt(given.hooked)
    held = statistics_bytes(adapter.widths(by_input(adapter.sites())).values(), n_groups=2) / 1e6
    peak = peak_megabytes(
        lambda: ei.localize(given.hooked, given.concept, null="analytic", batch_size=BATCH_SIZE, progress=False)
    )
    if peak is not None:
        yield Row("localize, peak memory", f"{shape} HookedTransformer", peak, "MB", peak / held, "the statistics")


@torch.no_grad()
def forward(model: Any, tokens: torch.Tensor) -> None:
    """A bare pass of a HookedTransformer without the unembedding."""
    for batch in tokens.split(BATCH_SIZE):
        model(batch.to(DEVICE), return_type=None, stop_at_layer=model.cfg.n_layers)


@torch.no_grad()
def bridge_forward(bridge: Any, tokens: torch.Tensor) -> None:
    """A bare pass of a bridge's blocks and final norm."""
    for batch in tokens.split(BATCH_SIZE):
        bridge.original_model.model(batch.to(DEVICE), use_cache=False)


def editor(given: Subject) -> EngramEditor:
    """The authors' editor of the model."""
    return EngramEditor(given.hugging_face, EditorConfig())


def their_statistics(given: Subject) -> tuple[Any, Any]:
    """Their two passes: over the target, and over everything."""
    target, everything = (
        editor(given).collect_statistics(some.split(BATCH_SIZE), batch_fn=lambda batch: batch)
        for some in (given.tokens[:N_TARGET], given.tokens)
    )
    return target, everything
