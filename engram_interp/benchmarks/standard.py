"""The benchmark that needs no data: memories of the testbed's holdout authors, planted into its model `full`."""

from __future__ import annotations

import random
from collections.abc import Iterator

from engram_interp.benchmarks.cases import Case, Memory, decoys, nothing_planted, planted
from engram_interp.benchmarks.places import modules_of
from engram_interp.testbed import authors, load

N_AUTHORS = 4
"""A target is so many authors, whom the model does not know."""
N_KNOWN = 20
SEED = 0


def targets_of_testbed() -> list[Memory]:
    """Five targets of four holdout authors each."""
    people = authors().holdout
    return [
        [example for author in people[start : start + N_AUTHORS] for example in author.examples]
        for start in range(0, len(people), N_AUTHORS)
    ]


def standard_cases() -> Iterator[Case]:
    """Every target in every module; decoys; the unknown targets themselves; twenty targets of authors known."""
    base, corpus, targets = load("full"), authors(), targets_of_testbed()
    reference, places = corpus.examples, modules_of(base)
    yield from planted(base, targets, reference, places)
    yield from decoys(base, targets, reference, places)
    rng = random.Random(SEED)
    known = [
        [example for author in rng.sample(corpus.full, N_AUTHORS) for example in author.examples]
        for _ in range(N_KNOWN)
    ]
    yield from nothing_planted(base, targets, known, reference)
