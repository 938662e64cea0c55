"""Which map finds what was planted into another model? `python -m analyses.studies.localization.other_models gpt2`.

Nothing was chosen on these models. Each of five targets is trained into one module or more; maps also see the targets
before they were planted. `gpt2` needs `--model` of `training/train_gpt2.py`, and `tofu` that of
`training/train_tofu.py`, its `full`, and `--data`.
"""

from collections.abc import Iterator
from dataclasses import replace
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
SLOW = {"ablation of one matrix", "ablation of one matrix, siblings", "K-FAC curvature mass", "learned mask"}
"""Methods that are left out where answers are long, as TOFU's are."""


def in_places(world: World, n_places: int, step: int) -> Iterator[Case]:
    """Every target in so many modules, others for each target."""
    places = modules_of(world.model)
    for number, target in enumerate(world.targets):
        mine = [places[step * (n_places * number + shift) % len(places)] for shift in range(n_places)]
        for case in planted(world.model, [target], world.reference, mine):
            yield replace(case, target_set=number)


def tables(*boards: Leaderboard) -> results.Tables:
    """All cases, and what they say of each method."""
    cases = pd.concat([board.table for board in boards], ignore_index=True)
    summary = Leaderboard(cases).to_frame().rename_axis("method").reset_index()
    return {"summary": summary.round(4), "cases": cases.round(4)}


def measure_gpt2(model: Path) -> results.Tables:
    """Every method on fifteen planted memories, and ours on decoys and on unknown targets."""
    world = gpt2(model)
    every = {**every_method(world.model), **RIVALS}
    ours = {name: every[name] for name in OURS}
    return tables(
        localization(every, in_places(world, 3, 1)),
        localization(ours, decoys(world.model, world.targets, world.reference, modules_of(world.model))),
        localization(ours, nothing_planted(world.model, world.targets, [], world.reference)),
    )


def measure_tofu(model: Path, data: Path) -> results.Tables:
    """Most methods on five planted memories, and ours on unknown targets."""
    world = tofu(model, data)
    every = {**every_method(world.model), **RIVALS}
    ours = {name: every[name] for name in OURS}
    return tables(
        localization({name: one for name, one in every.items() if name not in SLOW}, in_places(world, 1, 3)),
        localization(ours, nothing_planted(world.model, world.targets, [], world.reference)),
    )


@click.group()
def main() -> None:
    """Plant memories into a model, and look for them."""


@main.command("gpt2")
@click.option("--model", type=Folder, required=True, help="The model of training/train_gpt2.py.")
def of_gpt2(model: Path) -> None:
    """The testbed's authors in a model of GPT-2's architecture."""
    results.record(HERE / "gpt2.json", partial(measure_gpt2, model))


@main.command("tofu")
@click.option("--model", type=Folder, required=True, help="The model `full` of training/train_tofu.py.")
@click.option("--data", type=Folder, required=True, help="TOFU's folder.")
def of_tofu(model: Path, data: Path) -> None:
    """TOFU's text in a model of the testbed's architecture."""
    results.record(HERE / "tofu.json", partial(measure_tofu, model, data))


if __name__ == "__main__":
    main()
