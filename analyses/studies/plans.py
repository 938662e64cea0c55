"""What would statistics of 1B, 8B and 70B models take? By `plan`, from configurations alone: nothing here is measured.

A target of 3000 tokens and a reference of a million, weights in bf16. `python -m analyses.studies.plans`.
"""

from pathlib import Path
from typing import Any

import pandas as pd
from transformers import LlamaConfig

import engram_interp as ei
from analyses import results
from analyses.markdown import table
from analyses.results import Tables
from engram_interp.common.arguments import in_units
from engram_interp.statistics.planning.plan import duration

SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
MODELS = {
    "1B": (2048, 8192, 16, 32, 8),  # as Llama 3.2 1B
    "8B": (4096, 14336, 32, 32, 8),  # as Llama 3.1 8B
    "70B": (8192, 28672, 80, 64, 8),  # as Llama 3.1 70B
}
SETUPS: tuple[tuple[str, str | None, int, int], ...] = (
    ("1B", None, 1, 1), ("1B", "2GB", 1, 1),
    ("8B", None, 1, 1), ("8B", "24GB", 1, 1), ("8B", "24GB", 1, 4), ("8B", "8GB", 1, 1),
    ("70B", "64GB", 4, 1), ("70B", "64GB", 4, 8), ("70B", "32GB", 4, 32),
)  # fmt: skip
"""Models, budgets, devices for the weights, and processes."""
N_TOKENS = {"target": 3000, "reference": 10**6}
FLOPS = 1.5e14
"""Operations a second of each process, as a large GPU does in bf16."""
RESULTS = Path(__file__).with_suffix(".json")


def planned(name: str, budget: str | None, devices: int, ranks: int) -> ei.Plan:
    """The plan of a model."""
    sizes: dict[str, Any] = dict(zip(SIZES, MODELS[name], strict=True))
    config = LlamaConfig(vocab_size=128256, tie_word_embeddings=name == "1B", dtype="bfloat16", **sizes)
    return ei.plan(config, N_TOKENS, budget=budget, devices=devices, ranks=ranks, flops=FLOPS)


def measure() -> Tables:
    """A row for each setup."""
    rows = []
    for name, budget, devices, ranks in SETUPS:
        found = planned(name, budget, devices, ranks)
        in_all, in_each = (found.stages.set_index("stage")[column].to_dict() for column in ("all", "each"))
        assert found.seconds is not None
        rows.append(
            {
                "model": name, "budget": budget or "", "processes": ranks, "passes": len(found.passes),
                **{stage: in_all[stage] for stage in ("weights", "sums", "store", "map", "engrams", "rows")},
                "each": in_each["sums"], "seconds": sum(found.seconds.values()),
            }
        )  # fmt: skip
    return {"plans": pd.DataFrame(rows)}


def of_plans(tables: Tables) -> str:
    """What `plan` says of each setup."""
    rows = []
    for row in tables["plans"].to_dict("records"):
        sizes = [in_units(row[name]) for name in ("weights", "sums", "store")]
        each, solving = in_units(row["each"]), in_units(row["map"])
        setup = [row["budget"] or "none", f"{row['processes']}", f"{row['passes']}"]
        rows.append([row["model"], *sizes, *setup, each, solving, duration(row["seconds"])])
    head = ["model", "weights", "all sums", "store", "budget", "processes", "passes"]
    return table([*head, "sums in each", "a map in each", "time"], rows)


if __name__ == "__main__":
    results.record(RESULTS, measure)
