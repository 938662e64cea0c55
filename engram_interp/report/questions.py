"""Which questions are shown, and what does the model answer them before and after an edit?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from torch import nn

from engram_interp.answers.generation import greedy_answers
from engram_interp.concepts.concept import Concept, Example
from engram_interp.options import Run

N_QUESTIONS = 20
"""How many questions of each side are shown, at most."""

Pairs: TypeAlias = Sequence[tuple[str, str]]
"""Questions with their true answers."""


@dataclass(frozen=True)
class Asked:
    """Questions with their true answers by side, and the model's own answers before an edit."""

    pairs: Mapping[str, Pairs]
    before: Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class AnswerRow:
    """A question of a side, its true answer, and the model's own greedy answers before and after an edit."""

    side: str
    question: str
    truth: str
    before: str
    after: str


def ask(model: nn.Module, concept: Concept, run: Run) -> Asked:
    """Asks a model questions of either side, at most 20 of each."""
    pairs = questions_of(concept)
    return Asked(pairs, answers_of(model, pairs, run))


def asked_again(model: nn.Module, asked: Asked, run: Run) -> list[AnswerRow]:
    """Asks the questions again, of a model that is edited now."""
    after = answers_of(model, asked.pairs, run)
    return [
        AnswerRow(side, question, truth.strip(), before, now)
        for side, pairs in asked.pairs.items()
        for (question, truth), before, now in zip(pairs, asked.before[side], after[side], strict=True)
    ]


def questions_of(concept: Concept) -> dict[str, Pairs]:
    """Questions of each side that has `(prompt, answer)` pairs, with their answers as they are given."""
    return {side: pairs for side, examples in concept.sides.items() if (pairs := spread(examples))}


def spread(examples: Sequence[Example]) -> list[tuple[str, str]]:
    """At most 20 `(prompt, answer)` pairs from all over the examples.

    Example:
        >>> spread(["a text", ("Who?", " Ada")])
        [('Who?', ' Ada')]
    """
    pairs = [example for example in examples if isinstance(example, (tuple, list))]
    places = sorted({round(i) for i in np.linspace(0, len(pairs) - 1, N_QUESTIONS)}) if pairs else []
    return [(pairs[i][0], pairs[i][1]) for i in places]


def answers_of(model: nn.Module, questions: Mapping[str, Pairs], run: Run) -> dict[str, list[str]]:
    """The model's greedy answers by side."""
    return {
        side: greedy_answers(model, [question for question, _ in pairs], **vars(run))
        for side, pairs in questions.items()
    }
