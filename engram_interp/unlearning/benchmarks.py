"""What to forget, what to keep, and what was never seen: the question-answer pairs of an unlearning benchmark.

TOFU (Maini et al. 2024) is read from the Hugging Face hub or from a folder of JSON lines. The testbed's authors are
another benchmark (`testbed.benchmark()`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engram_interp.concepts.concept import Concept
from engram_interp.concepts.files import read_lines

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOFU = "locuslab/TOFU"
FORGET, RETAIN, HOLDOUT = "forget", "retain", "holdout"
FORGET_SPLITS = {"forget01": "retain99", "forget05": "retain95", "forget10": "retain90"}
GENERAL = {"real_authors": "real_authors_perturbed", "world_facts": "world_facts_perturbed"}
SYSTEM_PROMPT = "You are a helpful assistant."
DATE = "10 Apr 2025"
"""OpenUnlearning's system prompt, and its date for the templates of Llama 3, which name the day."""


@dataclass(frozen=True)
class QA:
    """A question with its answer, the answer in other words, and wrong answers in those words."""

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
        """The right answer in the words of the wrong ones: the paraphrase if there is one, else the answer."""
        return self.paraphrased_answer or self.answer


@dataclass(frozen=True)
class Benchmark:
    """The questions that an unlearned model is judged by, and those that the model was trained on.

    Attributes:
        name: what reports call it.
        target: what is to be forgotten, as the model was trained on it.
        reference: everything else that the model was trained on.
        forget: questions about the target, each with a paraphrased answer and wrong ones.
        retain: the same about the reference.
        general: by name, what else the model should know. Each question has wrong answers.
        holdout: questions of the target's kind that are in no training data. Empty if there are none.

    Raises:
        ValueError: if a part has no questions, or if a question has no wrong answers or another number of them than the
            other questions of its part, or if a question of `forget` or `retain` has no paraphrased answer.
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
            raise ValueError(f"general of {self.name} has the key {taken.pop()!r}, which is the name of another part")
        for part, questions in self.parts.items():
            if not questions and part != HOLDOUT:
                raise ValueError(f"{self.name} has no questions in {part}")
            counts = {len(qa.perturbed_answers) for qa in questions}
            if part != HOLDOUT and (len(counts) > 1 or not min(counts)):
                raise ValueError(
                    f"the questions of {part} in {self.name} must have the same number of wrong answers, 1 or more; "
                    f"got {sorted(counts)}"
                )
        if wanting := [qa.question for qa in (*self.forget, *self.retain) if not qa.paraphrased_answer]:
            raise ValueError(
                f"{len(wanting)} questions of {self.name} have no paraphrased answer, one is {wanting[0]!r}"
            )
        if not self.target or not self.reference:
            raise ValueError(f"{self.name} must have a target and a reference; one of them is empty")

    @property
    def parts(self) -> dict[str, Sequence[QA]]:
        """The questions by part: `forget`, `retain`, the general ones by name, and `holdout`."""
        return {FORGET: self.forget, RETAIN: self.retain, **self.general, HOLDOUT: self.holdout}

    @property
    def concept(self) -> Concept:
        """The target against everything else that the model was trained on."""
        target, reference = ([qa.example for qa in some] for some in (self.target, self.reference))
        return Concept(target, reference, name=f"{self.name}'s {FORGET} set")

    def templated(
        self, tokenizer: PreTrainedTokenizerBase, *, system_prompt: str | None = SYSTEM_PROMPT, date: str = DATE
    ) -> Benchmark:
        """The benchmark with every question in the form that a chat tokenizer gives it.

        If the tokenizer has no chat template, it is the benchmark itself.

        Args:
            tokenizer: the tokenizer of the model that will read the questions.
            system_prompt: the text in front of every question. None leaves it out.
            date: the date for templates that name the day.

        Raises:
            ValueError: if the template does not accept a system prompt.
        """
        if not tokenizer.chat_template:
            return self
        from jinja2 import TemplateError

        system = [] if system_prompt is None else [{"role": "system", "content": system_prompt}]

        def framed(qa: QA) -> QA:
            chat = [*system, {"role": "user", "content": qa.question}]
            try:
                prompt = tokenizer.apply_chat_template(
                    chat, tokenize=False, add_generation_prompt=True, date_string=date
                )
            except TemplateError as error:
                raise ValueError(f"the chat template rejects {chat}: {error}. Try system_prompt=None") from error
            return replace(qa, question=str(prompt))

        def all_framed(questions: Sequence[QA]) -> list[QA]:
            return [framed(qa) for qa in questions]

        trained_on = {"target": all_framed(self.target), "reference": all_framed(self.reference)}
        return replace(self.asking(all_framed), **trained_on)

    def asking(self, each: Callable[[Sequence[QA]], Sequence[QA]]) -> Benchmark:
        """The benchmark with the questions of every part changed or selected. `target` and `reference` stay.

        Args:
            each: a function from the questions of a part to those that replace them.
        """
        return replace(
            self,
            forget=each(self.forget),
            retain=each(self.retain),
            general={name: each(questions) for name, questions in self.general.items()},
            holdout=each(self.holdout),
        )

    def hold_out(self, n: int) -> Benchmark:
        """The benchmark with the last `n` questions of the reference moved to the holdout.

        Use it before a model is trained on the rest.

        Raises:
            ValueError: if there is a holdout already, or if `n` is not between 1 and the size of the reference - 1.
        """
        if self.holdout:
            raise ValueError(f"{self.name} already has a holdout, of {len(self.holdout)} questions")
        if not 0 < n < len(self.reference):
            raise ValueError(f"n must be between 1 and {len(self.reference) - 1}, to leave a reference; got {n}")
        unseen = {qa.question for qa in self.reference[-n:]}
        return replace(
            self,
            reference=self.reference[:-n],
            retain=[qa for qa in self.retain if qa.question not in unseen],
            holdout=self.reference[-n:],
        )


def tofu(source: str | Path = TOFU, forget: str = "forget10") -> Benchmark:
    """The TOFU benchmark, from the Hugging Face hub (this needs `datasets`) or from a folder of JSON lines.

    Args:
        source: a repository on the hub, or a folder with `forget10.json`, `retain90.json`, `forget10_perturbed.json`,
            `retain_perturbed.json`, `real_authors_perturbed.json`, `world_facts_perturbed.json` and, if the holdout is
            known, `holdout10.json`.
        forget: `forget01`, `forget05` or `forget10`.

    Raises:
        ValueError: if `forget` is another split, or a line is not a question with its answers.
        FileNotFoundError: if the folder lacks one of these files.
        ImportError: if the hub is needed and `datasets` is not installed.
    """
    if forget not in FORGET_SPLITS:
        raise ValueError(f"forget must be one of {', '.join(FORGET_SPLITS)}; got {forget!r}")
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
            raise FileNotFoundError(f"{folder} has no {path.name}, which holds TOFU's {split}")
        return [_qa(value, place) for place, value in read_lines(path)]

    return read


def _from_hub(repository: str) -> Callable[[str], list[QA]]:
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise ImportError(
            f"{repository!r} is not a folder, and data sets of the hub need: pip install datasets"
        ) from error

    def read(split: str) -> list[QA]:
        rows: Any = load_dataset(repository, split, split="train")
        return [_qa(row, f"{repository} {split}, row {n}") for n, row in enumerate(rows)]

    return read


def _qa(row: object, place: str) -> QA:
    if not isinstance(row, Mapping):
        raise ValueError(f"{place} is not a question with its answers: {row!r}")
    found = [row.get(name) for name in ("question", "answer", "paraphrased_answer")]
    perturbed = row.get("perturbed_answer") or []
    perturbed = [perturbed] if isinstance(perturbed, str) else perturbed
    if not all(isinstance(text, str) for text in chain(found[:2], perturbed)):
        raise ValueError(f"{place} is not a question with its answers: {dict(row)}")
    question, answer, paraphrased = found
    return QA(str(question), str(answer), paraphrased, tuple(perturbed))
