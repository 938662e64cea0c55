"""Which map finds what was planted into another model? `python -m analyses.studies.localization.other_models gpt2`.

Nothing was chosen on these models. Each of five targets is trained into one module or more; maps also see the targets
before they were planted. `gpt2` needs `--model` of `training/train_gpt2.py`, and `tofu` that of
`training/train_tofu.py`, its `full`, and `--data`.
"""

from pathlib import Path

import click

from analyses import results
from analyses.studies.localization.methods import OURS, every_method
from analyses.studies.localization.rivals import RIVALS
from analyses.studies.localization.worlds import Folder, World, gpt2, in_places, tables, tofu
from engram_interp.benchmarks import Place, localization, modules_of, nothing_planted

HERE = Path(__file__).parent
SLOW = {"ablation of one matrix", "ablation of one matrix, siblings", "K-FAC curvature mass", "learned mask"}
"""Methods that are left out here: they take a minute or more for each memory."""


def places_of(world: World, n_places: int, step: int) -> list[list[Place]]:
    """So many modules for every target, others for each."""
    places, n = modules_of(world.model), len(world.targets)
    return [[places[step * (n_places * i + shift) % len(places)] for shift in range(n_places)] for i in range(n)]


def measure(world: World, n_places: int, step: int) -> results.Tables:
    """Most methods on planted memories, and ours on unknown targets."""
    every = {name: one for name, one in {**every_method(world.model), **RIVALS}.items() if name not in SLOW}
    ours = {name: every[name] for name in OURS}
    return tables(
        localization(every, in_places(world, places_of(world, n_places, step))),
        localization(ours, nothing_planted(world.model, world.targets, [], world.reference)),
    )


@click.group()
def main() -> None:
    """Plant memories into a model, and look for them."""


@main.command("gpt2")
@click.option("--model", type=Folder, required=True, help="The model of training/train_gpt2.py.")
def of_gpt2(model: Path) -> None:
    """The testbed's authors in a model of GPT-2's architecture."""
    results.record(HERE / "gpt2.json", lambda: measure(gpt2(model), 2, 5), __file__)


@main.command("tofu")
@click.option("--model", type=Folder, required=True, help="The model `full` of training/train_tofu.py.")
@click.option("--data", type=Folder, required=True, help="TOFU's folder.")
def of_tofu(model: Path, data: Path) -> None:
    """TOFU's text in a model of the testbed's architecture."""
    results.record(HERE / "tofu.json", lambda: measure(tofu(model, data), 1, 3), __file__)


if __name__ == "__main__":
    main()
