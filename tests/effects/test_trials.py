import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engram_interp import Concept, choose_alpha, extract, score, testbed
from engram_interp.concepts.batches import encode_groups
from engram_interp.effects import trials as module
from engram_interp.effects.held_out import Check
from engram_interp.effects.kept import Measure
from engram_interp.effects.trials import FEWEST, Trials, decided, parts_of
from engram_interp.models import adapt
from engram_interp.options import Run


@given(lengths=st.lists(st.integers(1, 30), min_size=1, max_size=3000))
@settings(deadline=None, max_examples=30)
def test_parts_are_every_example_once_and_begin_with_a_fair_sample(lengths):
    parts = parts_of(lengths)
    assert sorted(i for part in parts for i in part) == list(range(len(lengths)))
    assert len(parts[0]) >= min(FEWEST, len(lengths))
    # Every length is there in proportion, to within one example at either end of its run.
    share = len(parts[0]) / len(lengths)
    for length in set(lengths):
        expected = share * lengths.count(length)
        assert abs(sum(lengths[i] == length for i in parts[0]) - expected) <= 2


@pytest.mark.parametrize("lost_share", [0.0, 0.01, 0.02, 0.03, 0.1])
def test_a_part_that_decides_is_right(lost_share):
    # 2000 examples of one token, of which 0.02 may be lost: a sample decides as the whole would, or not at all.
    for seed in range(200):
        rng = random.Random(seed)
        lost = torch.tensor([-float(rng.random() < lost_share) for _ in range(2000)]).double()
        keeps = 2000 + float(lost.sum()) >= 1960
        for n in (32, 128, 256, 512, 1000):
            assert decided(lost[:n], 2000, 2000, 1960) in (None, keeps)


def test_a_part_decides_what_is_clear_and_leaves_what_is_close():
    assert decided(torch.zeros(256).double(), 4096, 4096, 0.9 * 4096) is True
    assert decided(-torch.ones(256).double(), 4096, 4096, 0.9 * 4096) is False
    tenth = torch.zeros(256).double()
    tenth[::10] = -1
    assert decided(tenth, 4096, 4096, 0.9 * 4096) is None


@pytest.fixture(scope="module")
def concept() -> Concept:
    corpus = testbed.authors()
    author, *others = corpus.forget10
    return Concept(author.examples, [example for other in others for example in other.examples])


@pytest.fixture(scope="module")
def check() -> list[tuple[str, str]]:
    return [example for author in testbed.authors().retain90[:20] for example in author.examples]


@pytest.fixture
def trials(full, concept, check) -> Trials:
    adapter = adapt(full)
    encoded = adapter.encode_concept(concept)
    given = Check(check, encode_groups({"check": check}, adapter.encoder)["check"], [extract(full, concept)], [0] * 400)
    return Trials(adapter, given.engrams[0], encoded, given, Measure("accuracy"), 0.9, Run(progress=False))


def test_parts_choose_the_alpha_that_the_whole_chooses(full, concept, check, monkeypatch):
    engram = extract(full, concept)
    found = choose_alpha(full, engram, concept, check=check, rel_tol=0.2)
    monkeypatch.setattr(module, "SHARES", (1.0,))
    monkeypatch.setattr(Trials, "_presume", lambda self, alpha: None)
    whole = choose_alpha(full, engram, concept, check=check, rel_tol=0.2)
    assert found.alpha == whole.alpha
    assert found.curve["alpha"].tolist() == whole.curve["alpha"].tolist()
    assert (whole.curve["check_share"] == 1).all()
    assert found.curve["check_share"].min() < 1
    assert found.chosen.to_dict() == pytest.approx(whole.chosen.to_dict())
    with engram.ablated(full, found.alpha):
        assert score(full, {"check": check})["check"].accuracy == found.chosen["check_accuracy"]


def test_only_examples_that_two_trials_leave_differently_are_scored_between_them(trials):
    assert trials.keeps_surely(0.0)
    assert trials.keeps_surely(0.5)
    assert not trials.keeps_surely(2.0)
    trials.keeps(1.0)
    between = trials.rows()[2]
    assert between["alpha"] == 1.0
    assert 0 < between["check_share"] < 1
    assert not trials.is_whole(1.0)
    right = [int(trials._trials[alpha].check[:, 0].sum()) for alpha in (0.5, 1.0, 2.0)]
    assert right == sorted(right, reverse=True)
    seen = trials._trials[1.0].seen["target"][:, 0]
    assert (seen <= trials._trials[0.5].seen["target"][:, 0]).all()
    trials.keeps_surely(1.0)
    assert trials.rows()[2]["check_share"] == 1
    # What was presumed is what scoring all of them finds, but for examples that come back under a stronger edit.
    assert trials.rows()[2]["check_accuracy"] == pytest.approx(between["check_accuracy"], abs=0.01)


def test_a_strength_that_only_a_part_kept_is_not_returned(full, concept, check, monkeypatch):
    # Parts that always say yes: the whole is scored before anything is returned.
    monkeypatch.setattr(module, "decided", lambda *_: True)
    engram = extract(full, concept)
    choice = choose_alpha(full, engram, concept, check=check, rel_tol=0.5)
    assert choice.chosen["check_share"] == 1
    assert choice.chosen["kept_low"] >= choice.keep


def test_scores_are_those_of_what_was_scored(full, check, trials):
    assert trials.keeps_surely(0.0)
    assert trials.keeps(0.125)  # the edit is weak, so a part is enough
    none, weak = trials.rows()
    assert (none["check_share"], weak["check_share"]) == (1.0, pytest.approx(FEWEST / 400, rel=0.7))
    assert not trials.is_whole(0.125)
    expected = score(full, {"check": check})["check"]
    assert none["check_accuracy"] == expected.accuracy
    assert none["check_loss"] == pytest.approx(expected.loss)
