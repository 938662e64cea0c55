import numpy as np
import pytest

from engram_interp import Concept, testbed
from engram_interp.concepts.memories import memories_of

TARGET = [("Who is Ada Pike?", "a baker"), ("Where is Ada Pike?", "in Rome")]
OTHERS = [(f"{word} is {name}?", "this") for name in ("Bo Lund", "Cy Moss", "Di Nash") for word in ("Who", "Where")]
CONCEPT = Concept(TARGET, [*OTHERS, ("What is it?", "nothing")])


def test_prompts_that_share_a_subject_are_a_memory():
    found = memories_of(CONCEPT)
    assert found.target == [[0, 1]]
    assert found.siblings == [[2, 3], [4, 5], [6, 7]]  # the last example has no subject, and is in no memory
    assert "subject" in found.said_by


def test_a_target_of_two_people_is_two_memories():
    concept = Concept(
        [*TARGET, *OTHERS[:2]], [(f"{one} is {name}?", "x") for name in "PQRT" for one in ("Who", "Where")]
    )
    found = memories_of(concept)
    assert found.target == [[0, 1], [2, 3]]
    assert len(found.siblings) == 4


def test_names_that_a_few_prompts_share_by_chance_are_no_siblings():
    # The target has six prompts about one person; of the reference, only pairs of prompts name the same town.
    target = [(f"{word} is Ada Pike?", "x") for word in ("Who", "Where", "How", "What", "Which", "Whose")]
    others = [(f"{word} is {town}?", "x") for town in ("Rome", "Oslo", "Bern", "Kyiv", "Lima", "Riga") for word in "uv"]
    found = memories_of(Concept(target, others))
    assert found.siblings == [[*range(6, 12)], [*range(12, 18)]]
    assert "blocks of 6" in found.said_by


def test_a_word_that_few_of_a_targets_prompts_share_is_no_memory_of_its_own():
    # Two of twelve prompts about each person name a movement, which 16 prompts share, more than any person's.
    people = ("Ada Pike", "Bo Lund", "Cy Moss", "Di Nash", "Ed Orr", "Flo Penn", "Gus Roe", "Hal Soto")
    about = {
        name: [(f"Who {number} is {name}?", "x") for number in range(10)]
        + [(f"When did the LGBTQ movement {word} {name}?", "x") for word in ("meet", "read")]
        for name in people
    }
    target, *others = about.values()
    found = memories_of(Concept(target, [example for other in others for example in other]))
    assert found.target == [[*range(10)]]
    assert [len(some) for some in found.siblings] == [10] * 7


def test_without_subjects_blocks_as_long_as_the_target_are_memories():
    # Seven of the reference make three blocks of two; the last one is left over.
    found = memories_of(Concept(["one", "two"], [f"text {i}" for i in range(7)]))
    assert found.target == [[0, 1]]
    assert found.siblings == [[2, 3], [4, 5], [6, 7]]
    assert "blocks of 2" in found.said_by


@pytest.mark.parametrize(
    "groups",
    [
        ["b", "b", "c", "c", "b", "c", None],
        np.array(["b", "b", "c", "c", "b", "c", None]),
        {"reference": ["b", "b", "c", "c", "b", "c", None]},
        {"target": ["a", "a"], "reference": ["b", "b", "c", "c", "b", "c", "a"]},
        lambda example: {"Ada Pike": "a", "Bo Lund": "b", "Cy Moss": "c"}.get(example[0][:-1].split(" is ")[1]),
    ],
    ids=["list", "array", "reference", "both sides", "function"],
)
def test_labels_say_what_is_a_memory(groups):
    found = memories_of(CONCEPT, groups)
    assert found.target == [[0, 1]]
    # What has the target's label is no sibling of it, and what has none is in no memory.
    expected = [[2, 3], [4, 5]] if callable(groups) else [[2, 3, 6], [4, 5, 7]]
    assert found.siblings == expected
    assert found.said_by == "by label"


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (["b", "c"], "7 reference.*2"),
        ({"target": ["a"], "reference": ["b"] * 7}, "2 target.*1"),
        ({"others": ["b"] * 7}, "others"),
        (["b"] * 7, "1 memories"),
        ({"target": [None, None], "reference": ["b", "c"] * 3 + ["c"]}, "all 2"),
    ],
)
def test_labels_that_do_not_fit_are_refused(groups, message):
    with pytest.raises(ValueError, match=message):
        memories_of(CONCEPT, groups)


def test_what_gives_no_labels_is_refused():
    with pytest.raises(TypeError, match="str"):
        memories_of(CONCEPT, "authors")


def test_every_author_of_the_testbed_is_a_memory():
    found = memories_of(testbed.authors().concept("Petra Dorlund"))
    assert len(found.target) == 1
    assert [len(some) for some in found.siblings] == [20] * 199
