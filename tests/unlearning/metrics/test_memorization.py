import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engram_interp.unlearning.metrics import (
    closer_to_one,
    exact_memorization,
    extraction_strength,
    probability,
    true_better,
    truth_probability,
    truth_ratio,
)

RANKS = st.lists(st.integers(0, 3), min_size=1, max_size=12).map(np.array)


def test_exact_memorization_by_hand():
    # Three of five tokens are the first choice.
    assert exact_memorization(np.array([0, 2, 0, 1, 0])) == 0.6


@pytest.mark.parametrize(
    ("ranks", "strength"),
    [
        ([0, 0, 0, 0], 1.0),  # k = 0
        ([5, 0, 0, 0], 0.75),  # the first token has to be given
        ([0, 0, 7, 0], 0.25),  # three have to be given
        ([0, 0, 0, 9], 0.25),  # none follows the last, and OpenUnlearning's k stops there
        ([3], 1.0),
    ],
)
def test_extraction_strength_by_hand(ranks, strength):
    assert extraction_strength(np.array(ranks)) == strength


@given(RANKS)
def test_extraction_strength_is_the_first_suffix_that_is_said(ranks):
    n = len(ranks)
    k = next((k for k in range(n) if not ranks[k:].any()), n - 1)
    assert extraction_strength(ranks) == 1 - k / n


@given(RANKS)
def test_what_can_be_extracted_is_memorized(ranks):
    assert extraction_strength(ranks) <= exact_memorization(ranks) + 1 / len(ranks) + 1e-12


def test_probability_is_a_geometric_mean():
    # (0.5 * 0.2 * 0.1)^(1/3) = 0.01^(1/3)
    assert probability(np.log([0.5, 0.2, 0.1])) == pytest.approx(0.01 ** (1 / 3))


def test_truth_ratio_by_hand():
    # Wrong answers 0.2 and 0.05: their geometric mean is 0.1. Right answers 0.4 and 0.05.
    ratios = truth_ratio(np.log([0.4, 0.05]), np.log([[0.2, 0.05], [0.2, 0.05]]))
    np.testing.assert_allclose(ratios, [0.25, 2.0], rtol=1e-8)
    np.testing.assert_allclose(closer_to_one(ratios), [0.25, 0.5], rtol=1e-8)
    np.testing.assert_allclose(true_better(ratios), [0.75, 0.0], rtol=1e-8, atol=1e-8)
    # 0.4 / 0.5 and 0.05 / 0.15
    np.testing.assert_allclose(
        truth_probability(np.log([0.4, 0.05]), np.log([[0.2, 0.05], [0.2, 0.05]])), [0.8, 1 / 3], rtol=1e-8
    )


@given(st.floats(0.01, 1), st.lists(st.floats(0.01, 1), min_size=1, max_size=5))
def test_the_three_aggregations_say_the_same_thing(right, wrong):
    ratio = truth_ratio(np.log([right]), np.log([wrong]))
    share = truth_probability(np.log([right]), np.log([wrong]))
    np.testing.assert_allclose(share, 1 / (1 + ratio), rtol=1e-6)
    np.testing.assert_allclose(closer_to_one(ratio), closer_to_one(1 / ratio), rtol=1e-6)
    assert (true_better(ratio) > 0).item() == (ratio < 1).item()


def test_impossible_answers_are_finite():
    ratios = truth_ratio(np.array([-1e4]), np.array([[-1e4, -1e4]]))
    assert np.isfinite(closer_to_one(ratios)).all()


def test_answers_without_tokens_are_refused():
    with pytest.raises(ValueError, match="ranks .*none"):
        exact_memorization(np.array([], dtype=int))
    with pytest.raises(ValueError, match="log_probs .*none"):
        probability(np.array([]))


def test_shapes_that_do_not_go_together_are_refused():
    with pytest.raises(ValueError, match=r"correct.*wrong.*\(2,\).*\(3, 5\)"):
        truth_ratio(np.zeros(2), np.zeros((3, 5)))
    with pytest.raises(ValueError, match=r"correct.*wrong.*\(2,\).*\(2, 0\)"):
        truth_probability(np.zeros(2), np.zeros((2, 0)))
