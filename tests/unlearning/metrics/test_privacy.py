import zlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engram_interp.unlearning.metrics import (
    auc,
    forget_quality,
    loss_attack,
    min_k_attack,
    min_k_plus_plus_attack,
    privacy_score,
    zlib_attack,
)

SCORES = st.lists(st.integers(0, 5), min_size=1, max_size=10).map(lambda values: np.array(values, dtype=float))


def test_attacks_by_hand():
    log_probs = np.array([-0.5, -2.0, -1.0, -4.0, -0.5])
    assert loss_attack(log_probs) == 1.6  # 8 / 5
    text = "in north Toledo"
    assert zlib_attack(log_probs, text) == 1.6 / len(zlib.compress(text.encode()))
    assert min_k_attack(log_probs, k=0.4) == 3.0  # the two least: -4 and -2
    assert min_k_attack(log_probs, k=0.1) == 4.0  # one at least


def test_min_k_plus_plus_by_hand():
    # Standardized: (-1 + 2) / 1 = 1, (-3 + 1) / 2 = -1, (-2 + 2) / 3 = 0; of the least two the mean is -0.5.
    found = min_k_plus_plus_attack(np.array([-1.0, -3, -2]), np.array([-2.0, -1, -2]), np.array([1.0, 4, 9]), k=0.7)
    assert found == 0.5


def test_min_k_plus_plus_of_whole_distributions():
    logits = torch.randn(6, 11, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    truth = torch.arange(6)
    distribution = torch.distributions.Categorical(logits=logits)
    log_probs = logits.log_softmax(-1)
    mean = -distribution.entropy()
    centred = log_probs - mean[:, None]
    variance = (distribution.probs * centred**2).sum(-1)
    said = log_probs[torch.arange(6), truth]
    # k = 0.5 of six tokens is three.
    expected = -((said - mean) / variance.sqrt()).topk(3, largest=False).values.mean()
    found = min_k_plus_plus_attack(said.numpy(), mean.numpy(), variance.numpy(), k=0.5)
    assert found == pytest.approx(expected.item())


def test_a_certain_model_divides_by_no_zero():
    assert np.isfinite(min_k_plus_plus_attack(np.array([-1.0]), np.array([0.0]), np.array([0.0])))


@pytest.mark.parametrize("k", [0, 1.5, -0.1])
def test_k_is_a_share(k):
    with pytest.raises(ValueError, match=f"^k .*{k}$"):
        min_k_attack(np.array([-1.0]), k)


def test_no_tokens_are_refused():
    with pytest.raises(ValueError, match="log_probs .*none"):
        min_k_attack(np.array([]))


def test_what_is_no_auc_and_no_ratio_is_refused():
    with pytest.raises(ValueError, match=r"auc .*1\.7"):
        privacy_score(1.7)
    with pytest.raises(ValueError, match="log_probs .*none"):
        loss_attack(np.array([]))
    with pytest.raises(ValueError, match=r"retain .*nan"):
        forget_quality(np.array([0.5]), np.array([np.nan]))


def test_auc_by_hand():
    # Of the pairs (1, 2), (1, 0), (3, 2), (3, 0), forget scores lower in one.
    assert auc(np.array([1.0, 3.0]), np.array([2.0, 0.0])) == 0.25
    # Members score low: an attack that tells all of them has 1, as in OpenUnlearning.
    assert auc(np.array([0.1, 0.2]), np.array([5.0, 6.0])) == 1.0


@given(SCORES, SCORES)
def test_auc_counts_pairs(forget, holdout):
    less = (forget[:, None] < holdout).mean() + 0.5 * (forget[:, None] == holdout).mean()
    assert auc(forget, holdout) == pytest.approx(less)
    assert privacy_score(auc(forget, holdout)) == pytest.approx(privacy_score(auc(holdout, forget)))


@pytest.mark.parametrize("broken", [[], [np.nan], [np.inf]])
def test_an_auc_needs_numbers_on_both_sides(broken):
    with pytest.raises(ValueError, match=r"holdout .*\[(nan|inf)?\]"):
        auc(np.array([1.0]), np.array(broken, dtype=float))


def test_privacy_score_of_the_papers_fine_tuned_model():
    # Table 6 has 0.0071 for the loss attack, and so an AUC of 0.99645.
    assert privacy_score(0.99645) == pytest.approx(0.0071)


def test_forget_quality_by_hand():
    # Ten against ten that do not overlap: 2 of the C(20, 10) = 184 756 orders are as far apart, p = 1.0825e-5.
    low, high = np.arange(10.0), np.arange(10.0) + 100
    assert forget_quality(low, high) == pytest.approx(np.log10(2 / 184756))
    assert forget_quality(low, low) == 0.0


def test_forget_quality_is_never_minus_infinity():
    assert np.isfinite(forget_quality(np.arange(2000.0), np.arange(2000.0) + 1e6))
