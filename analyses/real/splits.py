"""Does a strength keep on unseen facts what it kept on those it was chosen by? Fifty random halves of SmolLM2's.

The strength is the largest whose 90 % interval of what is kept, on one half of the held-out facts, lies above `keep`:
`choose_alpha`'s own rule with `check=`. What it keeps of the other half is counted, for the engram of capitals. Every
fact is scored once at every strength of a grid, so a split costs nothing. `python -m analyses.real.splits --facts
folder --tofu folder` writes the results beside this file.
"""

import random
from functools import partial
from pathlib import Path

import click
import pandas as pd
import torch

import engram_interp as ei
from analyses import results
from analyses.markdown import table
from analyses.real.facts import accuracies
from analyses.real.forget_facts import CHOSEN, CHOSEN_ON, concepts, read
from engram_interp.effects.kept import Kept, kept_accuracy

RESULTS = Path(__file__).with_suffix(".json")
N_SPLITS = 50
STRENGTHS = tuple(2 ** (step / 4) for step in range(-22, 3))
"""From 0.02 to 1.4, four to each doubling."""
KEEPS = (0.95, 0.97, 0.98)


def measure(facts: Path, tofu: Path, model_name: str) -> results.Tables:
    """What every split chose, and what that keeps of the other half."""
    model, corpus = ei.load_model(model_name), read(facts, tofu)
    parts = ei.decompose(
        model, concepts(corpus, [CHOSEN_ON], {}), positions=CHOSEN.positions, eos=False, layers=CHOSEN.layers
    )
    engram = parts[CHOSEN_ON]
    _, others = corpus.others([CHOSEN_ON])

    before, after = accuracies(model, others), {}
    for alpha in STRENGTHS:
        with engram.ablated(model, alpha):
            after[alpha] = accuracies(model, others)
    rows = [one_split(seed, keep, before, after) for keep in KEEPS for seed in range(N_SPLITS)]
    return {"splits": pd.DataFrame(rows).round(5)}


def one_split(
    seed: int, keep: float, before: torch.Tensor, after: dict[float, torch.Tensor]
) -> dict[str, float | int | bool]:
    """The strength that one half chooses, and what it keeps of both halves."""
    order = random.Random(seed).sample(range(len(before)), len(before))
    chosen_by, unseen = order[: len(order) // 2], order[len(order) // 2 :]

    def kept(alpha: float, places: list[int]) -> Kept:
        return kept_accuracy(after[alpha][places], before[places])

    alpha = max((alpha for alpha in after if kept(alpha, chosen_by).low >= keep), default=min(after))
    there, here = kept(alpha, unseen), kept(alpha, chosen_by)
    return {
        "keep": keep, "seed": seed, "alpha": alpha, "chosen_by": here.share, "unseen": there.share,
        "unseen_high": there.high, "n": len(unseen),
    }  # fmt: skip


def of_splits(tables: results.Tables) -> str:
    """How many splits kept on unseen facts what they were asked to keep."""
    rows = [
        [
            f"{keep:.0%}", f"{one['alpha'].median():.2f}", f"{one['unseen'].mean():.1%}",
            f"{(one['unseen'] >= keep).sum()} of {len(one)}", f"{(one['unseen_high'] >= keep).sum()} of {len(one)}",
        ]
        for keep, one in tables["splits"].groupby("keep")
    ]  # fmt: skip
    return table(["keep", "median alpha", "unseen kept, mean", "unseen kept enough", "within its interval"], rows)


@click.command()
@click.option("--facts", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
@click.option("--tofu", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
@click.option("--model", default="smollm2-135m-instruct", show_default=True, help="A name on the hub or a folder.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS)
def main(facts: Path, tofu: Path, model: str, out: Path) -> None:
    """Choose a strength on half of the held-out facts, fifty times, and count what it keeps of the other half."""
    results.record(out, partial(measure, facts, tofu, model))
    click.echo(of_splits(results.read(out)))


if __name__ == "__main__":
    main()
