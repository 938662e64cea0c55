"""Can one tell that it was there? Membership inference against examples never seen, and forget quality.

Every attack scores an answer so that members score *low*, as in OpenUnlearning; its AUC is how often an example to be
forgotten scores lower than one of a holdout. 1 betrays the forgotten examples, 0.5 tells nothing, and below 0.5 the
model avoids them so much that this betrays them too.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
from jaxtyping import Float

from engram_interp.unlearning.metrics.memorization import require_tokens

K = 0.4
"""Which share of an answer's tokens Min-K and Min-K++ look at: OpenUnlearning's for TOFU."""
MIN_VARIANCE = 1e-6


def loss_attack(log_probs: Float[np.ndarray, "token"]) -> float:
    """The mean negative log-probability of an answer's tokens, end-of-sequence included (Yeom et al. 2018).

    Raises:
        ValueError: an answer without tokens.

    Example:
        >>> loss_attack(np.array([-1.0, -3.0]))
        2.0
    """
    return float(-require_tokens(log_probs, "log_probs").mean())


def zlib_attack(log_probs: Float[np.ndarray, "token"], text: str) -> float:
    """The loss over the answer's length in bytes when zlib has compressed it (Carlini et al. 2021).

    Example:
        >>> import zlib
        >>> len(zlib.compress(b"in north Toledo")), zlib_attack(np.array([-46.0]), "in north Toledo")
        (23, 2.0)
    """
    return loss_attack(log_probs) / len(zlib.compress(text.encode("utf-8")))


def min_k_attack(log_probs: Float[np.ndarray, "token"], k: float | int = K) -> float:
    """The mean negative log-probability of the `k` least likely tokens, end-of-sequence left out (Shi et al. 2024).

    Args:
        log_probs: of the answer's tokens.
        k: the share of tokens to look at; one at least.

    Raises:
        ValueError: a share outside (0, 1], or an answer without tokens.

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
        log_probs: of the answer's tokens, end-of-sequence left out.
        mean: `sum_v p_v log p_v` at each of them.
        variance: `sum_v p_v (log p_v)^2 - mean^2` at each of them; 1e-6 where it is less.
        k: the share of tokens to look at; one at least.

    Raises:
        ValueError: a share outside (0, 1], or an answer without tokens.

    Example:
        >>> min_k_plus_plus_attack(np.array([-1.0, -5.0]), np.array([-1.0, -1.0]), np.array([1.0, 4.0]), k=0.5)
        2.0
    """
    return _least((log_probs - mean) / np.sqrt(np.maximum(variance, MIN_VARIANCE)), k)


def auc(forget: Float[np.ndarray, "n"], holdout: Float[np.ndarray, "m"]) -> float:
    """How often a forget example scores lower than one of the holdout, a tie counted half.

    Args:
        forget: an attack's scores of the examples to be forgotten.
        holdout: of examples that were never in the training data.

    Raises:
        ValueError: no examples on one side, or a score that is no number.

    Example:
        >>> auc(np.array([1.0, 2.0]), np.array([2.0, 3.0]))
        0.875
    """
    for side, scores in {"forget": forget, "holdout": holdout}.items():
        if not scores.size or not np.isfinite(scores).all():
            raise ValueError(f"an AUC needs finite scores on both sides; those of {side} are {scores}")
    # Of every holdout score, how many forget scores lie below it: not, and together with those that equal it.
    below = [np.searchsorted(np.sort(forget), holdout, side=side).mean() for side in ("left", "right")]
    return float(np.mean(below) / len(forget))


def privacy_score(auc: float) -> float:
    """`1 - 2 |AUC - 0.5|`: 1 where an attack tells nothing (paper, Eq. 30).

    Raises:
        ValueError: what is no AUC.

    Example:
        >>> privacy_score(0.5), privacy_score(1.0), privacy_score(0.25)
        (1.0, 0.0, 0.5)
    """
    if not 0 <= auc <= 1:
        raise ValueError(f"an AUC lies between 0 and 1, got {auc}")
    return 1 - 2 * abs(auc - 0.5)


def forget_quality(ratios: Float[np.ndarray, "question"], retain: Float[np.ndarray, "retain_question"]) -> float:
    """FQ: `log10` of the p-value of a two-sample Kolmogorov-Smirnov test of truth ratios (paper, Eq. 28).

    Args:
        ratios: truth ratios of the unlearned model on what is to be forgotten.
        retain: those of the model that never saw it.

    Raises:
        ValueError: no ratios on one side, or one that is no number.

    Example:
        >>> forget_quality(np.array([0.1, 0.2, 0.3]), np.array([0.1, 0.2, 0.3]))
        0.0
    """
    from scipy.stats import ks_2samp

    for side, found in {"the unlearned": ratios, "the retain": retain}.items():
        if not found.size or not np.isfinite(found).all():
            raise ValueError(f"forget quality compares finite truth ratios; those of {side} model are {found}")
    test: Any = ks_2samp(ratios, retain)
    # The exact p-value of samples that do not overlap may be below the least float.
    return float(np.log10(max(test.pvalue, np.finfo(float).tiny)))


def _least(scores: np.ndarray, k: float | int) -> float:
    if not 0 < k <= 1:
        raise ValueError(f"k is a share of an answer's tokens, 0 < k <= 1; got {k}")
    return float(-np.sort(require_tokens(scores, "log_probs"))[: max(1, int(len(scores) * k))].mean())
