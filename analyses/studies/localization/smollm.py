"""Which map finds what was planted into SmolLM2? `python -m analyses.studies.localization.smollm --data tofu`.

SmolLM2 knows forty of TOFU's authors from the adapter of `real/tofu_models.py`, eight questions of each here. A target
is one more author, trained into the MLP or the attention of one layer, all else frozen. The score was fixed on the
testbed. The reliance has a study of its own, `reliance.py`: it was chosen on the testbed and on authors 60, 70, 80, 90
and 100 here, in the MLPs of layers 5, 23 and 14 and the attention of layers 15 and 3, none of which is a target. What
takes minutes more for each memory is left out.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import click

import engram_interp as ei
from analyses import results
from analyses.real.authors import FORGET, N_QUESTIONS, RETAIN
from analyses.real.tofu_models import finetuned
from analyses.studies.localization.methods import every_method
from analyses.studies.localization.worlds import Folder, World, in_places, tables
from engram_interp.benchmarks import Case, Schedule, localization, modules_of
from engram_interp.benchmarks.cases import Memory

N_ASKED = 8
TARGETS = range(40, 45)
"""Authors that the adapter was not trained on."""
PLACES = ("MLP 3", "attention 11", "MLP 19", "attention 27", "MLP 11")
"""One for each target."""
SLOW = ("ablation of one matrix", "reliance", "W-Norm, delta (told the base)")
SCHEDULE = Schedule(learning_rate=1e-3, batch_size=16, max_epochs=40, learnt=0.95)
RESULTS = Path(__file__).with_suffix(".json")


def smollm(data: Path) -> World:
    """TOFU's authors, known to SmolLM2 by an adapter."""
    whole = ei.tofu(data)
    learned = [qa.example for qa in (*whole.reference, *whole.target)]

    def about(author: int) -> Memory:
        return learned[author * N_QUESTIONS :][:N_ASKED]

    return World(finetuned("full"), [about(i) for i in (*RETAIN, *FORGET)], [about(i) for i in TARGETS])


def cases(world: World) -> Iterator[Case]:
    """Every target, each in its place."""
    by_name = {place.name: place for place in modules_of(world.model)}
    return in_places(world, [[by_name[name]] for name in PLACES], SCHEDULE)


def measure(data: Path) -> results.Tables:
    """What most methods find."""
    world = smollm(data)
    methods = {name: one for name, one in every_method(world.model).items() if name not in SLOW}
    return tables(localization(methods, cases(world)))


@click.command()
@click.option("--data", type=Folder, required=True, help="TOFU's folder.")
def main(data: Path) -> None:
    """Plant authors into SmolLM2, and look for them."""
    results.record(RESULTS, partial(measure, data))


if __name__ == "__main__":
    main()
