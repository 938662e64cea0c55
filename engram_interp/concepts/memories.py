"""Which examples make up one memory: an author, a relation, a document? What a map's target is compared with follows.

Everything that was learned as a whole leaves like traces. A target that is a whole memory is therefore compared with
other whole memories, and not with examples drawn from all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from engram_interp.concepts.concept import REFERENCE, TARGET, Concept, Example, TokenExample
from engram_interp.concepts.subjects import subjects

Label: TypeAlias = Hashable
Groups: TypeAlias = Callable[[Example], Label] | Mapping[str, Iterable[Label]] | Iterable[Label]
"""Labels of memories: a function of an example, labels of both sides, or labels of the reference."""

MOST = 0.8
"""If so many of the target's examples share their subject with another one, subjects are its memories."""
FEWEST = 2
"""A memory has as many examples at least, if subjects say what a memory is."""
SMALL = 3
"""A group of the target that is so many times smaller than its largest is none of its memories."""


@dataclass(frozen=True)
class Memories:
    """Examples by memory. Examples are numbered from the target's first to the reference's last.

    Attributes:
        target: the memories that the target consists of.
        siblings: those of the reference.
        said_by: what says which examples belong together, for people.
    """

    target: list[list[int]]
    siblings: list[list[int]]
    said_by: str

    @property
    def in_words(self) -> str:
        """What there is to compare with, as maps say it: `199 memories (by the subject that prompts share)`."""
        return f"{len(self.siblings)} memories ({self.said_by})"


def has_siblings(concept: Concept, n: int) -> bool:
    """Whether the reference has so many memories or more, by its subjects, as blocks, or by class.

    Tokens, and batches without labels, have no known ones.
    """
    if not concept.is_text:
        return len(_by_class(concept).siblings) >= n
    if any(isinstance(example, TokenExample) for side in concept.sides.values() for example in side):
        return False
    return len((_by_subject(concept) or _blocks(concept)).siblings) >= n


def memories_of(concept: Concept, groups: Groups | None = None) -> Memories:
    """The memories of both sides of a concept.

    Args:
        concept: its examples.
        groups: which memory each example belongs to: a function of an example; labels of both sides, as
            `{"target": [...], "reference": [...]}`; or labels of the reference, whose target is one memory. An example
            labelled None belongs to no memory. By default the subjects that prompts share say it, where the target has
            them, and blocks of consecutive reference examples, as long as the target, where it has not.

    Raises:
        ValueError: if there are fewer than two memories to compare with, or labels are too few or too many.
        TypeError: if `groups` is nothing of this.
    """
    if groups is not None:
        found = _by_label(concept, groups)
    else:
        found = _by_subject(concept) or _blocks(concept) if concept.is_text else _by_class(concept)
    if len(found.siblings) < 2:
        raise ValueError(
            f"the reference has {len(found.siblings)} memories to compare with ({found.said_by}): it takes two or "
            f"more, and 19 for a p-value of 0.05. Give more reference examples, or say with groups=... which of them "
            f'belong together; null="resampled" compares with random examples'
        )
    return found


def _by_class(concept: Concept) -> Memories:
    """The classes of labelled data; no siblings where labels are not known without reading the data."""
    found = {side: getattr(examples, "labels", None) for side, examples in concept.sides.items()}
    labels: dict[str, Sequence[Label]] = {side: some for side, some in found.items() if some is not None}
    if len(labels) < len(found):
        return Memories([], [], "batches without known labels")
    return Memories(_grouped(labels[TARGET], 0), _others(labels, len(labels[TARGET])), "by class")


def _by_label(concept: Concept, groups: Groups) -> Memories:
    labels = _labels(concept, groups)
    n_target = len(concept.target)
    target = _grouped(labels[TARGET], 0)
    if not target:
        raise ValueError(f"groups must give the target's examples a label: all {n_target} have None")
    return Memories(target, _others(labels, n_target), "by label")


def _others(labels: Mapping[str, Sequence[Label]], n_target: int) -> list[list[int]]:
    """The reference's memories, without what the target has a part of."""
    mine = set(labels[TARGET])
    return _grouped([None if label in mine else label for label in labels[REFERENCE]], n_target)


def _labels(concept: Concept, groups: Groups) -> Mapping[str, Sequence[Label]]:
    if callable(groups):
        return {side: [groups(example) for example in examples] for side, examples in concept.sides.items()}
    if isinstance(groups, Mapping):
        given = {side: list(groups.get(side, ())) for side in concept.sides}
        if unknown := [name for name in groups if name not in given]:
            raise ValueError(f"groups must have labels for {TARGET} and {REFERENCE}; got {unknown[0]!r}")
        given[TARGET] = given[TARGET] or [TARGET] * len(concept.target)
    elif isinstance(groups, Iterable) and not isinstance(groups, (str, bytes)):
        given = {TARGET: [TARGET] * len(concept.target), REFERENCE: list(groups)}
    else:
        raise TypeError(
            f"groups must be a function of an example, a list with a label for each reference example, or a dictionary "
            f"of such lists for {TARGET} and {REFERENCE}; got a {type(groups).__name__}"
        )
    for side, examples in concept.sides.items():
        if len(given[side]) != len(examples):
            raise ValueError(
                f"groups must have a label for each of the {len(examples)} {side} examples; got {len(given[side])}"
            )
    return given


def _grouped(labels: Sequence[Label], first: int) -> list[list[int]]:
    """The examples of every label, numbered from `first`, in the order in which labels come."""
    found: dict[Label, list[int]] = {}
    for number, label in enumerate(labels, first):
        if label is not None:
            found.setdefault(label, []).append(number)
    return list(found.values())


def _by_subject(concept: Concept) -> Memories | None:
    """Memories by the subjects of prompts, if nearly all prompts of the target share one and there are siblings."""
    prompts = [
        example[0] if isinstance(example, (tuple, list)) else "" for one in concept.sides.values() for example in one
    ]
    names, n_target = subjects(prompts), len(concept.target)
    labels: dict[str, Sequence[Label]] = {TARGET: names[:n_target], REFERENCE: names[n_target:]}
    # Small groups are chance: two prompts may name a town, and their facts are no memory like the others.
    groups = [some for some in _grouped(labels[TARGET], 0) if len(some) >= FEWEST]
    target = [some for some in groups if len(some) >= max(map(len, groups)) / SMALL]
    least = max(FEWEST, min(map(len, target), default=0) / 2)
    siblings = [some for some in _others(labels, n_target) if len(some) >= least]
    if sum(map(len, groups)) < MOST * n_target or len(siblings) < 2 * len(target):
        return None
    return Memories(target, siblings, "by the subject that prompts share")


def _blocks(concept: Concept) -> Memories:
    """Blocks of consecutive reference examples, as long as the target."""
    n, first, last = len(concept.target), len(concept.target), len(concept.target) + len(concept.reference)
    blocks = [list(range(start, start + n)) for start in range(first, last - n + 1, n)]
    return Memories([list(range(n))], blocks, f"blocks of {n} consecutive reference examples")
