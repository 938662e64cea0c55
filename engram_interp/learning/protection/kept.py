"""What is to be kept? Concepts, statistics, engrams and grafts as they are given -> moments of inputs, and entries."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from typing import Any, TypeAlias

import torch

from engram_interp.concepts.concept import REFERENCE, TARGET, Concept
from engram_interp.concepts.digest import key_of
from engram_interp.engrams.engram import Engram
from engram_interp.learning.grafting.graft import Graft
from engram_interp.models import Adapter
from engram_interp.options import Run, Which
from engram_interp.statistics.collect import collect
from engram_interp.statistics.statistics import Statistics

EVERY, COUNTED = "every", "counted"
"""Which positions of the kept examples are kept."""
Keepable: TypeAlias = Concept | Statistics | Engram
"""What `protect` keeps; a `Graft` is an `Engram`."""


@dataclass(frozen=True)
class Kept:
    """What is to be kept.

    Attributes:
        concept: the concepts, as one; None if statistics are given, or grafts alone.
        statistics: the target's moments are those of what is kept; None if only grafts are.
        grafts: whose entries are frozen.
    """

    concept: Concept | None
    statistics: Statistics | None
    grafts: tuple[Graft, ...]


def kept_of(adapter: Adapter, given: Keepable | Iterable[Keepable], positions: str, which: Which, run: Run) -> Kept:
    """What is to be kept of a model, with its moments in the model as it is now.

    Args:
        adapter: the model.
        given: what is kept.
        positions: `every` position of the examples counts, or those that are `counted` by the concepts.
        which: the matrices.
        run: how examples go through the model.

    Raises:
        ValueError: if nothing is given, or concepts count different positions, or nothing is left to tell them from.
        TypeError: if something else is given, or an engram that does not know what it was made from.
    """
    listed = [given] if isinstance(given, (Concept, Statistics, Engram)) else list(given)
    if not listed:
        raise ValueError("protect keeps one concept or more; got none")
    grafts = tuple(one for one in listed if isinstance(one, Graft))
    rest = [_source(one) for one in listed if not isinstance(one, Graft)]
    if not rest:
        return Kept(None, None, grafts)
    concepts = [one for one in rest if isinstance(one, Concept)]
    found = [one for one in rest if isinstance(one, Statistics)]
    if concepts and found:
        raise TypeError("concepts and statistics cannot be kept together: collect the statistics of both")
    if found:
        return Kept(None, reduce(add, found), grafts)
    concept = concepts[0] if len(concepts) == 1 else _together(concepts, positions)
    read = _everywhere(adapter, concept) if positions == EVERY and concept.is_text else concept
    statistics = collect(adapter.model, read, **vars(which), **vars(run))
    return Kept(concept, replace(statistics, keep_bytes=0), grafts)


def _everywhere(adapter: Adapter, concept: Concept) -> Concept:
    """A concept of which every position counts, also BOS: attention reads all of them."""
    sides = {
        side: [replace(one, counts=torch.ones_like(one.counts)) for one in examples]
        for side, examples in adapter.encode_concept(concept).items()
    }
    return replace(concept, **sides)


def _source(one: Any) -> Concept | Statistics:
    """What the inputs are found from."""
    if isinstance(one, (Concept, Statistics)):
        return one
    if not isinstance(one, Engram):
        raise TypeError(f"protect keeps concepts, statistics, engrams and grafts; got a {type(one).__name__}")
    if not isinstance(one.made_from, (Concept, Statistics)):
        raise TypeError(
            f"the engram of {one.name!r} does not know the inputs that it reads, since it is a sum or comes from a "
            f"file: give its concept or its statistics"
        )
    return one.made_from


def _together(concepts: Sequence[Concept], positions: str) -> Concept:
    """One concept of all targets, told apart from what is in the references and in no target."""
    if not all(one.is_text for one in concepts):
        raise ValueError("several concepts of batches cannot be kept together: add their statistics")
    reads = {one.eos if positions == EVERY else one.read for one in concepts}
    if len(reads) > 1:
        raise ValueError(f"the concepts count different positions: {sorted({str(one.in_words) for one in concepts})}")
    target = _different(example for one in concepts for example in one.target)
    reference = _different(example for one in concepts for example in one.reference)
    left = [example for key, example in reference.items() if key not in target]
    if not left:
        raise ValueError("all reference examples are among the targets that are kept: add others to the reference")
    name = " + ".join(str(one.name) for one in concepts)
    return replace(concepts[0], target=list(target.values()), reference=left, name=name)


def _different(examples: Iterable[Any]) -> dict[Any, Any]:
    """Examples, each once."""
    return {key_of(one): one for one in examples}


def token_shares(adapter: Adapter, concept: Concept | None) -> torch.Tensor | None:
    """`n+_v / n_v`: how much of every token's occurrences is in the target. None where examples are no tokens.

    An embedding multiplies one-hot vectors, whose second moment is diagonal, so these are its shares of directions.
    """
    from engram_interp.models import LanguageAdapter

    if concept is None or not isinstance(adapter, LanguageAdapter) or concept.is_stream:
        return None
    counts: Mapping[str, torch.Tensor] = {
        side: sum(
            (torch.bincount(example.tokens, minlength=len(adapter.W_E)) for example in examples),
            torch.zeros(len(adapter.W_E), dtype=torch.long),
        )
        for side, examples in adapter.encode_concept(concept).items()
    }
    return counts[TARGET] / (counts[TARGET] + counts[REFERENCE]).clamp(min=1)
