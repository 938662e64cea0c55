"""Memories whose place is known: planted into one place, beside another one planted elsewhere; and no memory at all.

A benchmark that only asks where a planted memory is cannot tell a good map from one that stars everything. So there are
decoys (another memory, planted before or after, in another place), the model before anything was planted, and memories
that the model has known all along, like all others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias

from torch import nn

from engram_interp.benchmarks.places import Place
from engram_interp.benchmarks.planting import Schedule, plant
from engram_interp.concepts.concept import Concept, Example

PLANTED, DECOY, BEFORE, ORDINARY = "planted", "decoy", "before", "ordinary"

Memory: TypeAlias = Sequence[Example]


@dataclass(frozen=True)
class Case:
    """A model, a target, and where the target's memory was planted.

    Attributes:
        kind: `planted`: the memory is in `place`. `decoy`: another one is in `elsewhere` too. `before`: the model does
            not have it. `ordinary`: the model has it as it has all others.
        target_set: the number of the target. What is found of one target in several places is not independent.
        concept: the target, and what the model knows beside it.
        make: makes the model.
        base: the model before, for methods that may compare with it.
        place: where the memory was planted; None if there is nothing to find.
        elsewhere: where a decoy was planted.
    """

    kind: str
    target_set: int
    concept: Concept
    make: Callable[[], nn.Module] = field(repr=False)
    base: nn.Module = field(repr=False)
    place: Place | None = None
    elsewhere: Place | None = None


def planted(
    base: nn.Module,
    targets: Sequence[Memory],
    reference: Memory,
    places: Sequence[Place],
    schedule: Schedule | None = None,
    rehearsed: Memory = (),
) -> Iterator[Case]:
    """Every target planted into every place.

    Args:
        base: the model to plant in.
        targets: memories that it does not have.
        reference: what it knows.
        places: where to plant, such as `modules_of(base)`.
        schedule: how each is trained; see `plant`.
        rehearsed: what is rehearsed beside the reference.
    """
    old = [*reference, *rehearsed]
    for number, target in enumerate(targets):
        concept = Concept(target, reference, name=f"target {number}")
        for seed, place in enumerate(places):
            make = partial(_planted, base, [(target, place)], old, seed, schedule)
            yield Case(PLANTED, number, concept, make, base, place)


def decoys(
    base: nn.Module,
    targets: Sequence[Memory],
    reference: Memory,
    places: Sequence[Place],
    schedule: Schedule | None = None,
) -> Iterator[Case]:
    """Every target planted once before and once after the next target, which is planted in another place.

    The arguments are those of `planted`.
    """
    for number, target in enumerate(targets):
        other = targets[(number + 1) % len(targets)]
        concept = Concept(target, [*reference, *other], name=f"target {number}")
        for before in (True, False):
            seed = 2 * number + before
            place, elsewhere = places[(3 * seed) % len(places)], places[(3 * seed + 2 + number) % len(places)]
            both = [(target, place), (other, elsewhere)]
            make = partial(_planted, base, both[::-1] if before else both, reference, seed, schedule)
            yield Case(DECOY, number, concept, make, base, place, elsewhere)


def nothing_planted(
    base: nn.Module, unknown: Sequence[Memory], known: Sequence[Memory], reference: Memory
) -> Iterator[Case]:
    """Memories that the model does not have, and those that it has like all others.

    Args:
        base: the model.
        unknown: memories that it does not have.
        known: memories that it has, which the reference holds too.
        reference: what it knows.
    """
    for number, target in enumerate(unknown):
        yield Case(BEFORE, number, Concept(target, reference, name=f"unknown {number}"), lambda: base, base)
    for number, target in enumerate(known):
        mine = set(target)
        others = [example for example in reference if example not in mine]
        yield Case(ORDINARY, number, Concept(target, others, name=f"known {number}"), lambda: base, base)


def _planted(
    base: nn.Module, memories: Sequence[tuple[Memory, Place]], reference: Memory, seed: int, schedule: Schedule | None
) -> nn.Module:
    """The model after it has learnt one memory after the other, each in its place."""
    model, old = base, list(reference)
    for memory, place in memories:
        model = plant(model, memory, old, place.parts or place.keys, seed=seed, schedule=schedule, progress=False)
        old = [*old, *memory]
    return model
