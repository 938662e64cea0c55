import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from sklearn.decomposition import TruncatedSVD
from sklearn.metrics import normalized_mutual_info_score

from engram_interp.unlearning.metrics import (
    debiased_cka,
    dimensional_alignment,
    linear_cka,
    normalized_mutual_information,
    separability,
)

RNG = np.random.default_rng(0)


def test_alignment_is_the_share_within_the_retained_directions():
    retain, forget = RNG.normal(size=(60, 9)) * np.arange(1, 10), RNG.normal(size=(20, 9))
    svd = np.linalg.svd(retain, full_matrices=False)
    held = np.cumsum(svd[1] ** 2) / np.sum(svd[1] ** 2)
    k = int(np.sum(held < 0.8)) + 1
    model = TruncatedSVD(k, algorithm="arpack").fit(retain)
    inside = model.transform(forget)
    expected = np.mean(np.sum(inside**2, axis=1) / np.sum(forget**2, axis=1))
    assert dimensional_alignment(forget, retain, energy=0.8) == pytest.approx(expected)
    assert dimensional_alignment(forget, retain, energy=1.0) == pytest.approx(1.0)
    assert dimensional_alignment(np.array([[0.0, 1.0]]), np.array([[1.0, 0.0], [2.0, 0.0]])) == 0.0


def test_separability_is_scikit_learns():
    forget, retain = RNG.normal(size=(40, 5)) + 1.2, RNG.normal(size=(40, 5))
    labels = KMeans(2, n_init=20, random_state=0).fit_predict(np.concatenate([forget, retain]))
    expected = normalized_mutual_info_score(np.repeat([0, 1], 40), labels)
    assert separability(forget, retain) == pytest.approx(expected, abs=0.05)
    assert separability(forget + 50, retain) == 1.0


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), min_size=1, max_size=40))
def test_mutual_information_is_scikit_learns(pairs):
    one, other = (np.array(labels) for labels in zip(*pairs, strict=True))
    if len(set(one)) == len(set(other)) == 1:
        return  # scikit-learn calls two constants alike; here they say nothing
    expected = normalized_mutual_info_score(one, other)
    assert normalized_mutual_information(one, other) == pytest.approx(expected, abs=1e-9)


def test_cka_by_brute_force_over_examples():
    X, Y = RNG.normal(size=(12, 4)), RNG.normal(size=(12, 6))
    n = len(X)
    H = np.eye(n) - 1 / n
    K, L = H @ X @ X.T @ H, H @ Y @ Y.T @ H
    assert linear_cka(X, Y) == pytest.approx(np.sum(K * L) / np.sqrt(np.sum(K * K) * np.sum(L * L)))
    turn = np.linalg.qr(RNG.normal(size=(4, 4)))[0]
    assert linear_cka(X, 3 * X @ turn + 5) == pytest.approx(1)


def by_four_examples(X, Y):
    """Unbiased HSIC as an average over all four different examples (Song et al. 2012, Eq. 5)."""
    from itertools import permutations

    K, L = X @ X.T, Y @ Y.T
    terms = [
        K[i, j] * L[i, j] + K[i, j] * L[q, r] - 2 * K[i, j] * L[i, q] for i, j, q, r in permutations(range(len(X)), 4)
    ]
    return np.mean(terms)


def test_debiased_cka_by_brute_force_over_all_four_examples():
    X, Y = RNG.normal(size=(7, 3)), RNG.normal(size=(7, 2))
    expected = by_four_examples(X, Y) / np.sqrt(by_four_examples(X, X) * by_four_examples(Y, Y))
    assert debiased_cka(X, Y) == pytest.approx(expected)
    assert debiased_cka(X, X + 7) == pytest.approx(1)


def test_independent_features_have_no_debiased_cka_where_the_biased_one_is_large():
    values = [(linear_cka(X, Y), debiased_cka(X, Y)) for X, Y in (RNG.normal(size=(2, 20, 80)) for _ in range(30))]
    biased, debiased = np.mean(values, axis=0)
    assert biased > 0.6
    assert abs(debiased) < 0.05


@pytest.mark.parametrize("measure", [linear_cka, debiased_cka, dimensional_alignment, separability])
def test_features_that_do_not_fit_are_refused(measure):
    with pytest.raises(ValueError, match=r"\(6, 2\)"):
        measure(np.zeros((6, 2)), np.zeros((5, 3)))
    with pytest.raises(ValueError, match="finite"):
        measure(np.full((6, 2), np.nan), np.ones((6, 2)))


def test_more_that_is_refused():
    with pytest.raises(ValueError, match="3"):
        debiased_cka(np.zeros((3, 2)), np.zeros((3, 2)))
    with pytest.raises(ValueError, match="alike"):
        linear_cka(np.ones((5, 2)), np.ones((5, 2)))
    with pytest.raises(ValueError, match="alike"):
        debiased_cka(np.ones((5, 2)), np.ones((5, 2)))
    with pytest.raises(ValueError, match="2"):
        dimensional_alignment(np.ones((5, 2)), np.ones((5, 2)), energy=2)
