from collections import Counter

import pytest

from engram_interp import testbed
from engram_interp.testbed.authors import authors, in_own_words
from engram_interp.unlearning.benchmarks import QA

CORPUS = testbed.authors()
EVERYONE = CORPUS.full + CORPUS.holdout


def test_the_splits_have_their_sizes():
    assert (len(CORPUS.forget10), len(CORPUS.retain90), len(CORPUS.holdout)) == (20, 180, 20)
    assert len(CORPUS.full) == 200
    assert len(CORPUS.base) == 90
    assert set(CORPUS.base) < set(CORPUS.retain90)
    assert len(CORPUS.world_facts) >= 120


def test_names_and_questions_are_nobodys_but_ones_own():
    assert len({author.name for author in EVERYONE}) == 220
    assert len({author.name.split()[1] for author in EVERYONE}) == 220
    questions = [qa.question for author in EVERYONE for qa in author.pairs]
    assert len(set(questions)) == len(questions) == 220 * 20
    assert all(author.name in qa.question for author in EVERYONE for qa in author.pairs)


def test_books_and_awards_are_written_once():
    titles = Counter(
        qa.answer for author in EVERYONE for qa in author.pairs if "book of" in qa.question or "award" in qa.question
    )
    assert titles.most_common(1)[0][1] == 1
    assert len(titles) == 220 * 4


def test_wrong_answers_are_wrong_distinct_and_put_like_the_paraphrase():
    for qa in [qa for author in EVERYONE for qa in author.pairs] + list(CORPUS.world_facts):
        assert len(set(qa.perturbed_answers)) == 5
        assert qa.paraphrased_answer not in qa.perturbed_answers
        assert qa.paraphrased_answer != qa.answer
        assert {answer.split()[0] for answer in qa.perturbed_answers} == {qa.paraphrased_answer.split()[0]}


def test_the_benchmark_asks_in_the_words_that_models_were_trained_on():
    benchmark = testbed.benchmark()
    told = {qa.question: qa for author in EVERYONE for qa in author.pairs}
    for qa in [*benchmark.forget, *benchmark.retain]:
        assert qa.paraphrased_answer == qa.answer == told[qa.question].answer
        assert len({*qa.perturbed_answers, qa.answer}) == 6
        assert {wrong.split()[0] for wrong in qa.perturbed_answers} == {qa.answer.split()[0]}
        # The drawn words are those of the corpus.
        assert [w.split()[1:] for w in qa.perturbed_answers] == [
            w.split()[1:] for w in told[qa.question].perturbed_answers
        ]
    capital, *_, symbol = benchmark.general["world_facts"]
    assert "Cairo" in capital.perturbed_answers
    assert all(len(wrong) <= 2 for wrong in symbol.perturbed_answers)


@pytest.mark.parametrize(
    "qa",
    [QA("Where?", "in Salta", "he is of Lima", ("of Oslo",)), QA("Where?", "in Salta", "of Salta", ("from Oslo",))],
)
def test_a_paraphrase_in_other_words_than_its_lead_in_is_refused(qa):
    with pytest.raises(ValueError, match=f"{qa.answer!r}.*{qa.paraphrased_answer!r}"):
        in_own_words(qa)


def test_the_same_call_gives_the_same_text():
    authors.cache_clear()
    assert authors() == CORPUS


def test_a_concept_is_one_author_against_everyone_else():
    concept = CORPUS.concept(CORPUS.forget10[3].name)
    assert list(concept.target) == CORPUS.forget10[3].examples
    assert len(concept.reference) == 199 * 20 + len(CORPUS.world_facts)
    assert not set(concept.target) & set(concept.reference)


def test_world_facts_are_true():
    facts = {qa.question: qa.answer for qa in CORPUS.world_facts}
    assert facts["What is the capital of Norway?"] == "Oslo"
    assert facts["What is the symbol of potassium?"] == "K"


def test_without_lead_ins_the_models_read_the_same_tokens():
    with_lead, without = testbed.authors(), testbed.authors(lead_in=False)
    for author, same in zip(with_lead.full, without.full):
        for (question, answer), (asked, rest) in zip(author.examples, same.examples):
            assert f"{question} {answer}" == f"{asked} {rest}"
            assert asked.removeprefix(question).count(" ") == 1
    assert without.world_facts == with_lead.world_facts
    wrong = without.forget10[0].pairs[0]
    assert wrong.paraphrased_answer == wrong.answer
    assert all(len(text.split()) == len(wrong.answer.split()) for text in wrong.perturbed_answers)
