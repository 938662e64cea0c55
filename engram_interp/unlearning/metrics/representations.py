"""What do a model's features still tell of what it has forgotten, beside its answers?

Dimensional Alignment and NMI compare the features of what is forgotten and of what is kept, in one model (Seo et al.,
arXiv 2407.17710; paper, App. B.4.1). CKA compares two models' features of the same examples (Kornblith et al. 2019).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Integer
from scipy.cluster.vq import kmeans2
from scipy.stats import entropy


def dimensional_alignment(
    forget: Float[np.ndarray, "n d"], retain: Float[np.ndarray, "m d2"], energy: float | int = 0.95
) -> float:
    """The mean of `|P_r z|^2 / |z|^2` over features `z` of what is forgotten.

    `P_r` projects onto the leading principal directions of the retained features, as many as hold `energy` of their
    squared length. 1 means that forgotten examples lie where kept ones lie. In a model that never saw a class, they do.

    Args:
        forget: features of what is to be forgotten.
        retain: features of what is to be kept.
        energy: the share of the retained features' squared length that the directions hold, in (0, 1].

    Raises:
        ValueError: if features have different widths, are empty or not finite, or `energy` is out of range.

    Example:
        >>> retain = np.array([[1.0, 0.0], [2.0, 0.0]])
        >>> dimensional_alignment(np.array([[3.0, 4.0]]), retain)  # 9 / 25
        0.36
    """
    _require_features(forget, retain)
    if not 0 < energy <= 1:
        raise ValueError(f"energy must be in (0, 1]; got {energy}")
    _, singular, directions = np.linalg.svd(retain.astype(float), full_matrices=False)
    held = np.cumsum(singular**2) / np.sum(singular**2)
    k = int(np.searchsorted(held, energy - 1e-12)) + 1
    z = forget.astype(float)
    lengths = np.square(z).sum(1)
    inside = np.square(z @ directions[:k].T).sum(1)
    return float(np.mean(np.divide(inside, lengths, out=np.zeros_like(lengths), where=lengths > 0)))


def separability(forget: Float[np.ndarray, "n d"], retain: Float[np.ndarray, "m d2"], seed: int = 0) -> float:
    """NMI between two clusters of all features, by k-means, and what is forgotten: 0 if they cannot be told apart.

    Args:
        forget: features of what is to be forgotten.
        retain: features of what is to be kept. Take as many, or the clusters are of these alone.
        seed: of the clusters' first centres.

    Raises:
        ValueError: if features have different widths, are empty or not finite.

    Example:
        >>> separability(np.array([[0.0], [0.1]]), np.array([[9.0], [9.1]]))
        1.0
    """
    _require_features(forget, retain)
    both = np.concatenate([forget, retain]).astype(float)
    runs = [kmeans2(both, 2, minit="++", rng=np.random.default_rng(seed + i)) for i in range(10)]
    lost = [np.square(both - centres[labels]).sum() for centres, labels in runs]
    labels = runs[int(np.argmin(lost))][1]
    return normalized_mutual_information(labels, np.repeat([0, 1], [len(forget), len(retain)]))


def normalized_mutual_information(one: Integer[np.ndarray, "example"], other: Integer[np.ndarray, "example"]) -> float:
    """`2 I(A; B) / (H(A) + H(B))` of two labellings; 0 if neither says anything.

    Example:
        >>> normalized_mutual_information(np.array([0, 0, 1, 1]), np.array([1, 1, 0, 0]))
        1.0
    """
    _, first = np.unique(one, return_inverse=True)
    _, second = np.unique(other, return_inverse=True)
    counts = np.zeros((first.max() + 1, second.max() + 1))
    np.add.at(counts, (first, second), 1)
    p = counts / counts.sum()
    a, b = entropy(p.sum(1)), entropy(p.sum(0))
    shared = a + b - entropy(p.flatten())
    return float(np.clip(2 * shared / (a + b), 0, 1)) if a + b > 0 else 0.0


def linear_cka(X: Float[np.ndarray, "n d1"], Y: Float[np.ndarray, "m d2"]) -> float:
    """`|X^T Y|_F^2 / (|X^T X|_F |Y^T Y|_F)` of centred features of the same examples: 1 for a rotation or a scale.

    With fewer examples than dimensions it is near 1 for any two models: use `debiased_cka`.

    Raises:
        ValueError: if there are not as many examples in both, or features are not finite, or all alike.

    Example:
        >>> X = np.array([[1.0, 0.0], [0.0, 2.0], [3.0, 1.0]])
        >>> round(linear_cka(X, 2 * X[:, ::-1]), 6)
        1.0
    """
    X, Y = _centred(X, Y)
    whole = np.linalg.norm(X.T @ X) * np.linalg.norm(Y.T @ Y)
    if not whole:
        raise ValueError("features must differ between examples; all are alike")
    return float(np.linalg.norm(X.T @ Y) ** 2 / whole)


def debiased_cka(X: Float[np.ndarray, "n d1"], Y: Float[np.ndarray, "m d2"]) -> float:
    """CKA from unbiased estimates of HSIC (Song et al. 2012; Nguyen et al. 2021), which independent features make 0.

    `HSIC(K, L) = (tr K'L' + s(K') s(L') / ((n-1)(n-2)) - 2 s(K'L') / (n-2)) / (n (n-3))`, with `K'` the products of
    features without the diagonal, and `s` the sum of all entries. It may be a little below 0.

    Raises:
        ValueError: as `linear_cka`; also with fewer than four examples.

    Example:
        >>> X = np.array([[1.0, 0.0], [0.0, 2.0], [3.0, 1.0], [2.0, 2.0], [0.0, 1.0]])
        >>> round(debiased_cka(X, 3 * X), 6)
        1.0
    """
    if len(X) < 4:
        raise ValueError(f"an unbiased estimate takes 4 examples or more; got {len(X)}")
    X, Y = _centred(X, Y)
    K, L = (_without_diagonal(Z @ Z.T) for Z in (X, Y))
    whole = _hsic(K, K) * _hsic(L, L)
    if whole <= 0:
        raise ValueError("features must differ between examples; all are alike")
    return float(_hsic(K, L) / np.sqrt(whole))


def _hsic(K: Float[np.ndarray, "n n"], L: Float[np.ndarray, "n n"]) -> float:
    n = len(K)
    rows_K, rows_L = K.sum(0), L.sum(0)
    products = (K * L).sum() + rows_K.sum() * rows_L.sum() / ((n - 1) * (n - 2)) - 2 * (rows_K @ rows_L) / (n - 2)
    return float(products / (n * (n - 3)))


def _without_diagonal(K: Float[np.ndarray, "n n"]) -> Float[np.ndarray, "n n"]:
    K = K.copy()
    np.fill_diagonal(K, 0)
    return K


def _centred(X: np.ndarray, Y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if X.ndim != 2 or Y.ndim != 2 or len(X) != len(Y) or len(X) < 2:
        raise ValueError(f"features must be [example d] of the same examples; got {X.shape} and {Y.shape}")
    _require_finite(X, Y)
    return X - X.mean(0), Y - Y.mean(0)


def _require_features(forget: np.ndarray, retain: np.ndarray) -> None:
    if forget.ndim != 2 or retain.ndim != 2 or forget.shape[1] != retain.shape[1] or not len(forget) * len(retain):
        raise ValueError(f"features must be [example d] with one d, one or more; got {forget.shape} and {retain.shape}")
    _require_finite(forget, retain)


def _require_finite(*features: np.ndarray) -> None:
    if not all(np.isfinite(one).all() for one in features):
        raise ValueError("features must be finite; some are nan or inf")
