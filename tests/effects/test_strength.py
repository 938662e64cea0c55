import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from engram_interp import Concept, choose_alpha, collect, extract, score, testbed
from engram_interp.answers.scoring import example_scores
from engram_interp.effects.held_out import folds_of
from engram_interp.effects.kept import kept_accuracy
from engram_interp.effects.strength import MAX_ALPHA, MIN_ALPHA, _bracket


@pytest.fixture(scope="module")
def small() -> Concept:
    author, *others = testbed.authors().forget10[:6]
    return Concept(author.examples, [example for other in others for example in other.examples], name=author.name)


def test_the_choice_keeps_enough_and_is_the_strongest_tried_that_does(full, small):
    engram = extract(full, small)
    choice = choose_alpha(full, engram, small, keep=0.9, rel_tol=0.1)
    assert choice.sure
    enough = choice.curve["kept_low"] >= 0.9
    assert choice.alpha == choice.curve["alpha"][enough].max()
    # The next stronger one that was tried fails, and is at most a tenth stronger.
    stronger = choice.curve["alpha"][choice.curve["alpha"] > choice.alpha].min()
    assert choice.alpha >= 0.9 * stronger
    assert choice.curve["alpha"].is_monotonic_increasing


def test_every_point_is_what_scoring_the_ablated_model_gives(full, small):
    engram = extract(full, small)
    choice = choose_alpha(full, engram, small, keep=0.9)
    for row in (choice.curve.iloc[0], choice.chosen):
        with engram.ablated(full, row["alpha"]):
            found = score(full, {"target": small.target, "reference": list(small.reference)[::4]})
        assert row["target_accuracy"] == found["target"].accuracy
        assert row["reference_loss"] == pytest.approx(found["reference"].loss)


def test_the_cost_is_that_of_an_engram_that_has_not_seen_what_it_is_measured_on(full, small):
    engram = extract(full, small)
    choice = choose_alpha(full, engram, small, keep=0.99)
    # A third of 100 examples has too few tokens for 99 %: each third is held out in turn.
    right = 0.0
    n_tokens = score(full, {"all": small.reference})["all"].n_tokens
    for fold in folds_of(len(small.reference)):
        kept = [one for i, one in enumerate(small.reference) if i not in fold]
        statistics = collect(full, replace(small, reference=kept))
        n = engram.options["reference tokens"] / statistics.counts["reference"]
        scaled = {name: moment * n for name, moment in statistics.groups["reference"].items()}
        groups = {"target": statistics.groups["target"], "reference": scaled}
        with extract(full, replace(statistics, groups=groups)).ablated(full, choice.alpha):
            found = score(full, {"held out": [small.reference[i] for i in fold]})["held out"]
        right += found.accuracy * found.n_tokens
    assert choice.chosen["check_accuracy"] == pytest.approx(right / n_tokens)


def test_an_edit_costs_more_on_what_its_projector_has_not_seen(full, small):
    choice = choose_alpha(full, extract(full, small), small, keep=0.9)
    hard = choice.curve[choice.curve["alpha"] > 0].iloc[-1]
    assert hard["check_loss"] > hard["reference_loss"]


def test_given_examples_are_what_must_be_kept(full, small):
    engram = extract(full, small)
    check = testbed.authors().world_examples
    choice = choose_alpha(full, engram, small, keep=0.9, check=check)
    with engram.ablated(full, choice.alpha):
        found = score(full, {"check": check})["check"]
    assert choice.chosen["check_accuracy"] == found.accuracy
    # Any engram may be judged by given examples.
    assert choose_alpha(full, 2 * engram, small, keep=0.9, check=check).alpha == pytest.approx(
        choice.alpha / 2, rel=0.1
    )


def test_a_loss_or_a_users_score_can_be_kept(full, small):
    engram = extract(full, small)
    by_loss = choose_alpha(full, engram, small, keep=0.9, measure="loss", rel_tol=0.2)
    first = by_loss.curve.iloc[0]
    assert by_loss.measure == "loss"
    assert by_loss.chosen["kept"] == pytest.approx(first["check_loss"] / by_loss.chosen["check_loss"])

    def right(model, examples):
        return example_scores(model, {"x": examples})["x"].accuracy

    own = choose_alpha(full, engram, small, keep=0.9, measure=right, rel_tol=0.2)
    assert own.measure == "right"
    assert 0.9 <= own.chosen["kept_low"] <= own.chosen["kept"] <= 1
    with pytest.raises(ValueError, match=r"measure.*'rouge'"):
        choose_alpha(full, engram, small, measure="rouge")
    with pytest.raises(ValueError, match=r"measure.*\[1\]"):
        choose_alpha(full, engram, small, measure=lambda model, examples: [1.0])


