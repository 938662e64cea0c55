"""Which map finds what was planted into another model? `python -m analyses.studies.localization.other_models gpt2`.

Nothing was chosen on these models. Each of five targets is trained into a few modules; maps also see decoys, and the
targets before they were planted. `gpt2` needs `--model` of `training/train_gpt2.py`, and `tofu` that of
`training/train_tofu.py`, its `full`, and `--data`.
"""

from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path

import click
import pandas as pd

from analyses import results
from analyses.studies.localization.methods import OURS, every_method
from analyses.studies.localization.rivals import RIVALS
from analyses.studies.localization.worlds import Folder, World, gpt2, tofu
from engram_interp.benchmarks import Case, Leaderboard, decoys, localization, modules_of, nothing_planted, planted

HERE = Path(__file__).parent
SLOW = ("ablation of one matrix", "ablation of one matrix, siblings", "W-Norm, delta (told the base)")
"""Methods that are left out where answers are long, as TOFU's are: they run the model once for every matrix, or solve
for its engram again."""


def places_of_target(world: World, n_places: int) -> Iterator[Case]:
    """Every target in so many modules; all targets together visit all modules."""
    places = modules_of(world.model)
    mine = {
        number: {places[(n_places * number + shift) % len(places)].name for shift in range(n_places)}
        for number in range(len(world.targets))
    }
    for case in planted(world.model, world.targets, world.reference, places):
        if case.place and case.place.name in mine[case.target_set]:
            yield case


def measure(world: World, n_places: int, without: Collection[str] = ()) -> results.Tables:
    """Every method on planted memories, and ours on decoys and on unknown targets."""
    every = {name: one for name, one in {**every_method(world.model), **RIVALS}.items() if name not in without}
    ours = {name: every[name] for name in OURS}
    places = modules_of(world.model)
    found = localization(every, places_of_target(world, n_places)).table
    beside = localization(ours, decoys(world.model, world.targets, world.reference, places)).table
    before = localization(ours, nothing_planted(world.model, world.targets, [], world.reference)).table
    cases = pd.concat([found, beside, before], ignore_index=True)
    summary = Leaderboard(cases).to_frame().rename_axis("method").reset_index()
    return {"summary": summary.round(4), "cases": cases.round(4)}


@click.group()
def main() -> None:
    """Plant memories into a model, and look for them."""


@main.command("gpt2")
@click.option("--model", type=Folder, required=True, help="The model of training/train_gpt2.py.")
def of_gpt2(model: Path) -> None:
    """The testbed's authors in a model of GPT-2's architecture."""
    results.record(HERE / "gpt2.json", partial(measure, gpt2(model), 3))


@main.command("tofu")
@click.option("--model", type=Folder, required=True, help="The model `full` of training/train_tofu.py.")
@click.option("--data", type=Folder, required=True, help="TOFU's folder.")
def of_tofu(model: Path, data: Path) -> None:
    """TOFU's text in a model of the testbed's architecture."""
    results.record(HERE / "tofu.json", partial(measure, tofu(model, data), 2, SLOW))


if __name__ == "__main__":
    main()
