"""How long do several runs take, and how much memory? They take turns, so that all meet a slow spell alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from engram_interp.common.heap import give_back_freed


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        what: what was measured.
        on: on which model.
        value: how much it took, in `unit`.
        unit: `s` or `MB`.
        ratio: over what `over` names.
        over: what it is compared with.
    """

    what: str
    on: str
    value: float
    unit: str
    ratio: float
    over: str


def medians(runs: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of every run. A first round warms up and is not counted."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats + 1):
        for name, run in runs.items():
            began = time.perf_counter()
            run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if repeat:
                taken[name].append(time.perf_counter() - began)
    return {name: statistics.median(times) for name, times in taken.items()}


def peak_megabytes(run: Callable[[], object]) -> float | None:
    """The most memory that a run holds beyond what is held before it, in MB; None where the system does not say."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    clear = Path("/proc/self/clear_refs")
    if not clear.exists():
        return None
    give_back_freed()  # what is taken from freed memory would not be seen
    clear.write_text("5")  # resets the peak
    before = _resident("VmRSS")
    run()
    return (_resident("VmHWM") - before) / 1e3


def _resident(field: str) -> float:
    """Kilobytes of memory, now (`VmRSS`) or at most (`VmHWM`)."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return float(line.split()[1])
