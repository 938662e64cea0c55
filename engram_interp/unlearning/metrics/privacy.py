"""Can one tell that it was there? Membership inference against examples never seen, and forget quality.

Every attack gives members a *low* score, as in OpenUnlearning. Its AUC is how often an example to be forgotten scores
lower than one of a holdout: 1 reveals the forgotten examples, 0.5 reveals nothing. Below 0.5 the model avoids them so
much that this reveals them too.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
from jaxtyping import Float

from engram_interp.unlearning.metrics.memorization import require_tokens

K = 0.4
"""The share of an answer's tokens that Min-K and Min-K++ look at. It is OpenUnlearning's for TOFU."""
MIN_VARIANCE = 1e-6


def loss_attack(log_probs: Float[np.ndarray, "token"]) -> float:
    """The mean negative log-probability of an answer's tokens, with the end-of-sequence token (Yeom et al. 2018).

    Raises:
        ValueError: if the answer has no tokens.

    Example:
        >>> loss_attack(np.array([-1.0, -3.0]))
        2.0
    """
    return float(-require_tokens(log_probs, "log_probs").mean())


def zlib_attack(log_probs: Float[np.ndarray, "token"], text: str) -> float:
    """The loss divided by the answer's length in bytes after compression with zlib (Carlini et al. 2021).

    Example:
        >>> import zlib
        >>> len(zlib.compress(b"in north Toledo")), zlib_attack(np.array([-46.0]), "in north Toledo")
        (23, 2.0)
    """
    return loss_attack(log_probs) / len(zlib.compress(text.encode("utf-8")))


def min_k_attack(log_probs: Float[np.ndarray, "token"], k: float | int = K) -> float:
    """The mean negative log-probability of the least likely share `k` of an answer's tokens (Shi et al. 2024).

    Args:
        log_probs: the log-probabilities of the answer's tokens, without the end-of-sequence token.
        k: the share of tokens to look at. It is at least one token.

    Raises:
        ValueError: if `k` is outside (0, 1], or the answer has no tokens.

    Example:
        >>> min_k_attack(np.array([-1.0, -5.0, -0.5, -3.0, -0.1]), k=0.4)
        4.0
    """
    return _least(log_probs, k)


def min_k_plus_plus_attack(
    log_probs: Float[np.ndarray, "token"],
    mean: Float[np.ndarray, "token"],
    variance: Float[np.ndarray, "token"],
    k: float | int = K,
) -> float:
    """Min-K of log-probabilities in standard deviations from what the model expects there (Zhang et al. 2025).

    Args:
        log_probs: the log-probabilities of the answer's tokens, without the end-of-sequence token.
        mean: `sum_v p_v log p_v` at each of them.
        variance: `sum_v p_v (log p_v)^2 - mean^2` at each of them. A smaller one than 1e-6 counts as 1e-6.
        k: the share of tokens to look at. It is at least one token.

    Raises:
        ValueError: if `k` is outside (0, 1], or the answer has no tokens.

    Example:
        >>> min_k_plus_plus_attack(np.array([-1.0, -5.0]), np.array([-1.0, -1.0]), np.array([1.0, 4.0]), k=0.5)
        2.0
    """
    return _least((log_probs - mean) / np.sqrt(np.maximum(variance, MIN_VARIANCE)), k)


def auc(forget: Float[np.ndarray, "n"], holdout: Float[np.ndarray, "m"]) -> float:
    """How often a forget example scores lower than one of the holdout. A tie counts half.

    Args:
        forget: an attack's scores of the examples to be forgotten.
        holdout: its scores of examples that were never in the training data.

    Raises:
        ValueError: if one side has no examples, or a score is not finite.

    Example:
        >>> auc(np.array([1.0, 2.0]), np.array([2.0, 3.0]))
        0.875
    """
    for side, scores in {"forget": forget, "holdout": holdout}.items():
        if not scores.size or not np.isfinite(scores).all():
            raise ValueError(f"{side} must hold finite scores, one or more; got {scores}")
    # How many forget scores lie below each holdout score, first without and then with those that equal it.
    below = [np.searchsorted(np.sort(forget), holdout, side=side).mean() for side in ("left", "right")]
    return float(np.mean(below) / len(forget))


def privacy_score(auc: float) -> float:
    """`1 - 2 |AUC - 0.5|`: 1 if an attack reveals nothing (paper, Eq. 30).

    Raises:
        ValueError: if `auc` is outside [0, 1].

    Example:
        >>> privacy_score(0.5), privacy_score(1.0), privacy_score(0.25)
        (1.0, 0.0, 0.5)
    """
    if not 0 <= auc <= 1:
        raise ValueError(f"auc must be in [0, 1]; got {auc}")
    return 1 - 2 * abs(auc - 0.5)


def forget_quality(ratios: Float[np.ndarray, "question"], retain: Float[np.ndarray, "retain_question"]) -> float:
    """FQ: `log10` of the p-value of a two-sample Kolmogorov-Smirnov test of truth ratios (paper, Eq. 28).

    Args:
        ratios: the truth ratios of the unlearned model on what is to be forgotten.
        retain: those of the model that never saw it.

    Raises:
        ValueError: if one side has no ratios, or one of them is not finite.

    Example:
        >>> forget_quality(np.array([0.1, 0.2, 0.3]), np.array([0.1, 0.2, 0.3]))
        0.0
    """
    from scipy.stats import ks_2samp

    for side, found in {"ratios": ratios, "retain": retain}.items():
        if not found.size or not np.isfinite(found).all():
            raise ValueError(f"{side} must hold finite truth ratios, one or more; got {found}")
    test: Any = ks_2samp(ratios, retain)
    # If samples do not overlap, the exact p-value may be smaller than any float.
    return float(np.log10(max(test.pvalue, np.finfo(float).tiny)))


def _least(scores: np.ndarray, k: float | int) -> float:
    if not 0 < k <= 1:
        raise ValueError(f"k must be in (0, 1], a share of an answer's tokens; got {k}")
    return float(-np.sort(require_tokens(scores, "log_probs"))[: max(1, int(len(scores) * k))].mean())
