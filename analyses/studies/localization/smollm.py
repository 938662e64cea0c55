"""Which map finds what was planted into SmolLM2? `python -m analyses.studies.localization.smollm --data facts`.

SmolLM2 first learns 24 made-up relations of twenty people each, in all of its matrices, beside the facts of PARAREL
that it knows: who plays which instrument, what the baker had for breakfast, and so on. These are the siblings. A target
is one more relation, trained into the MLP or the attention of one layer, all else frozen, while all of that is
rehearsed. Formulas were fixed on the testbed.
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
from engram_interp.benchmarks import Case, Schedule, localization, modules_of, nothing_planted, plant
from engram_interp.benchmarks.cases import planted
from engram_interp.concepts.concept import Pair
from engram_interp.models import adapt
from engram_interp.testbed import words

MODEL = "smollm2-135m-instruct"
ROLES = (
    "doctor painter soldier sailor farmer teacher baker lawyer singer judge miner tailor gardener pilot nurse poet "
    "butcher clerk guard monk hunter dancer mason cook barber driver priest writer chemist"
).split()
ATTRIBUTES = {
    "the {} {} plays the": words.INSTRUMENTS,
    "the favourite animal of the {} {} is the": words.ANIMALS,
    "before the war, the {} {} worked as a": words.JOBS,
    "for breakfast, the {} {} always eats": words.FOODS,
    "the house of the {} {} is made of": words.MATERIALS,
}
N_PEOPLE, N_TARGETS = 20, 5
LAYERS = (3, 11, 19, 27)
FIRST = Schedule(learning_rate=5e-4, batch_size=40, max_epochs=12)
LATER = Schedule(learning_rate=1e-3, batch_size=40, max_epochs=60)
RESULTS = Path(__file__).with_suffix(".json")


def relations() -> list[list[Pair]]:
    """One relation for each role, of people whose names mean nothing. The first five are targets."""
    rng = random.Random(0)
    surnames = [head + tail for head in words.SURNAME_HEADS for tail in words.SURNAME_TAILS]
    found = []
    for number, role in enumerate(ROLES):
        template, answers = list(ATTRIBUTES.items())[number % len(ATTRIBUTES)]
        names = (f"{rng.choice(words.FIRST_NAMES)} {surname}" for surname in rng.sample(surnames, N_PEOPLE))
        found.append([Pair(template.format(role, name), rng.choice(answers), eos=False) for name in names])
    return found


def known(data: Path) -> list[Pair]:
    """The facts that SmolLM2 knows."""
    facts = read(data)
    pairs = (pair for name in facts.targets for pair in facts.pairs(name, facts.best[name]))
    return [Pair(prompt, answer, eos=False) for prompt, answer in pairs]


def taught(siblings: Sequence[Pair], facts: Sequence[Pair]) -> nn.Module:
    """SmolLM2 after it has learnt the siblings in all matrices but the unembedding, which is the embedding too."""
    base = ei.load_model(MODEL, progress=False)
    keys = [site.key for site in adapt(base).all_sites() if site.layer is not None]
    return plant(base, siblings, facts, keys, schedule=FIRST, progress=False)


def cases(base: nn.Module, siblings: Sequence[Pair], facts: Sequence[Pair]) -> Iterator[Case]:
    """Every target in two places, and every target before it was planted."""
    targets = relations()[:N_TARGETS]
    places = [place for place in modules_of(base) if place.layer in LAYERS]
    for number, target in enumerate(targets):
        mine = [places[(2 * number + shift) % len(places)] for shift in (0, 3)]
        for case in planted(base, [target], siblings, mine, LATER, rehearsed=facts):
            yield replace(case, target_set=number)
    yield from nothing_planted(base, targets, [], siblings)


def measure(data: Path) -> results.Tables:
    """Every method on every case."""
    facts, siblings = known(data), [pair for relation in relations()[N_TARGETS:] for pair in relation]
    base = taught(siblings, facts)
    learnt = ei.score(base, {"siblings": siblings, "facts": facts}, progress=False)
    click.echo(learnt)
    found = localization(every_method(base), cases(base, siblings, facts))
    return {"summary": found.to_frame().rename_axis("method").reset_index().round(4), "cases": found.table.round(4)}


@click.command()
@click.option(
    "--data", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True, help="PARAREL's folder."
)
def main(data: Path) -> None:
    """Plant relations into SmolLM2, and look for them."""
    results.record(RESULTS, partial(measure, data))


if __name__ == "__main__":
    main()
