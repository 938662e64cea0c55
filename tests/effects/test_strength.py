import numpy as np
import pytest
import torch

from engram_interp import Concept, choose_alpha, extract, score, testbed
from engram_interp.effects.strength import MAX_ALPHA, MIN_ALPHA, _bracket


@pytest.fixture(scope="module")
def small() -> Concept:
    author, *others = testbed.authors().forget10[:6]
    return Concept(author.examples, [example for other in others for example in other.examples], name=author.name)


def test_the_choice_keeps_enough_and_is_the_strongest_tried_that_does(full, small):
    engram = extract(full, small)
    choice = choose_alpha(full, engram, small, keep=0.95, rel_tol=0.1)
    kept = choice.curve["reference_accuracy"] >= choice.floor
    assert choice.alpha == choice.curve["alpha"][kept].max()
    # The next stronger one that was tried fails, and is at most a tenth stronger.
    stronger = choice.curve["alpha"][choice.curve["alpha"] > choice.alpha].min()
    assert choice.alpha >= 0.9 * stronger
    assert choice.curve["alpha"].is_monotonic_increasing


def test_every_point_is_what_scoring_the_ablated_model_gives(full, small):
    engram = extract(full, small)
    choice = choose_alpha(full, engram, small)
    for row in (choice.curve.iloc[0], choice.chosen):
        with engram.ablated(full, row["alpha"]):
            found = score(full, small.sides)
        assert row["target_accuracy"] == found["target"].accuracy
        assert row["reference_loss"] == pytest.approx(found["reference"].loss)


def test_a_stricter_keep_never_gives_a_stronger_edit(full, small):
    engram = extract(full, small)
    strict, lax = (choose_alpha(full, engram, small, keep=keep).alpha for keep in (1, 0.9))
    assert 0 < strict <= lax


def test_the_search_is_bounded_on_both_sides():
    assert _bracket(lambda alpha: True) == (MAX_ALPHA, MAX_ALPHA)
    assert _bracket(lambda alpha: False) == (0.0, 0.0)
    assert _bracket(lambda alpha: alpha <= 5) == (4, 8)
    assert _bracket(lambda alpha: alpha <= 0.3) == (0.25, 0.5)
    assert _bracket(lambda alpha: alpha <= MIN_ALPHA)[0] == MIN_ALPHA


def test_a_limit_of_the_search_is_said(full, small, caplog):
    nothing = 0 * extract(full, small, components="U")
    choice = choose_alpha(full, nothing, small)
    assert choice.alpha == MAX_ALPHA
    assert caplog.messages[-1] == "alpha = 1024 is a limit of the search, not a choice: every edit tried keeps enough"


def test_what_makes_no_sense_is_refused(full, small):
    engram = extract(full, small, components="U")
    for keep in (0, 1.5):
        with pytest.raises(ValueError, match="keep.*0 < keep <= 1"):
            choose_alpha(full, engram, small, keep=keep)
    with pytest.raises(ValueError, match="rel_tol.*0"):
        choose_alpha(full, engram, small, rel_tol=0)
    hopeless = torch.tensor([[3, 3, 3]])
    mask = torch.tensor([[False, True, True]])
    concept = Concept.from_tokens(hopeless, hopeless, mask, mask)
    with pytest.raises(ValueError, match="reference"):
        choose_alpha(full, engram, concept)


def test_the_figure_is_the_curve(full, small):
    choice = choose_alpha(full, extract(full, small, components="U"), small, rel_tol=0.5)
    (target, *_) = [trace for trace in choice.plot().data if trace.name == "target"]
    assert list(target.y) == choice.curve["target_accuracy"].tolist()
    assert small.name in choice.plot().layout.title.text


def test_an_edit_that_forgets_nothing_is_said(full, caplog):
    # Target and reference are the same facts, so that whatever keeps the one keeps the other.
    facts = testbed.authors().world_examples
    concept = Concept(facts, facts)
    with caplog.at_level("WARNING", "engram_interp"):
        choose_alpha(full, extract(full, concept, components="U"), concept, keep=0.5)
    assert "the target too" in caplog.text


def test_a_bracket_narrower_than_floats_ends_the_search(full):
    author, other = testbed.authors().forget10[:2]
    concept = Concept(author.examples[:4], other.examples[:4])
    engram = extract(full, concept, components="U")
    choice = choose_alpha(full, engram, concept, rel_tol=1e-17)
    fails = choice.curve["alpha"][choice.curve["reference_accuracy"] < choice.floor]
    assert np.nextafter(choice.alpha, np.inf) == fails[fails > choice.alpha].min()


@pytest.mark.parametrize(("name", "given"), [("keep", "0.98"), ("keep", True), ("rel_tol", "0.1"), ("keep", np.nan)])
def test_what_is_no_number_is_refused(full, small, name, given):
    with pytest.raises((TypeError, ValueError)):
        choose_alpha(full, extract(full, small, components="U"), small, **{name: given})


def test_it_shows_itself_on_a_line_and_as_a_table(full, small):
    choice = choose_alpha(full, extract(full, small, components="U"), small, rel_tol=0.5)
    assert len(repr(choice)) < 200
    assert f"alpha = {choice.alpha:.3g}" in repr(choice)
    assert choice._repr_html_().count("<tr") == 3 + (choice.alpha > 0)
