"""What does a diagnosis cost beside extracting an engram, and what does a filter?

Prints, of statistics that are at hand: the seconds of `extract` with the paper's filter and with another, and of
`diagnose` with no cut but its own and with all that it compares. Read the ratios: seconds depend on the machine.
"""

import statistics
import time
from collections.abc import Callable

import click
import torch
from transformer_lens import HookedTransformer, HookedTransformerConfig

import engram_interp as ei


def seconds(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


@click.command()
@click.option("--d-model", default=1024, show_default=True)
@click.option("--repeats", default=3, show_default=True)
def main(d_model: int, repeats: int) -> None:
    cfg = HookedTransformerConfig(
        n_layers=1, d_model=d_model, n_heads=d_model // 64, d_head=64, d_mlp=2 * d_model, n_ctx=128, d_vocab=1000,
        act_fn="silu", gated_mlp=True, normalization_type="RMS", positional_embedding_type="rotary", seed=0,
    )  # fmt: skip
    model = HookedTransformer(cfg)
    tokens = torch.randint(0, 1000, (64, 128), generator=torch.Generator().manual_seed(0))
    found = ei.collect(model, ei.Concept.from_tokens(tokens[:8], tokens[8:]), progress=False)
    runs: dict[str, Callable[[], object]] = {
        "extract": lambda: ei.extract(model, found),
        "extract, power(2)": lambda: ei.extract(model, found, filter=ei.filters.power(2)),
        "diagnose, one cut": lambda: ei.diagnose(model, found, rtols=[]),
        "diagnose": lambda: ei.diagnose(model, found),
    }
    ei.extract(model, found)  # warms up
    medians = {name: statistics.median(seconds(run) for _ in range(repeats)) for name, run in runs.items()}
    for name, value in medians.items():
        click.echo(f"{name:20s} {value:7.3f} s   {value / medians['extract']:.2f} x extract")


if __name__ == "__main__":
    main()
