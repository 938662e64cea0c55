"""How much of an answer does a model still know? Shares of its tokens, and true answers against false ones.

An answer is given by the log-probability of each of its tokens (teacher-forced, in nats), and by the rank of each: the
number of tokens that the model finds more likely there, 0 for its first choice. The definitions are OpenUnlearning's
(Dorna et al. 2025, `src/evals/metrics/memorization.py`). There, exact memorization and extraction strength leave out
the end-of-sequence token, and probabilities keep it.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Integer

EPSILON = 1e-10


def exact_memorization(ranks: Integer[np.ndarray, "token"]) -> float:
    """EM: the share of an answer's tokens that are the model's first choice (paper, App. E.2.2).

    Args:
        ranks: the ranks of the answer's tokens, without the end-of-sequence token.

    Raises:
        ValueError: if the answer has no tokens.

    Example:
        >>> exact_memorization(np.array([0, 3, 0, 0]))
        0.75
    """
    return float((require_tokens(ranks, "ranks") == 0).mean())


def extraction_strength(ranks: Integer[np.ndarray, "token"]) -> float:
    """ES: `1 - k/n`, with the smallest `k` such that all tokens after the first `k` are the model's first choice.

    (Carlini et al. 2021.) If even the last token is not its first choice, `k` is `n - 1`, as in OpenUnlearning. So an
    answer of `n` tokens gets `1/n` at least.

    Args:
        ranks: the ranks of the answer's tokens, without the end-of-sequence token.

    Raises:
        ValueError: if the answer has no tokens.

    Example:
        >>> extraction_strength(np.array([0, 3, 0, 0])), extraction_strength(np.array([0, 0, 0, 1]))
        (0.5, 0.25)
    """
    wrong = np.flatnonzero(require_tokens(ranks, "ranks"))
    k = 0 if not len(wrong) else min(int(wrong[-1]) + 1, len(ranks) - 1)
    return 1 - k / len(ranks)


def probability(log_probs: Float[np.ndarray, "token"]) -> float:
    """`exp(mean log p)`: an answer's probability, as a geometric mean over its tokens.

    Args:
        log_probs: the log-probabilities of the answer's tokens, with the end-of-sequence token.

    Raises:
        ValueError: if the answer has no tokens.

    Example:
        >>> round(probability(np.log([0.5, 0.125])), 10)
        0.25
    """
    return float(np.exp(require_tokens(log_probs, "log_probs").mean()))


def truth_ratio(
    correct: Float[np.ndarray, "question"], wrong: Float[np.ndarray, "wrong_question answer"]
) -> np.ndarray:
    """TR: how likely wrong answers are, divided by how likely the right one is (Maini et al. 2024), `[question]`.

    Args:
        correct: the mean log-probability per token of the right answer, in the words of the wrong ones.
        wrong: the same for every wrong answer. The ratio uses their mean, a geometric mean of probabilities.

    Raises:
        ValueError: if the shapes do not match, or there are no wrong answers.

    Example:
        >>> truth_ratio(np.log([0.5]), np.log([[0.1, 0.4]])).round(6).tolist()
        [0.4]
    """
    require_options(correct, wrong)
    return np.exp(wrong.mean(axis=1)) / (np.exp(correct) + EPSILON)


def closer_to_one(ratios: Float[np.ndarray, "question"]) -> np.ndarray:
    """`min(TR, 1/TR)`, for what is to be forgotten: 1 if right and wrong answers are equally likely.

    Example:
        >>> closer_to_one(np.array([0.5, 4.0])).round(6).tolist()
        [0.5, 0.25]
    """
    return np.minimum(ratios, 1 / (ratios + EPSILON))


def true_better(ratios: Float[np.ndarray, "question"]) -> np.ndarray:
    """`max(0, 1 - TR)`, for what is to be kept: 1 if only the right answer is likely.

    Example:
        >>> true_better(np.array([0.25, 4.0])).tolist()
        [0.75, 0.0]
    """
    return np.maximum(0.0, 1 - ratios)


def truth_probability(
    correct: Float[np.ndarray, "question"], wrong: Float[np.ndarray, "wrong_question answer"]
) -> np.ndarray:
    """`right / (right + wrong)`: OpenUnlearning's truth ratio of the knowledge that is left; see `truth_ratio`.

    Example:
        >>> truth_probability(np.log([0.6]), np.log([[0.2, 0.2]])).round(6).tolist()
        [0.75]
    """
    require_options(correct, wrong)
    right = np.exp(correct)
    return right / (right + np.exp(wrong.mean(axis=1)) + EPSILON)


def require_options(correct: np.ndarray, wrong: np.ndarray) -> None:
    """Checks that right and wrong answers belong together.

    Raises:
        ValueError: if the shapes are not `[question]` and `[question answer]`, or there are no wrong answers.
    """
    if correct.ndim != 1 or wrong.ndim != 2 or len(correct) != len(wrong) or not wrong.size:
        raise ValueError(
            f"correct must have shape [question] and wrong [question answer], one or more; got {correct.shape} and "
            f"{wrong.shape}"
        )


def require_tokens(values: np.ndarray, name: str) -> np.ndarray:
    """The values of an answer's tokens themselves.

    Raises:
        ValueError: if there are none.
    """
    if not values.size:
        raise ValueError(f"{name} must hold one number per token of an answer, one or more; got none")
    return values
