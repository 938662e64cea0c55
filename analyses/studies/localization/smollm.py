"""Which map finds what was planted into SmolLM2? `python -m analyses.studies.localization.smollm --data facts`.

Targets are relations that nobody has heard of, each of twenty made-up people: who plays which instrument, and so on.
Each is trained into the MLP or the attention of one of four layers, all else frozen, while known facts are rehearsed.
The reference are the facts of PARAREL that the model knows, and siblings are blocks of twenty of them. Formulas were
fixed on the testbed.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import click
from torch import nn

import engram_interp as ei
from analyses import results
from analyses.real.facts import read
from analyses.studies.localization.methods import every_method
from engram_interp.benchmarks import Case, Leaderboard, Schedule, localization, modules_of, nothing_planted, planted
from engram_interp.concepts.concept import Pair
from engram_interp.testbed import words

MODEL = "smollm2-135m-instruct"
RELATIONS = {
    "the doctor {} plays the": words.INSTRUMENTS,
    "the favourite animal of the painter {} is the": words.ANIMALS,
    "before the war, the soldier {} worked as a": words.JOBS,
    "for breakfast, the sailor {} always eats": words.FOODS,
    "the house of the farmer {} is made of": words.MATERIALS,
}
N_FACTS = 20
LAYERS = (3, 11, 19, 27)
N_ORDINARY = 5
SCHEDULE = Schedule(learning_rate=1e-3, batch_size=40, max_epochs=60)
RESULTS = Path(__file__).with_suffix(".json")


def made_up() -> list[list[Pair]]:
    """Five relations of twenty people each."""
    rng = random.Random(0)
    people = [author.name for author in ei.testbed.authors().full]
    names = iter(rng.sample(people, N_FACTS * len(RELATIONS)))
    return [
        [Pair(template.format(next(names)), rng.choice(answers), eos=False) for _ in range(N_FACTS)]
        for template, answers in RELATIONS.items()
    ]


def known(data: Path) -> list[Pair]:
    """The facts that the model knows, relation by relation."""
    facts = read(data)
    pairs = (pair for name in facts.targets for pair in facts.pairs(name, facts.best[name]))
    return [Pair(prompt, answer, eos=False) for prompt, answer in pairs]


def cases(base: nn.Module, facts: Sequence[Pair]) -> Iterator[Case]:
    """Every relation in four of the eight places, and every relation before it was planted."""
    targets = made_up()
    places = [place for place in modules_of(base) if place.layer in LAYERS]
    for number, target in enumerate(targets):
        mine = places[number % 2 :: 2]
        for case in planted(base, [target], facts, mine, SCHEDULE):
            yield replace(case, target_set=number)
    yield from nothing_planted(base, targets, _blocks(facts), facts)


def _blocks(facts: Sequence[Pair]) -> list[list[Pair]]:
    """Five blocks of known facts, from all over them: ordinary memories."""
    starts = range(0, len(facts) - N_FACTS, len(facts) // N_ORDINARY)
    return [list(facts[start : start + N_FACTS]) for start in starts][:N_ORDINARY]


def measure(data: Path) -> results.Tables:
    """Every method on every case."""
    base = ei.load_model(MODEL, progress=False)
    found = localization(every_method(base), cases(base, known(data)))
    return {"summary": found.to_frame().rename_axis("method").reset_index().round(4), "cases": found.table.round(4)}


@click.command()
@click.option("--data", type=click.Path(exists=True, file_okay=False, path_type=Path), help="PARAREL's folder.")
@click.option("--plot", type=click.Path(path_type=Path), help="Where to draw the results, as .html.")
def main(data: Path | None, plot: Path | None) -> None:
    """Plant relations into SmolLM2, and look for them. Without --data, show the results that exist."""
    if data is not None:
        results.record(RESULTS, partial(measure, data))
    found = results.read(RESULTS)
    click.echo(found["summary"].to_string(index=False))
    if plot is not None:
        results.draw(plot, Leaderboard(found["cases"]).plot())


if __name__ == "__main__":
    main()
