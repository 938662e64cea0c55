"""`explore`: the map, the strengths and the inside of matrices of one memory or several, in one call."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from engram_interp.common.arguments import Number, number, whole
from engram_interp.common.progress import bar
from engram_interp.common.record import versions
from engram_interp.concepts.concept import Concept, require_concept
from engram_interp.effects.strength import choose_alpha
from engram_interp.engrams.engram import Engram
from engram_interp.engrams.extract import extract
from engram_interp.maps.decomposition import checks_of
from engram_interp.maps.diagnosis import Diagnosis, diagnose
from engram_interp.maps.localization import localize
from engram_interp.models import LanguageAdapter, adapt
from engram_interp.models.exclusive import exclusive
from engram_interp.options import Compare, Run, Solve, Which, takes
from engram_interp.report.explorer.answers import AROUND, Strengths, by_strength
from engram_interp.report.explorer.exploration import Exploration, Memory
from engram_interp.report.explorer.matrix import Matrix, look_into
from engram_interp.report.questions import Asked, ask
from engram_interp.statistics.collect import collect

logger = logging.getLogger("engram_interp")

N_MATRICES = 8


@exclusive
@takes(Which, Solve, Run, Compare)
def explore(
    model: nn.Module,
    concepts: Concept | Sequence[Concept],
    *,
    n_matrices: int = N_MATRICES,
    alphas: Sequence[Number] | None = None,
    keep: Number = 0.98,
    which: Which,
    solve: Solve,
    run: Run,
    compare: Compare,
) -> Exploration:
    """Maps memories, answers questions at several strengths, and looks into matrices: a page to click through.

    Args:
        model: the model. It is left unchanged.
        concepts: one or several, with names of their own.
        n_matrices: how many matrices of each memory are looked into, those that stand out most. `serve` looks into any
            other when it is clicked, as long as the model is at hand.
        alphas: the strengths of the slider; 0 is added. None chooses one (see `choose_alpha`) and takes eight around
            it; around 1 if none can be chosen, which a warning says.
        keep: see `choose_alpha`.

    Raises:
        TypeError: if `alphas` is one number.
        ValueError: if two concepts have one name, `alphas` is empty or holds a negative number, or `n_matrices` is
            negative; see also `localize`.

    Example:
        >>> from engram_interp import testbed
        >>> model, examples = testbed.load("full"), testbed.authors().examples
        >>> concept = Concept(examples[:20], examples[20:60], name="Petra Dorlund")
        >>> found = explore(model, concept, n_matrices=0, alphas=[8], components="gate", layers=[0, 1])
        >>> found.memory().strengths.alphas
        [0.0, 8.0]
    """
    n_matrices = whole(n_matrices, "n_matrices", at_least=0)
    strengths = _checked(alphas)
    named = _named(concepts)
    memories: dict[str, Memory] = {}
    looks: dict[str, _Look] = {}
    for name, concept in named.items():
        wmap = localize(model, concept, **vars(which), **vars(solve), **vars(run), **vars(compare))
        looks[name] = look = _prepared(model, concept, strengths, keep, which, solve, run)
        keys = wmap.top(n_matrices, wmap.over_null)["key"] if n_matrices else []
        matrices = {key: look(key) for key in bar(keys, run.progress, f"looking into {name}", "matrix")}
        memories[name] = Memory(wmap, look.strengths, matrices)
    return Exploration(memories, versions(), lambda name, key: looks[name].again(key))


@dataclass(frozen=True)
class _Look:
    """What is needed to look into a memory's matrices."""

    model: nn.Module
    engram: Engram
    concept: Concept
    found: Diagnosis
    asked: Asked
    strengths: Strengths | None
    alpha: float
    run: Run
    checks: list[Tensor]

    def __call__(self, key: str) -> Matrix:
        if key not in {site.key for site in self.engram.sites}:
            raise KeyError(f"the engram has no {key!r}")
        return look_into(self.model, self.engram, key, self.concept, self.found, self.asked, self.alpha, self.run)

    def again(self, key: str) -> Matrix:
        """The same later, when the model may be another."""
        if not all(map(torch.equal, self.checks, checks_of(self.engram.sites, adapt(self.model), None))):
            raise RuntimeError("the model's weights have changed since it was explored: explore it again")
        return self(key)


def _prepared(
    model: nn.Module, concept: Concept, alphas: list[float] | None, keep: Number, which: Which, solve: Solve, run: Run
) -> _Look:
    statistics = collect(model, concept, **vars(which), **vars(run))
    engram = extract(model, statistics, **vars(which), **vars(solve), **vars(run))
    found = diagnose(model, statistics, **vars(which), **vars(solve), **vars(run))
    asked = ask(model, concept, run) if isinstance(adapt(model), LanguageAdapter) else Asked({}, {})
    chosen = _chosen(model, engram, concept, keep, run) if alphas is None else alphas[-1]
    every = [0.0, *(chosen * one for one in AROUND)] if alphas is None else alphas
    strengths = by_strength(model, engram, concept, asked, every, chosen, run) if asked.pairs else None
    checks = checks_of(engram.sites, adapt(model), None)
    return _Look(model, engram, concept, found, asked, strengths, chosen, run, checks)


def _chosen(model: nn.Module, engram: Engram, concept: Concept, keep: Number, run: Run) -> float:
    """The strength that keeps enough; 1 where none does, or where there is too little to tell by."""
    try:
        found = choose_alpha(model, engram, concept, keep, **vars(run)).alpha
    except ValueError as error:
        logger.warning("no strength could be chosen for %s, so the slider lies around 1: %s", concept.name, error)
        return 1.0
    return found or 1.0


def _checked(alphas: Sequence[Number] | None) -> list[float] | None:
    """The strengths in their order, from 0 up."""
    if alphas is None:
        return None
    if not isinstance(alphas, Iterable):
        raise TypeError(f"alphas must be several numbers; got {alphas!r}")
    found = sorted({0.0, *(number(one, "alphas") for one in alphas)})
    if len(found) < 2 or found[0] < 0:
        raise ValueError(f"alphas must hold a number above 0, and none below; got {list(alphas)}")
    return found


def _named(concepts: Concept | Sequence[Concept]) -> dict[str, Concept]:
    some = [concepts] if isinstance(concepts, Concept) else list(concepts)
    for one in some:
        require_concept(one)
    found = {one.name or f"concept {place}": one for place, one in enumerate(some, start=1)}
    if len(found) != len(some) or not some:
        names = ", ".join(str(one.name) for one in some)
        raise ValueError(f"concepts must be one or several, with names of their own; got {names or 'none'}")
    return found
