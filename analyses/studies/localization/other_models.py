"""Which map finds what was planted into another model? `python -m analyses.studies.localization.other_models gpt2`.

Nothing was chosen on these models. Each of five targets is trained into three modules; maps also see decoys, and the
targets before they were planted. `gpt2` needs `--model` of `training/train_gpt2.py`, and `tofu` that of
`training/train_tofu.py`, its `full`, and `--data`.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import click
import pandas as pd

from analyses import results
from analyses.studies.localization.methods import OURS, every_method
from analyses.studies.localization.rivals import RIVALS
from analyses.studies.localization.worlds import WORLDS, World, load
from engram_interp.benchmarks import Case, Leaderboard, decoys, localization, modules_of, nothing_planted, planted

N_PLACES = 3


def places_of_target(world: World) -> Iterator[Case]:
    """Every target in three modules; all targets together visit all modules."""
    places = modules_of(world.model)
    mine = {
        number: {places[(N_PLACES * number + shift) % len(places)].name for shift in range(N_PLACES)}
        for number in range(len(world.targets))
    }
    for case in planted(world.model, world.targets, world.reference, places):
        if case.place and case.place.name in mine[case.target_set]:
            yield case


def measure(world: World) -> results.Tables:
    """Every method on planted memories, and ours on decoys and on unknown targets."""
    every = {**every_method(world.model), **RIVALS}
    ours = {name: every[name] for name in OURS}
    places = modules_of(world.model)
    found = localization(every, places_of_target(world)).table
    beside = localization(ours, decoys(world.model, world.targets, world.reference, places)).table
    before = localization(ours, nothing_planted(world.model, world.targets, [], world.reference)).table
    cases = pd.concat([found, beside, before], ignore_index=True)
    summary = Leaderboard(cases).to_frame().rename_axis("method").reset_index()
    return {"summary": summary.round(4), "cases": cases.round(4)}


@click.command()
@click.argument("world", type=click.Choice(WORLDS[1:]))
@click.option("--model", type=click.Path(exists=True, file_okay=False, path_type=Path), help="The model's folder.")
@click.option("--data", type=click.Path(exists=True, file_okay=False, path_type=Path), help="TOFU's folder.")
def main(world: str, model: Path | None, data: Path | None) -> None:
    """Plant memories into a model, and look for them."""
    results.record(Path(__file__).with_name(f"{world}.json"), partial(measure, load(world, model, data)))


if __name__ == "__main__":
    main()
