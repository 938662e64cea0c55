"""Does a backward pass find what the score finds? `python -m analyses.studies.localization.reliance testbed`.

Memories planted into single modules, decoys, and targets that have no place, as the benchmark has them. `gpt2` needs
`--model` of `training/train_gpt2.py`. The formula was chosen on the testbed's first target, which is not reported, and
on five authors in SmolLM2, which are none of its targets: see `smollm.py`. `smollm` needs `--data`.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import click

from analyses import results
from analyses.studies.localization.methods import Maps, reliance
from analyses.studies.localization.other_models import places_of
from analyses.studies.localization.smollm import cases, smollm
from analyses.studies.localization.worlds import Folder, World, gpt2, in_places, tables
from engram_interp.benchmarks import (
    Case,
    decoys,
    localization,
    modules_of,
    nothing_planted,
    standard_cases,
)
from engram_interp.benchmarks.cases import ORDINARY, PLANTED
from engram_interp.benchmarks.localization import Method

HERE = Path(__file__).parent


def methods() -> Mapping[str, Method]:
    """The score with the second condition that a backward pass makes, and what that pass says alone."""
    with_gradient = Maps(gradient=True)
    return {
        "score, if relied on": with_gradient.by_matrix("score", "score_p_value"),
        "reliance": with_gradient.by_matrix("reliance", "reliance_p_value"),
    }


def of_testbed() -> results.Tables:
    """The benchmark's cases, without those that the formula was chosen on, and without ordinary targets."""
    chosen = (
        case for case in standard_cases() if (case.target_set, case.kind) != (0, PLANTED) and case.kind != ORDINARY
    )
    return tables(localization(methods(), chosen))


def of_world(world: World, n_places: int, step: int) -> results.Tables:
    """The cases of `other_models`, with decoys beside them.

    The score alone is there too: `other_models` has it without decoys.
    """
    every_method = {"score": Maps().by_matrix("score", "score_p_value"), **methods()}
    every: Iterable[Iterable[Case]] = (
        in_places(world, places_of(world, n_places, step)),
        decoys(world.model, world.targets, world.reference, modules_of(world.model)),
        nothing_planted(world.model, world.targets, [], world.reference),
    )
    return tables(*(localization(every_method, some) for some in every))


def of_smollm(data: Path) -> results.Tables:
    """The cases of `smollm.py`."""
    return tables(localization({"reliance": reliance}, cases(smollm(data))))


@click.group()
def main() -> None:
    """Plant memories, and look for them with a backward pass."""


@main.command("testbed")
def testbed() -> None:
    """The testbed's cases."""
    results.record(HERE / "reliance_testbed.json", of_testbed, __file__)


@main.command("gpt2")
@click.option("--model", type=Folder, required=True, help="The model of training/train_gpt2.py.")
def of_gpt2(model: Path) -> None:
    """The testbed's authors in a model of GPT-2's architecture."""
    results.record(HERE / "reliance_gpt2.json", lambda: of_world(gpt2(model), 2, 5), __file__)


@main.command("smollm")
@click.option("--data", type=Folder, required=True, help="TOFU's folder.")
def smollm_command(data: Path) -> None:
    """TOFU's authors in SmolLM2."""
    results.record(HERE / "reliance_smollm.json", lambda: of_smollm(data), __file__)


if __name__ == "__main__":
    main()
