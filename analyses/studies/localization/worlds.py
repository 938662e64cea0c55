"""Which models know which memories, and which memories do they not know?

Three worlds, in which a memory is an author: the testbed's model, a GPT-2-style model of the same authors, and the
testbed's architecture on TOFU's own text. Also what studies of all worlds share: targets in places of their own, and
tables of what was found.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click
import pandas as pd
from torch import nn

import engram_interp as ei
from analyses import results
from engram_interp.benchmarks import Case, Leaderboard, Place, Schedule, planted
from engram_interp.benchmarks.cases import Memory
from engram_interp.benchmarks.standard import targets_of_testbed

Folder = click.Path(exists=True, file_okay=False, path_type=Path)
GROUP = 4
"""One of so many of TOFU's unknown authors is a target."""
N_TOFU = 60
"""So many of TOFU's authors are siblings."""


@dataclass(frozen=True)
class World:
    """A model and what it knows.

    Attributes:
        model: knows the siblings.
        siblings: memories that it knows.
        targets: memories that it does not know.
    """

    model: nn.Module
    siblings: Sequence[Memory]
    targets: Sequence[Memory]

    @property
    def reference(self) -> Memory:
        """All examples of all siblings."""
        return [example for memory in self.siblings for example in memory]


def testbed() -> World:
    """200 authors, known to the testbed's model; 20 of the holdout, four in a target."""
    return World(
        ei.testbed.load("full"), [author.examples for author in ei.testbed.authors().full], targets_of_testbed()
    )


def gpt2(folder: Path) -> World:
    """The same authors, known to a model that `training/train_gpt2.py` wrote."""
    return World(ei.load_model(folder), testbed().siblings, targets_of_testbed())


def tofu(folder: Path, data: Path) -> World:
    """TOFU's authors, known to a model that `training/train_tofu.py` wrote as `full`. A target is one author."""
    benchmark = ei.tofu(data).hold_out(400)
    known, unknown = (
        [[qa.example for qa in questions[start : start + 20]] for start in range(0, len(questions), 20)]
        for questions in ([*benchmark.target, *benchmark.reference], benchmark.holdout)
    )
    return World(ei.load_model(folder), known[:N_TOFU], unknown[::GROUP])


def in_places(world: World, places: Iterable[Sequence[Place]], schedule: Schedule | None = None) -> Iterator[Case]:
    """Every target of a world in places of its own."""
    for number, (target, mine) in enumerate(zip(world.targets, places, strict=True)):
        for case in planted(world.model, [target], world.reference, mine, schedule):
            yield replace(case, target_set=number)


def tables(*boards: Leaderboard) -> results.Tables:
    """All cases, and what they say of each method."""
    cases = pd.concat([board.table for board in boards], ignore_index=True)
    summary = Leaderboard(cases).to_frame().rename_axis("method").reset_index()
    return {"summary": summary.round(4), "cases": cases.round(4)}
