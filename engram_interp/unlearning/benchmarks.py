"""What to forget, what to keep, and what was never seen: the question-answer pairs of an unlearning benchmark.

TOFU (Maini et al. 2024) comes from the hub or from a folder of JSON lines; the testbed's authors are another
(`testbed.benchmark()`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from engram_interp.concepts.concept import Concept
from engram_interp.concepts.files import read_lines

TOFU = "locuslab/TOFU"
FORGET, RETAIN, HOLDOUT = "forget", "retain", "holdout"
FORGET_SPLITS = {"forget01": "retain99", "forget05": "retain95", "forget10": "retain90"}
GENERAL = {"real_authors": "real_authors_perturbed", "world_facts": "world_facts_perturbed"}
SYSTEM_PROMPT = "You are a helpful assistant."
DATE = "10 Apr 2025"
"""OpenUnlearning's system prompt and date for the templates of Llama 3, which name the day."""


@dataclass(frozen=True)
class QA:
    """One question with its answer, the answer in other words, and wrong ones in those words."""

    question: str
    answer: str
    paraphrased_answer: str | None = None
    perturbed_answers: tuple[str, ...] = ()

    @property
    def example(self) -> tuple[str, str]:
        """The `(prompt, answer)` pair that `Concept` takes."""
        return self.question, self.answer

    @property
    def comparable_answer(self) -> str:
        """The right answer in the words of the wrong ones: the paraphrase, where there is one, else the answer."""
        return self.paraphrased_answer or self.answer


@dataclass(frozen=True)
class Benchmark:
    """The questions that an unlearned model is judged by, and those that the model was trained on.

    Attributes:
        name: how reports call it.
        target: what is to be forgotten, as the model was trained on it.
        reference: all else that the model was trained on.
        forget: questions about the target; each with a paraphrased answer and wrong ones.
        retain: questions about the reference; the same.
        general: by name, what the model should know besides; each with wrong answers.
        holdout: of the target's kind, never in any training data; empty where there is none.

    Raises:
        ValueError: a part without questions, or questions of one part with other numbers of wrong answers, or none.
    """

    name: str
    target: Sequence[QA]
    reference: Sequence[QA]
    forget: Sequence[QA]
    retain: Sequence[QA]
    general: Mapping[str, Sequence[QA]] = field(default_factory=dict)
    holdout: Sequence[QA] = ()

    def __post_init__(self) -> None:
        if taken := self.general.keys() & {FORGET, RETAIN, HOLDOUT}:
            raise ValueError(f"general questions of {self.name} are called {taken.pop()!r}, as another part is")
        for part, questions in self.parts.items():
            if not questions and part != HOLDOUT:
                raise ValueError(f"{self.name} has no questions in {part}")
            counts = {len(qa.perturbed_answers) for qa in questions}
            if part != HOLDOUT and (len(counts) > 1 or not min(counts)):
                raise ValueError(
                    f"every question of {part} in {self.name} needs as many wrong answers as the others, one or more; "
                    f"got {sorted(counts)}"
                )
        if wanting := [qa.question for qa in (*self.forget, *self.retain) if not qa.paraphrased_answer]:
            raise ValueError(f"{len(wanting)} questions of {self.name} have no paraphrased answer, as {wanting[0]!r}")
        if not self.target or not self.reference:
            raise ValueError(f"{self.name} has no target, or no reference")

    @property
    def parts(self) -> dict[str, Sequence[QA]]:
        """The questions by part: `forget`, `retain`, the general ones by name, and `holdout`."""
        return {FORGET: self.forget, RETAIN: self.retain, **self.general, HOLDOUT: self.holdout}

    @property
    def concept(self) -> Concept:
        """The target against all else that the model was trained on."""
        target, reference = ([qa.example for qa in some] for some in (self.target, self.reference))
        return Concept(target, reference, name=f"{self.name}'s {FORGET} set")

    def templated(
        self, tokenizer: PreTrainedTokenizerBase, *, system_prompt: str | None = SYSTEM_PROMPT, date: str = DATE
    ) -> Benchmark:
        """Every question as a chat tokenizer frames it; the benchmark itself where the tokenizer has no template.

        Args:
            tokenizer: of the model that will read the questions.
            system_prompt: in front of every question; None for none.
            date: what templates that name the day are given.

        Raises:
            ValueError: a template that refuses a system prompt.
        """
        if not tokenizer.chat_template:
            return self
        system = [] if system_prompt is None else [{"role": "system", "content": system_prompt}]

        def framed(qa: QA) -> QA:
            chat = [*system, {"role": "user", "content": qa.question}]
            try:
                prompt = tokenizer.apply_chat_template(
                    chat, tokenize=False, add_generation_prompt=True, date_string=date
                )
            except TemplateError as error:
                raise ValueError(f"the chat template refuses {chat}: {error}. Try system_prompt=None") from error
            return replace(qa, question=str(prompt))

        def all_framed(questions: Sequence[QA]) -> list[QA]:
            return [framed(qa) for qa in questions]

        trained_on = {"target": all_framed(self.target), "reference": all_framed(self.reference)}
        return replace(self.asking(all_framed), **trained_on)

    def asking(self, each: Callable[[Sequence[QA]], Sequence[QA]]) -> Benchmark:
        """The same with the questions of every part changed or chosen; what the model was trained on stays.

        Args:
            each: from the questions of a part to others.
        """
        return replace(
            self,
            forget=each(self.forget),
            retain=each(self.retain),
            general={name: each(questions) for name, questions in self.general.items()},
            holdout=each(self.holdout),
        )

    def hold_out(self, n: int) -> Benchmark:
        """The last `n` of the reference kept out of it as the holdout, for a model that will be trained on the rest.

        Raises:
            ValueError: a benchmark with a holdout, or a number of questions that leaves no reference.
        """
        if self.holdout:
            raise ValueError(f"{self.name} has a holdout of {len(self.holdout)} questions already")
        if not 0 < n < len(self.reference):
            raise ValueError(f"of {len(self.reference)} questions one or more are held out, not all; got {n}")
        unseen = {qa.question for qa in self.reference[-n:]}
        return replace(
            self,
            reference=self.reference[:-n],
            retain=[qa for qa in self.retain if qa.question not in unseen],
            holdout=self.reference[-n:],
        )


