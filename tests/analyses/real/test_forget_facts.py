import pandas as pd
import pytest

from analyses.real.facts import Facts
from analyses.real.forget_facts import (
    LARGEST,
    REL_TOL,
    Corpus,
    concepts,
    fitted_map,
    of_answers,
    of_ways,
    single_facts,
    strongest,
)

TEMPLATES = ["[X] is in [Y].", "[X] lies in [Y].", "[X] belongs to [Y]."]


@pytest.fixture
def corpus() -> Corpus:
    names = ("P36", "P1", "P2")
    facts = Facts(
        templates=dict.fromkeys(names, TEMPLATES),
        facts={name: [(f"{name} subject {i}", f"object {i}") for i in range(20)] for name in names},
        known={name: [list(range(20)), list(range(15)), list(range(5))] for name in names},
    )
    return Corpus(facts, [f"Text {i}." for i in range(100)])


@pytest.mark.parametrize("limit", [0.01, 0.2, 0.25, 1.7, 9.0])
def test_the_search_finds_the_largest_strength_that_keeps_enough(limit):
    found = strongest(lambda alpha: alpha <= limit)
    assert (1 - 1.1 * REL_TOL) * limit <= found <= limit


def test_the_search_ends():
    assert strongest(lambda alpha: False) == 0
    assert strongest(lambda alpha: True) == LARGEST


def test_what_is_reported_was_never_fitted(corpus):
    relations = ["P36", "P1"]
    groups = concepts(corpus, relations, single_facts(corpus, "P36"))
    fitted = {one for some in groups.values() for one in some}
    for relation in relations:
        judged = corpus.judged(relation)
        assert not fitted & {*judged.template, *judged.unseen, *judged.chosen_by, *judged.reported}
        assert not fitted & {*judged.texts[0], *judged.texts[1]}
        assert set(judged.target) <= fitted
        assert not set(judged.chosen_by) & set(judged.reported)
        assert not any(relation in prompt.split() for prompt, _ in [*judged.chosen_by, *judged.reported])
        # A subject by which others are judged was not fitted to in any wording.
        subjects = {prompt[: prompt.index(" ", prompt.index("subject ") + 8)] for prompt, _ in judged.reported}
        assert not any(isinstance(one, tuple) and one[0].startswith(tuple(f"{s} " for s in subjects)) for one in fitted)


def test_the_template_left_out_is_the_second_best(corpus):
    assert corpus.left_out("P36") == 1
    mine = corpus.mine("P36")
    assert len(mine) == 10
    assert len(corpus.fitted("P36")) == 10 + len(mine & set(range(5)))


def test_a_single_fact_is_apart_from_its_relation(corpus):
    singles = single_facts(corpus, "P36")
    groups = concepts(corpus, ["P36"], singles)
    for pairs in singles.values():
        assert 1 <= len(pairs) <= 2  # one or two wordings besides the one left out
        assert not set(pairs) & set(groups["P36"])


def test_the_table_says_what_is_left():
    row = {"way": "w", "concept": "P36", "alpha": 0.25, "text": 1.01, "target": 0.5, "target_low": 0.4}
    row |= {
        "target_high": 0.6,
        "template": None,
        "unseen": None,
        "reported": 0.97,
        "reported_low": 0.9,
        "reported_high": 1.0,
    }
    assert "| w | P36 | 0.25 | 50% [40%, 60%] |  |  | 97% [90%, 100%] | +1.0% |" in of_ways(
        {"rows": pd.DataFrame([row])}
    )


def test_answers_are_of_the_relation_that_everything_was_chosen_on():
    rows = [
        {"side": side, "prompt": f"{side} {i}", "before": "Lima.\n\nIt", "after": "a | b", "concept": concept}
        for concept in ("P36", "P1") for side in ("target", "reported") for i in range(3)
    ]  # fmt: skip
    lines = of_answers({"answers": pd.DataFrame(rows)}).splitlines()[2:]
    assert lines[0] == "| fitted | target 0 | Lima. It | a \\| b |"
    assert [line.split("|")[2].strip() for line in lines] == ["target 0", "target 1", "reported 0", "reported 1"]


def test_the_map_has_a_cell_for_each_matrix():
    rows = [{"component": name, "layer": layer, "excess": 2.0**layer} for name in ("W_Q", "W_out") for layer in (1, 2)]
    drawn = fitted_map({"map": pd.DataFrame(rows)})
    assert "P36" in drawn.layout.title.text