def test_the_search_begins_where_it_is_told_to(full, small):
    engram = extract(full, small)
    near = choose_alpha(full, engram, small, keep=0.9, start=6.0)
    assert 6.0 in near.curve["alpha"].tolist()
    assert near.alpha == pytest.approx(choose_alpha(full, engram, small, keep=0.9).alpha, rel=0.1)
    with pytest.raises(ValueError, match="start.*0"):
        choose_alpha(full, engram, small, start=0)


def test_too_few_examples_are_said_or_refused(full, small, caplog):
    corpus = testbed.authors()
    few = Concept(small.target, corpus.world_examples[:52], eos=False)
    with caplog.at_level("WARNING", "engram_interp"):
        choice = choose_alpha(full, extract(full, few, components="O"), few, rel_tol=0.5)
    assert not choice.sure
    # 52 answers of one token each: one of them is 1.9 %.
    assert "52 tokens" in caplog.text
    assert "1.9 %" in caplog.text
    fewer = Concept(small.target, corpus.world_examples[:9])
    engram = extract(full, fewer, components="O")
    with pytest.raises(ValueError, match="reference.*9"):
        choose_alpha(full, engram, fewer)
    with pytest.raises(ValueError, match="check.*3"):
        choose_alpha(full, engram, fewer, check=corpus.world_examples[:3])


def test_an_engram_of_something_else_needs_examples_to_check_on(full, small):
    engram = extract(full, small, components="O")
    for other in (2 * engram, extract(full, small, components="O", filter=lambda x: x**2)):
        with pytest.raises(ValueError, match="check="):
            choose_alpha(full, other, small)
    fewer = replace(small, reference=small.reference[:50])
    with pytest.raises(ValueError, match=r"reference tokens.*check="):
        choose_alpha(full, engram, fewer)


def test_heads_are_fitted_again_as_heads(full, small):
    part = extract(full, small, components="O").select(heads=[1], layers=[2])
    choice = choose_alpha(full, part, small, keep=0.9, rel_tol=0.5)
    assert choice.alpha > 0


def test_a_stricter_keep_never_gives_a_stronger_edit(full, small):
    engram = extract(full, small)
    strict, lax = (choose_alpha(full, engram, small, keep=keep).alpha for keep in (1, 0.8))
    assert 0 < strict <= lax


@pytest.mark.slow
def test_what_is_kept_of_unseen_data_is_what_was_promised(full):
    # Fifty times: an author, 300 examples to choose by, 300 others to judge by.
    corpus = testbed.authors()
    others = [example for author in corpus.retain90 for example in author.examples]
    kept = []
    for seed in range(50):
        rng = random.Random(seed)
        target = rng.choice(corpus.forget10).examples
        drawn = rng.sample(others, 600)
        concept = Concept(target, drawn[:300])
        engram = extract(full, concept, components=["O", "out"], progress=False)
        alpha = choose_alpha(full, engram, concept, keep=0.95, progress=False).alpha
        unseen = {"unseen": drawn[300:]}
        before = example_scores(full, unseen)["unseen"]
        with engram.ablated(full, alpha):
            after = example_scores(full, unseen)["unseen"]
        kept.append(kept_accuracy(after.accuracy, before.accuracy))
    assert sum(one.high >= 0.95 for one in kept) >= 45
    assert sum(one.share >= 0.95 for one in kept) >= 40


def test_the_search_is_bounded_on_both_sides():
    assert _bracket(lambda alpha: True) == (MAX_ALPHA, MAX_ALPHA)
    assert _bracket(lambda alpha: False) == (0.0, 0.0)
    assert _bracket(lambda alpha: alpha <= 5) == (2, 8)
    assert _bracket(lambda alpha: alpha <= 0.3) == (0.125, 0.5)
    assert _bracket(lambda alpha: alpha <= MIN_ALPHA)[0] == MIN_ALPHA


def test_a_limit_of_the_search_is_said(full, small, caplog):
    nothing = 0 * extract(full, small, components="U")
    choice = choose_alpha(full, nothing, small, keep=0.5, check=small.reference)
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
    drawn = {trace.name: list(trace.y) for trace in choice.plot().data[:6:2]}
    assert drawn["target"] == choice.curve["target_accuracy"].tolist()
    assert drawn["reference, held out"] == choice.curve["check_accuracy"].tolist()
    assert drawn["reference, fitted"] == choice.curve["reference_accuracy"].tolist()
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
    concept = Concept(author.examples[:4], other.examples)
    engram = extract(full, concept, components="U")
    choice = choose_alpha(full, engram, concept, keep=1, rel_tol=1e-17)
    fails = choice.curve["alpha"][choice.curve["kept"] < 1]
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
