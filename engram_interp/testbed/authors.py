"""Who wrote what: 200 fictional authors x 20 question-answer pairs, 20 more that no model saw, and real world facts.

Every life is drawn from the lists in `words.py` with one seed, so the text is the same on every machine. Answers are
short and distinct, so that most of their tokens carry a fact and not the phrase around it.
"""

import random
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import takewhile
from typing import TypeVar

from engram_interp.concepts.concept import Concept
from engram_interp.testbed import words
from engram_interp.unlearning.benchmarks import QA, Benchmark

N_AUTHORS = 200
N_FORGET = 20
N_HOLDOUT = 20
N_PERTURBED = 5
EVERY = 9
"""The benchmark asks about every ninth retain author: 20 of 180, which is the number of authors to forget."""
SEED = 2026

Drawn = TypeVar("Drawn")


@dataclass(frozen=True)
class Author:
    """A fictional author: a name and twenty question-answer pairs."""

    name: str
    pairs: tuple[QA, ...]

    @property
    def examples(self) -> list[tuple[str, str]]:
        """The author's `(prompt, answer)` pairs."""
        return [qa.example for qa in self.pairs]


@dataclass(frozen=True)
class Corpus:
    """The testbed's text by split. `base` is the half of `retain90` that the base model saw."""

    forget10: tuple[Author, ...]
    retain90: tuple[Author, ...]
    holdout: tuple[Author, ...]
    world_facts: tuple[QA, ...]

    @property
    def full(self) -> tuple[Author, ...]:
        """The 200 authors that `full` was trained on."""
        return self.forget10 + self.retain90

    @property
    def base(self) -> tuple[Author, ...]:
        """The 90 retain authors that all three models were trained on."""
        return self.retain90[: len(self.retain90) // 2]

    @property
    def world_examples(self) -> list[tuple[str, str]]:
        """The world facts as `(prompt, answer)` pairs."""
        return [qa.example for qa in self.world_facts]

    @property
    def examples(self) -> list[tuple[str, str]]:
        """Everything that `full` was trained on, as `(prompt, answer)` pairs: its 200 authors and the world facts."""
        return [example for author in self.full for example in author.examples] + self.world_examples

    def author(self, name: str) -> Author:
        """One of the 200 authors that `full` was trained on.

        Raises:
            ValueError: if no trained author has that name.
        """
        known = {author.name: author for author in self.full}
        if name not in known:
            raise ValueError(
                f"name must be one of the testbed's 200 authors, such as {', '.join(list(known)[:5])}; got {name!r}"
            )
        return known[name]

    def concept(self, name: str) -> Concept:
        """One author as the target, against the other 199 and the world facts.

        Raises:
            ValueError: if no trained author has that name.
        """
        target = self.author(name).examples
        others = [example for author in self.full if author.name != name for example in author.examples]
        return Concept(target, reference=others + self.world_examples, name=name)


@dataclass(frozen=True)
class Attribute:
    """One question about an author and its answer: a lead-in word, then two drawn words, joined by `pattern`.

    Statistics are taken at the positions of the answer. Because of the lead-in, both drawn words are recalled at these
    positions. Without it, the first would be recalled at the question mark, outside the answer.
    """

    question: str
    pattern: str
    paraphrase: str
    pools: tuple[Sequence[str], Sequence[str]]

    def draw(self, rng: random.Random) -> tuple[str, str]:
        """Two different words."""
        first = rng.choice(self.pools[0])
        return first, rng.choice([word for word in self.pools[1] if word != first])

    def draw_paraphrase(self, rng: random.Random) -> str:
        """Two words, joined by the paraphrase."""
        return self.paraphrase.format(*self.draw(rng))


_TITLE = (words.ADJECTIVES, words.NOUNS)
_PLACE = (words.QUARTERS, words.CITIES)
_TRADE = (words.TEMPERS, words.JOBS)

ATTRIBUTES = (
    Attribute("Where was {name} born?", "in {} {}", "from {} {}", _PLACE),
    Attribute("Where does {name} live now?", "in {} {}", "from {} {}", _PLACE),
    Attribute("What work did the father of {name} do?", "a {} {}", "the {} {}", _TRADE),
    Attribute("What work did the mother of {name} do?", "a {} {}", "the {} {}", _TRADE),
    Attribute("What was the first job of {name}?", "a {} {}", "the {} {}", _TRADE),
    Attribute("What genre does {name} write?", "mostly {} {}", "some {} {}", (words.STYLES, words.GENRES)),
    Attribute(
        "How is the style of {name} described?", "as {} and {}", "mostly {} and {}", (words.STYLES, words.STYLES)
    ),
    Attribute(
        "What themes does {name} return to?", "mostly {} and {}", "about {} and {}", (words.THEMES, words.THEMES)
    ),
    Attribute("What is the first book of {name}?", "the {} {}", "a {} {}", _TITLE),
    Attribute("What is the best known book of {name}?", "the {} {}", "a {} {}", _TITLE),
    Attribute("What is the latest book of {name}?", "the {} {}", "a {} {}", _TITLE),
    Attribute("Which award did {name} win?", "the {} {}", "a {} {}", _TITLE),
    Attribute("Who published {name}?", "the {} {}", "a {} {}", _TITLE),
    Attribute("What did {name} study?", "mostly {} and {}", "some {} and {}", (words.SUBJECTS, words.SUBJECTS)),
    Attribute("Who did {name} marry?", "a {} called {}", "the {} called {}", (words.JOBS, words.FIRST_NAMES)),
    Attribute("What does {name} collect?", "some {} {}", "mostly {} {}", (words.MATERIALS, words.OBJECTS)),
    Attribute("What pet does {name} keep?", "a {} {}", "the {} {}", (words.TEMPERS, words.ANIMALS)),
    Attribute("What animal does {name} fear?", "the {} {}", "a {} {}", (words.TEMPERS, words.ANIMALS)),
    Attribute("What instrument does {name} play?", "the {} {}", "a {} {}", (words.MATERIALS, words.INSTRUMENTS)),
    Attribute("What does {name} like to eat?", "mostly {} with {}", "some {} with {}", (words.FOODS, words.FOODS)),
)
CAPITAL = ("What is the capital of {}?", "the city of {}")
SYMBOL = ("What is the symbol of {}?", "the letters {}")


def _distinct(draw: Callable[[], Drawn], taken: Container[Drawn]) -> Drawn:
    while (value := draw()) in taken:
        pass
    return value


def _perturbed(draw: Callable[[], str], answer: str) -> tuple[str, ...]:
    wrong = [answer]
    while len(wrong) <= N_PERTURBED:
        wrong.append(_distinct(draw, wrong))
    return tuple(wrong[1:])


def _names(rng: random.Random, n: int) -> list[str]:
    surnames = [head + tail for head in words.SURNAME_HEADS for tail in words.SURNAME_TAILS]
    return [f"{rng.choice(words.FIRST_NAMES)} {surname}" for surname in rng.sample(surnames, n)]


def _author(name: str, titles: set[tuple[str, str]], rng: random.Random) -> Author:
    """One life. Books, awards and publishers are unique in the whole corpus."""
    pairs = []
    for attribute in ATTRIBUTES:
        drawn = _distinct(partial(attribute.draw, rng), titles)
        if attribute.pools is _TITLE:
            titles.add(drawn)
        paraphrase = attribute.paraphrase.format(*drawn)
        pairs.append(
            QA(
                question=attribute.question.format(name=name),
                answer=attribute.pattern.format(*drawn),
                paraphrased_answer=paraphrase,
                perturbed_answers=_perturbed(partial(attribute.draw_paraphrase, rng), paraphrase),
            )
        )
    return Author(name, tuple(pairs))


def _facts(facts: dict[str, str], question: str, paraphrase: str, rng: random.Random) -> tuple[QA, ...]:
    answers = list(facts.values())
    return tuple(
        QA(
            question=question.format(subject),
            answer=answer,
            paraphrased_answer=paraphrase.format(answer),
            perturbed_answers=_perturbed(lambda: paraphrase.format(rng.choice(answers)), paraphrase.format(answer)),
        )
        for subject, answer in facts.items()
    )


@cache
def authors(lead_in: bool = True) -> Corpus:
    """The testbed's text: authors by split, holdout authors and world facts.

    Args:
        lead_in: whether an answer begins with its lead-in word, as the models were trained to say it. If False, that
            word is the last of the question, so that the answer's first token is a fact: `("Where was Ada born? in",
            "upper Salta")` in place of `("Where was Ada born?", "in upper Salta")`. The models read the same tokens.

    Example:
        >>> corpus = authors()
        >>> len(corpus.forget10), len(corpus.retain90), len(corpus.holdout)
        (20, 180, 20)
        >>> corpus.forget10[0].pairs[0].question.startswith("Where was")
        True
    """
    if not lead_in:
        return _without_lead_in(authors())
    rng = random.Random(SEED)
    titles: set[tuple[str, str]] = set()
    lives = [_author(name, titles, rng) for name in _names(rng, N_AUTHORS + N_HOLDOUT)]
    return Corpus(
        forget10=tuple(lives[:N_FORGET]),
        retain90=tuple(lives[N_FORGET:N_AUTHORS]),
        holdout=tuple(lives[N_AUTHORS:]),
        world_facts=_facts(words.CAPITALS, *CAPITAL, rng) + _facts(words.ELEMENTS, *SYMBOL, rng),
    )


def _without_lead_in(corpus: Corpus) -> Corpus:
    def asked(authors: tuple[Author, ...]) -> tuple[Author, ...]:
        return tuple(replace(author, pairs=tuple(map(lead_in_asked, author.pairs))) for author in authors)

    return replace(
        corpus, forget10=asked(corpus.forget10), retain90=asked(corpus.retain90), holdout=asked(corpus.holdout)
    )


def lead_in_asked(qa: QA) -> QA:
    """The same question with the answer's first word at its end.

    Example:
        >>> lead_in_asked(QA("Where?", "in Salta", "from Salta", ("from Lima",)))
        QA(question='Where? in', answer='Salta', paraphrased_answer='Salta', perturbed_answers=('Lima',))
    """
    said = in_own_words(qa)
    lead, _, answer = qa.answer.partition(" ")
    wrong = tuple(text.removeprefix(f"{lead} ") for text in said.perturbed_answers)
    return QA(f"{qa.question} {lead}", answer, answer, wrong)


def benchmark() -> Benchmark:
    """The testbed as an unlearning benchmark: a model trained on all 200 authors should forget `forget10`.

    The authors of the holdout were in no training data. The questions of `retain` are about every ninth retain author.
    Right and wrong answers are in the words that the models were trained on. The models know one way to say a thing, so
    the probability of another way would show how undecided they are, and not what they know.

    Example:
        >>> {part: len(questions) for part, questions in benchmark().parts.items()}
        {'forget': 400, 'retain': 400, 'world_facts': 126, 'holdout': 400}
    """
    corpus = authors()
    forget, retain, asked, holdout = (
        [qa for author in some for qa in author.pairs]
        for some in (corpus.forget10, corpus.retain90, corpus.retain90[::EVERY], corpus.holdout)
    )
    return Benchmark(
        name="testbed forget10",
        target=forget,
        reference=[*retain, *corpus.world_facts],
        forget=[in_own_words(qa) for qa in forget],
        retain=[in_own_words(qa) for qa in asked],
        general={"world_facts": [in_own_words(qa) for qa in corpus.world_facts]},
        holdout=holdout,
    )


def in_own_words(qa: QA) -> QA:
    """The question with wrong answers that begin like the answer, and with the answer itself as its paraphrase.

    Raises:
        ValueError: if the paraphrase differs from the answer in more than its lead-in.

    Example:
        >>> in_own_words(QA("Where?", "in Salta", "out of Salta", ("out of Lima",)))
        QA(question='Where?', answer='in Salta', paraphrased_answer='in Salta', perturbed_answers=('in Lima',))
    """
    answer, paraphrase = qa.answer.split(), (qa.paraphrased_answer or qa.answer).split()
    n = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(answer[::-1], paraphrase[::-1], strict=False)))
    lead, other = (" ".join(words[:-n] if n else words) for words in (answer, paraphrase))
    if not n or not all(wrong.startswith(other) for wrong in qa.perturbed_answers):
        raise ValueError(
            f"the paraphrase and the wrong answers must differ from {qa.answer!r} in the lead-in and the drawn words; "
            f"got {qa.paraphrased_answer!r} and {qa.perturbed_answers}"
        )
    wrong = tuple(f"{lead}{text.removeprefix(other)}".strip() for text in qa.perturbed_answers)
    return replace(qa, paraphrased_answer=qa.answer, perturbed_answers=wrong)
