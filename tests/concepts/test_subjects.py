import pytest

from engram_interp import testbed
from engram_interp.concepts.subjects import subjects


def test_a_first_name_that_several_people_have_is_no_subject():
    prompts = ["Who is Ada Pike?", "Where did Ada Pike live?", "Who is Ada Long?", "What does Ada Long eat?"]
    assert subjects(prompts) == ["Ada Pike", "Ada Pike", "Ada Long", "Ada Long"]


def test_of_two_names_the_more_common_one_is_the_subject():
    prompts = ["Did Ada Pike write Low Tide?", "Is Low Tide by Ada Pike?", "Where did Ada Pike live?"]
    assert subjects(prompts) == ["Ada Pike"] * 3


def test_a_title_behind_the_name_leaves_the_name():
    prompts = ["Is Ada Pike's Low Tide long?", "Is Ada Pike's Low Tide new?", "Is Ada Pike old?", "Who is Ada Pike?"]
    assert subjects(prompts) == ["Ada Pike"] * 4


@pytest.mark.parametrize("prompt", ["who is it?", "Who was there?", "", "彼は誰ですか"])
def test_a_prompt_without_names_has_no_subject(prompt):
    assert subjects([prompt, prompt]) == [None, None]


@pytest.mark.parametrize(
    "written", ["Ada Pike", "(Ada Pike)", "“Ada Pike”", "Ada Pike's", "Ada Pike\u2019s", "Ada Pike,"]
)
def test_what_stands_around_a_name_is_no_part_of_it(written):
    assert subjects([f"Who knows {written} today?", "Where is Ada Pike?"]) == ["Ada Pike", "Ada Pike"]


def test_the_authors_of_the_testbed_are_found_without_labels():
    authors = testbed.authors().full
    found = subjects([prompt for author in authors for prompt, _ in author.examples])
    assert found == [author.name for author in authors for _ in author.examples]
