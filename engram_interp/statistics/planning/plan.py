"""How much memory, disk, time and how many passes will it take? A table, before anything runs.

Passes are divided as `collect` divides them, by the same function. `tables.py` has the formulas.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch

from engram_interp.common.arguments import in_units, n_bytes, number, whole
from engram_interp.concepts.concept import REFERENCE, TARGET
from engram_interp.models import Adapter, adapt
from engram_interp.models.outline import Source, outline
from engram_interp.models.selection import readable_sites
from engram_interp.options import Which, takes
from engram_interp.statistics.planning import tables
from engram_interp.statistics.planning.sizes import batch_within, least_budget, passes_within
from engram_interp.statistics.planning.tables import Shapes


@dataclass(frozen=True, eq=False)
class Plan:
    """What statistics of a model take. It shows itself as a table.

    Attributes:
        name: the model's.
        inputs: a row for each input: width, matrices, bytes of its sums, its file and its rows, its pass, its owner.
        components: a row for each component: matrices, parameters, bytes of its inputs' moments and of its engrams.
        stages: a row for each stage: bytes in the process that holds the most, and in all.
        passes: the inputs that each pass sums.
        seconds: by stage; None if no rate is known.
        said_by: where the seconds come from.
        least_budget: the smallest budget that holds every input, in bytes.
        without: a row for each kind of input: what is left without the components that read it, and in how many passes.
        to_run: the calls that do it.
    """

    name: str
    inputs: pd.DataFrame
    components: pd.DataFrame
    stages: pd.DataFrame
    passes: list[tuple[str, ...]]
    seconds: dict[str, float] | None
    said_by: str
    least_budget: int
    without: pd.DataFrame
    to_run: tuple[str, ...]

    def __repr__(self) -> str:
        parts = [self.lead, _in_units(self.stages, "each", "all").to_string(index=False)]
        if len(self.passes) > 1 and len(self.without):
            parts.append("To fit in fewer passes, leave out components; what is left then takes:")
            parts.append(_in_units(self.without, "moments").to_string(index=False, na_rep="-"))
        return "\n".join([*parts, "To run:", *(f"  {line}" for line in self.to_run)])

    def _repr_html_(self) -> str:
        from engram_interp.common.html import table_html

        return table_html("Plan", self.name, self.lead, _in_units(self.stages, "each", "all").set_index("stage"))

    @property
    def lead(self) -> str:
        """The plan in a sentence."""
        n = len(self.passes)
        found = f"{len(self.inputs)} inputs in {n} {'pass' if n == 1 else 'passes'}"
        if self.seconds is None:
            return f"{found}; flops=... says how long it takes"
        said = ", ".join(f"{name} {duration(seconds)}" for name, seconds in self.seconds.items())
        return f"{found}, about {duration(sum(self.seconds.values()))} ({said}; {self.said_by})"

    def to_frame(self) -> pd.DataFrame:
        """A row for each stage: `stage`, `what`, bytes in `each` process and in `all`."""
        return self.stages.copy()


@takes(Which)
def plan(
    model: Source,
    n_tokens: int | Mapping[str, int] = 100_000,
    *,
    groups: int = 2,
    budget: int | str | None = None,
    devices: int = 1,
    ranks: int = 1,
    flops: float | int | None = None,
    dtype: torch.dtype | None = None,
    which: Which,
) -> Plan:
    """What `collect`, `localize` and `extract` will take: bytes by stage, passes within a budget, seconds.

    Args:
        model: a model; or a Hugging Face configuration, or a folder or file that holds one, for which no weight is
            needed.
        n_tokens: how many positions count. A number stands for each group; `{"target": 3000, "reference": 1000000}`
            says it by group. A group with few of them is kept as rows.
        groups: how many groups of examples there are, if `n_tokens` is a number.
        budget: how much memory sums may take in each process, as in `collect`.
        devices: over how many devices the model's weights are spread.
        ranks: how many processes share the sums.
        flops: floating-point operations a second of each process. None measures a batch, if the model has weights.
        dtype: the precision of the weights that a configuration would have.

    Raises:
        ValueError: if the budget does not hold the largest input, or a number is out of range.
        FileNotFoundError: if a path leads nowhere.
        TypeError: if `model` is nothing of this.

    Example:
        >>> from transformers import LlamaConfig
        >>> found = plan(LlamaConfig(num_hidden_layers=2, hidden_size=64, intermediate_size=128), budget="600KB")
        >>> len(found.inputs), len(found.passes)
        (9, 3)
    """
    counts = _counts(n_tokens, groups)
    room = None if budget is None else n_bytes(budget, "budget")
    ranks, devices = whole(ranks, "ranks", at_least=1), whole(devices, "devices", at_least=1)
    if flops is not None and number(flops, "flops") <= 0:
        raise ValueError(f"flops must be above 0, operations a second; got {flops}")
    adapter = adapt(outline(model, dtype))
    name = _name(adapter)
    sites = readable_sites(name, adapter.all_sites(), adapter.unreadable, which.components, which.layers)
    shapes = Shapes(adapter, sites, counts)
    passes = passes_within(shapes.sizes, room, ranks, batch_within(shapes.token, room))
    inputs = tables.inputs_table(shapes, passes, ranks)
    rate = tables.measured_rate(shapes) if flops is None else tables.stated_rate(shapes, float(flops))
    return Plan(
        name=name,
        inputs=inputs,
        components=tables.components_table(shapes),
        stages=tables.stages_table(shapes, inputs, devices, room),
        passes=passes,
        seconds=None if rate is None else tables.seconds_of(shapes, passes, rate, ranks),
        said_by="" if rate is None else rate.said_by,
        least_budget=least_budget(shapes.sizes),
        without=tables.without_table(shapes, room, ranks),
        to_run=_to_run(budget, ranks),
    )


def duration(seconds: float) -> str:
    """Seconds for people.

    Example:
        >>> duration(0.25), duration(90.0), duration(7300.0)
        ('0.2 s', '90 s', '2.0 h')
    """
    if seconds < 100:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _in_units(table: pd.DataFrame, *columns: str) -> pd.DataFrame:
    return table.assign(**{name: table[name].map(in_units) for name in columns})


def _counts(n_tokens: object, groups: object) -> dict[str, int]:
    """How many positions count, by group."""
    if isinstance(n_tokens, Mapping):
        if not n_tokens:
            raise ValueError("n_tokens must hold a number for each group; got none")
        return {str(group): whole(n, f"n_tokens of {group}", at_least=1) for group, n in n_tokens.items()}
    n, n_groups = whole(n_tokens, "n_tokens", at_least=1), whole(groups, "groups", at_least=1)
    names = [TARGET, REFERENCE, *(f"group {i}" for i in range(2, n_groups))][:n_groups]
    return dict.fromkeys(names, n)


def _name(adapter: Adapter) -> str:
    """The model's name, as far as its configuration has one: a model without weights has no fingerprint."""
    config: Any = getattr(adapter.model, "config", None) or getattr(adapter.model, "cfg", None)
    made_of = getattr(adapter.model, "original_model", adapter.model)
    named = getattr(config, "_name_or_path", "") or getattr(config, "model_name", "")
    return str(named or type(made_of).__name__)


def _to_run(budget: int | str | None, ranks: int) -> tuple[str, ...]:
    """The calls that collect and map as planned."""
    held = "" if budget is None else f", budget={budget!r}"
    option = "" if budget is None else f" --budget {str(budget).replace(' ', '')}"
    started = "engram-interp" if ranks == 1 else f"torchrun --nproc-per-node {ranks} -m engram_interp"
    return (
        f'statistics = collect(model, concept, store="statistics"{held})',
        "localize(model, statistics)",
        f"{started} collect --model ... --target ... --reference ... --store statistics{option}",
        "engram-interp localize --model ... --statistics statistics",
    )
