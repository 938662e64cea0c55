"""What does it take where memory is short, and does the plan say so? `python -m benchmarks.scale` prints a table.

Lines on memory are to be run before all else: a process keeps memory that was freed, and what is taken from there would
not be seen. So each comes from a process of its own, as do those that share work.
"""

from __future__ import annotations

import logging
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any

import click
import pandas as pd
import torch
import torch.distributed as dist
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

import engram_interp as ei
from analyses import results
from benchmarks.timing import Row, peak_megabytes
from engram_interp.concepts.concept import TokenExample
from engram_interp.models.loading import bridge_of

SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
SHAPES = {
    "576 x 30": (576, 1536, 30, 9, 3),  # as SmolLM2-135M
    "1024 x 20": (1024, 1024, 20, 16, 4),
    "32 x 2": (32, 48, 2, 4, 2),
}
"""Llamas by the sizes of their configurations."""
N_VOCAB, LENGTH, BATCH_SIZE = 4096, 64, 8
N_STREAM = 10**6


def model_of(shape: str) -> nn.Module:
    """A random Llama of a shape, as a bridge."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = dict(zip(SIZES, SHAPES[shape], strict=True))
    config = LlamaConfig(vocab_size=N_VOCAB, tie_word_embeddings=False, **sizes)
    return bridge_of(shape, LlamaForCausalLM(config).eval())


def concept_of(n: int, seed: int = 0) -> ei.Concept:
    """Random tokens: as many target examples as reference examples."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(N_VOCAB, (2 * n, LENGTH), generator=generator)
    return ei.Concept.from_tokens(tokens[:n], tokens[n:])


def within_budget(shape: str, budget: str, n: int) -> Iterator[Row]:
    """Peak memory of collecting and of mapping, beside the budget, and what the plan said of bytes and passes."""
    model, concept = model_of(shape), concept_of(n)
    ei.collect(model, concept_of(BATCH_SIZE), batch_size=BATCH_SIZE, components="Q", progress=False)  # warms up
    planned = ei.plan(model, n * LENGTH, budget=budget, flops=1e12)
    room = float(budget.removesuffix("MB"))
    passes: list[int] = []
    block: Any = model.get_submodule("blocks.0")
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        run: dict[str, Any] = {"progress": False}
        peak = peak_megabytes(lambda: ei.collect(model, concept, store=store, budget=budget, **run))
        size = sum(one.stat().st_size for one in store.glob("*.safetensors")) / 1e6
        mapped = peak_megabytes(lambda: ei.localize(model, ei.Statistics.open(store), progress=False))
        block.register_forward_hook(lambda _module, args, _out: passes.append(len(args[0])))
        ei.collect(model, concept, store=Path(folder) / "again", budget=budget, **run)
    on = f"{shape}, {budget}"
    stages = planned.stages.set_index("stage")["all"] / 1e6
    if peak is not None and mapped is not None:
        yield Row("collect, peak memory", on, peak, "MB", peak / room, "the budget")
        yield Row("map from the store, peak memory", on, mapped, "MB", mapped / room, "the budget")
    yield Row("all sums", on, float(stages["sums"]), "MB", float(stages["sums"]) / room, "the budget")
    yield Row("the store", on, size, "MB", size / float(stages["store"]), "the plan")
    n_passes = sum(passes) / (2 * n)
    yield Row("passes", on, n_passes, "", n_passes / len(planned.passes), "the plan")


def time_of_a_store(shape: str, n: int) -> Iterator[Row]:
    """Seconds with a store over those in memory, and of several passes over those that the plan says."""
    model, concept = model_of(shape), concept_of(n)
    run: dict[str, Any] = {"batch_size": BATCH_SIZE, "progress": False}
    ei.collect(model, concept_of(BATCH_SIZE), **run)
    in_memory = _seconds(lambda: ei.collect(model, concept, **run))
    with tempfile.TemporaryDirectory() as folder:
        stored = _seconds(lambda: ei.collect(model, concept, store=Path(folder) / "a", **run))
        planned = ei.plan(model, n * LENGTH, budget="600MB")
        several = _seconds(lambda: ei.collect(model, concept, store=Path(folder) / "b", budget="600MB", **run))
    one = ei.plan(model, n * LENGTH).seconds
    assert planned.seconds is not None
    assert one is not None
    foretold = planned.seconds["forward"] + planned.seconds["moments"]
    yield Row("collect into a store", shape, stored, "s", stored / in_memory, "in memory")
    yield Row(f"collect in {len(planned.passes)} passes", shape, several, "s", several / in_memory, "in one, in memory")
    yield Row("seconds of these passes", shape, foretold, "s", foretold / several, "measured")


