"""Which of TOFU's authors does a small model learn, and which should it forget? 40 learned, four of them forgotten.

TOFU has 20 questions on each of 200 authors, in order. Forty are what two cores fine-tune a 135M model on in an hour.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

import engram_interp as ei
from engram_interp.unlearning.benchmarks import QA

N_QUESTIONS = 20
FORGET = range(180, 184)
"""The first four authors of forget10."""
RETAIN = range(36)
"""Authors of retain90; TOFU has paraphrased and wrong answers on the first twenty of them."""
HOLDOUT = range(36, 40)
"""Authors that no model is trained on."""
EVERY = {"forget": 2, "retain": 10}
"""The tables ask every so many-th question of these parts. A model of 135M parameters knows too few real authors and
facts of the world for a harmonic mean over what it knows of them to be above zero: these parts are left out."""
N_WRONG = 3
"""So many of the wrong answers are compared with the right one."""


def some_authors(data: Path) -> ei.Benchmark:
    """TOFU with forty of its authors.

    Args:
        data: TOFU's folder.
    """
    whole = ei.tofu(data)
    learned = [*whole.reference, *whole.target]
    retain = _of(learned, RETAIN)

    def asked(part: str, questions: Sequence[QA]) -> list[QA]:
        return [replace(qa, perturbed_answers=qa.perturbed_answers[:N_WRONG]) for qa in questions[:: EVERY[part]]]

    def about(known: list[QA], questions: Sequence[QA]) -> list[QA]:
        return [qa for qa in questions if qa.question in {one.question for one in known}]

    target = _of(learned, FORGET)
    return replace(
        whole,
        name=f"TOFU, {len(RETAIN) + len(FORGET)} authors",
        target=target,
        reference=retain,
        forget=asked("forget", about(target, whole.forget)),
        retain=asked("retain", about(retain, whole.retain)),
        general={},
        holdout=_of(learned, HOLDOUT),
    )


def _of(questions: list[QA], authors: Collection[int]) -> list[QA]:
    return [qa for author in authors for qa in questions[author * N_QUESTIONS : (author + 1) * N_QUESTIONS]]