def tofu(source: str | Path = TOFU, forget: str = "forget10") -> Benchmark:
    """The TOFU benchmark, from the hub (`datasets` is needed) or from a folder of JSON lines.

    Args:
        source: a repository on the hub, or a folder with `forget10.json`, `retain90.json`, `forget10_perturbed.json`,
            `retain_perturbed.json`, `real_authors_perturbed.json`, `world_facts_perturbed.json` and, where the holdout
            is known, `holdout10.json`.
        forget: `forget01`, `forget05` or `forget10`.

    Raises:
        ValueError: another split, or a line that is no question with its answers.
        FileNotFoundError: a folder without one of these files.
        ImportError: the hub is asked for, and `datasets` is not installed.
    """
    if forget not in FORGET_SPLITS:
        raise ValueError(f"TOFU's forget splits are {', '.join(FORGET_SPLITS)}; got {forget!r}")
    folder = Path(source)
    read = _from_folder(folder) if folder.is_dir() else _from_hub(str(source))
    holdout = forget.replace(FORGET, HOLDOUT)
    return Benchmark(
        name=f"TOFU {forget}",
        target=read(forget),
        reference=read(FORGET_SPLITS[forget]),
        forget=read(f"{forget}_perturbed"),
        retain=read("retain_perturbed"),
        general={name: read(split) for name, split in GENERAL.items()},
        holdout=read(holdout) if not folder.is_dir() or (folder / f"{holdout}.json").is_file() else (),
    )


def _from_folder(folder: Path) -> Callable[[str], list[QA]]:
    def read(split: str) -> list[QA]:
        path = folder / f"{split}.json"
        if not path.is_file():
            raise FileNotFoundError(f"{folder} has no {path.name}, which TOFU's {split} is read from")
        return [_qa(value, place) for place, value in read_lines(path)]

    return read


def _from_hub(repository: str) -> Callable[[str], list[QA]]:
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise ImportError(f"{repository!r} is no folder, and the hub's data sets need pip install datasets") from error

    def read(split: str) -> list[QA]:
        rows: Any = load_dataset(repository, split, split="train")
        return [_qa(row, f"{repository} {split}, row {n}") for n, row in enumerate(rows)]

    return read


def _qa(row: object, place: str) -> QA:
    if not isinstance(row, Mapping):
        raise ValueError(f"{place} is no question with its answers: {row!r}")
    found = [row.get(name) for name in ("question", "answer", "paraphrased_answer")]
    perturbed = row.get("perturbed_answer") or []
    perturbed = [perturbed] if isinstance(perturbed, str) else perturbed
    if not all(isinstance(text, str) for text in chain(found[:2], perturbed)):
        raise ValueError(f"{place} is no question with its answers: {dict(row)}")
    question, answer, paraphrased = found
    return QA(str(question), str(answer), paraphrased, tuple(perturbed))