def shared(shape: str, n: int) -> Iterator[Row]:
    """Seconds of two processes with a thread each, over those of one with two threads."""
    alone = _in_processes(1, 2, shape, n)
    two = _in_processes(2, 1, shape, n)
    yield Row("collect, two processes", shape, two, "s", two / alone, "one of two threads")


def stream(n: int) -> Iterator[Row]:
    """How memory grows over a stream of short examples."""
    model, target = model_of("32 x 2"), concept_of(8).target

    def examples(n: int) -> Iterator[TokenExample]:
        every = torch.ones(4, dtype=torch.bool)
        return (TokenExample(torch.tensor([1, i % N_VOCAB, i // 7 % N_VOCAB, 3]), every) for i in range(n))

    ei.collect(model, ei.Concept(target, examples(20_000)), progress=False)  # warms up
    few = peak_megabytes(lambda: ei.collect(model, ei.Concept(target, examples(20_000)), progress=False))
    many = peak_megabytes(lambda: ei.collect(model, ei.Concept(target, examples(n)), progress=False))
    if few is not None and many is not None:
        yield Row(f"a stream of {n} examples, peak memory", "32 x 2", many, "MB", many / max(few, 1.0), "20000 of them")


def _seconds(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def _in_processes(n_processes: int, threads: int, shape: str, n: int) -> float:
    """Seconds that so many processes take together."""
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(n_processes, spawn) as pool:
        running = [
            pool.submit(_collecting, rank, n_processes, threads, shape, n, folder) for rank in range(n_processes)
        ]
        return max(one.result() for one in running)


def _collecting(rank: int, size: int, threads: int, shape: str, n: int, folder: str) -> float:
    """Seconds of one process."""
    torch.set_num_threads(threads)
    if size > 1:
        dist.init_process_group("gloo", f"file://{folder}/group", rank=rank, world_size=size)
    model, concept = model_of(shape), concept_of(n)
    run: dict[str, Any] = {"batch_size": BATCH_SIZE, "progress": False}
    ei.collect(model, concept_of(BATCH_SIZE), **run)
    found = _seconds(lambda: ei.collect(model, concept, store=Path(folder) / "store", **run))
    if size > 1:
        dist.destroy_process_group()
    return found


def _rows_of(name: str, arguments: tuple[Any, ...]) -> list[Row]:
    logging.getLogger("engram_interp").setLevel(logging.ERROR)
    return list(globals()[name](*arguments))


def _apart(name: str, *arguments: Any) -> list[Row]:
    """The lines of a function, made in a process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_rows_of, name, arguments).result()


PARTS: dict[str, list[tuple[Any, ...]]] = {
    "memory": [("within_budget", "1024 x 20", "170MB", 50), ("within_budget", "576 x 30", "1000MB", 50)],
    "stream": [("stream", N_STREAM)],
    "time": [("time_of_a_store", "576 x 30", 100)],
    "processes": [],
}
"""What each part measures, in processes of their own."""


@click.command()
@click.option("--part", "parts", multiple=True, type=click.Choice([*PARTS]), help="All by default.")
@click.option("--json", "record", type=click.Path(path_type=Path), help="Write these parts' lines to this file too.")
def main(parts: tuple[str, ...], record: Path | None) -> None:
    """Print the table."""
    logging.getLogger("engram_interp").setLevel(logging.ERROR)
    for part in parts or PARTS:
        # Processes that share work are started from here: one cannot start others from within another.
        found = shared("576 x 30", 60) if part == "processes" else (row for one in PARTS[part] for row in _apart(*one))
        rows = []
        for row in found:
            click.echo(f"{row.on:22s} {row.what:44s} {row.value:9.2f} {row.unit:2s} {row.ratio:6.2f} x {row.over}")
            rows.append({"part": part, **vars(row)})
        if record is not None:
            _write(record, part, pd.DataFrame(rows))


def _write(record: Path, part: str, rows: pd.DataFrame) -> None:
    """Put a part's lines in the place of those that the file has."""
    if record.is_file():
        before = results.read(record)["rows"]
        rows = pd.concat([before[before["part"] != part], rows])
    made = {"script": "python -m benchmarks.scale", "machine": results.machine(), "date": date.today().isoformat()}
    results.write(record, made, rows=rows)


if __name__ == "__main__":
    main()
