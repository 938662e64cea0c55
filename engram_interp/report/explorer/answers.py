"""What does the model answer at each strength of an edit?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from engram_interp.answers.scoring import score
from engram_interp.concepts.concept import Concept
from engram_interp.engrams.engram import Engram
from engram_interp.options import Run
from engram_interp.report.questions import Asked, answers_of

AROUND = (0.125, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 4.0)
"""The strengths of a slider, as multiples of the one that was chosen."""


@dataclass(frozen=True)
class Strengths:
    """Answers by strength.

    Attributes:
        alphas: the strengths, from 0 up.
        chosen: the one that a slider begins with.
        accuracy: by side, the share of the answers' tokens that are right at each strength, of the questions below.
        answers: by side, a row for each question: `question`, `truth`, and `said`, the answer at each strength.
    """

    alphas: list[float]
    chosen: float
    accuracy: dict[str, list[float]]
    answers: dict[str, list[dict[str, Any]]]

    def to_dict(self) -> dict[str, Any]:
        """What JSON holds of it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Strengths:
        """What `to_dict` gave.

        Raises:
            TypeError: if these are other fields.
            ValueError: if there is not a number and an answer for each strength.
        """
        found = cls(**fields)
        n = len(found.alphas)
        if not all(isinstance(one, (int, float)) for one in found.alphas) or found.chosen not in found.alphas:
            raise ValueError(f"strengths must be numbers, and one of them chosen; got {found.alphas}, {found.chosen}")
        rows = [row for some in found.answers.values() for row in some]
        if any(len(one) != n for one in found.accuracy.values()) or any(len(row["said"]) != n for row in rows):
            raise ValueError(f"there must be an accuracy and an answer for each of {n} strengths")
        if not all(isinstance(text, str) for row in rows for text in (row["question"], row["truth"], *row["said"])):
            raise ValueError("questions and answers must be text")
        return found


def by_strength(
    model: nn.Module, engram: Engram, concept: Concept, asked: Asked, alphas: Sequence[float], chosen: float, run: Run
) -> Strengths:
    """Asks the questions again at every strength.

    Args:
        model: the model. It is left unchanged.
        engram: what is ablated.
        concept: how its answers are scored.
        asked: the questions.
        alphas: the strengths.
        chosen: one of them.
        run: how passes run.
    """
    said, accuracy = [], []
    with engram.editing(model) as ablate:
        for alpha in alphas:
            ablate(alpha)
            said.append(answers_of(model, asked.pairs, run))
            accuracy.append(score(model, asked.pairs, eos=concept.eos, **vars(run)) if asked.pairs else {})
    return Strengths(
        list(alphas),
        chosen,
        {side: [one[side].accuracy for one in accuracy] for side in asked.pairs},
        {
            side: [
                {"question": question, "truth": truth.strip(), "said": [one[side][i] for one in said]}
                for i, (question, truth) in enumerate(pairs)
            ]
            for side, pairs in asked.pairs.items()
        },
    )
