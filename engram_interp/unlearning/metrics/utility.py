"""What does a model still do well? ROUGE-L recall, right answers among options, fluency (paper, App. E.2.3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from engram_interp.unlearning.metrics.memorization import EPSILON, require_options

Classifier = Callable[[Sequence[str]], Sequence[float]]
"""From texts to the probability that each is fluent."""
GIBBERISH_DETECTOR = "madhurjindal/autonlp-Gibberish-Detector-492513457"
"""OpenUnlearning's classifier on the Hugging Face hub. Its class 0 is clean text."""


def rouge_l_recall(generated: Sequence[str], truth: Sequence[str]) -> np.ndarray:
    """The share of the true answer's words, stemmed, that the generated one has in the same order, `[question]`.

    Args:
        generated: what the model says, one text per question.
        truth: what it should say.

    Raises:
        ValueError: if the lists are empty or have different lengths.

    Example:
        >>> rouge_l_recall(["born in Lima"], ["in north Lima"]).round(6).tolist()
        [0.666667]
    """
    if not len(truth) or len(generated) != len(truth):
        raise ValueError(
            f"generated and truth must have the same length, 1 or more; got {len(generated)} and {len(truth)}"
        )
    # Its nltk takes seconds to import, which those who only draw a map should not wait for.
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    pairs = zip(truth, generated, strict=True)
    return np.array([scorer.score(true, said)["rougeL"].recall for true, said in pairs])


def normalized_probability(
    correct: Float[np.ndarray, "question"], wrong: Float[np.ndarray, "wrong_question answer"]
) -> np.ndarray:
    """`p(right) / (p(right) + sum of p(wrong))`: the right answer among options, `[question]`.

    Args:
        correct: the mean log-probability per token of the right answer.
        wrong: the same for every wrong answer.

    Raises:
        ValueError: if the shapes do not match, or there are no wrong answers.

    Example:
        >>> normalized_probability(np.log([0.6]), np.log([[0.1, 0.3]])).round(6).tolist()
        [0.6]
    """
    require_options(correct, wrong)
    right = np.exp(correct)
    return right / (right + np.exp(wrong).sum(axis=1) + EPSILON)


def fluency(texts: Sequence[str], classifier: Classifier) -> np.ndarray:
    """FF: how fluent a classifier finds every text, `[question]`, each in [0, 1].

    Args:
        texts: what the model says about what it should have forgotten.
        classifier: from texts to probabilities. `gibberish_detector()` loads OpenUnlearning's.

    Raises:
        ValueError: if the classifier does not return one probability per text.

    Example:
        >>> fluency(["in north Lima", ""], lambda texts: [float(bool(text)) for text in texts]).tolist()
        [1.0, 0.0]
    """
    found = np.asarray(classifier(texts), dtype=float)
    if found.shape != (len(texts),) or not ((found >= 0) & (found <= 1)).all():
        raise ValueError(
            f"classifier must return one probability per text; for {len(texts)} texts it returned {found.shape} values "
            f"from {found.min() if found.size else None} to {found.max() if found.size else None}"
        )
    return found


def gibberish_detector(
    name_or_path: str = GIBBERISH_DETECTOR, *, class_id: int = 0, max_length: int = 32, batch_size: int = 32
) -> Classifier:
    """A sequence classifier from the Hugging Face hub, or from a folder, for `fluency`.

    Args:
        name_or_path: the name or folder of the classifier.
        class_id: the class of fluent text.
        max_length: how many tokens of a text are read.
        batch_size: how many texts are read at a time.

    Raises:
        OSError: if the hub does not have the name, or the machine is offline and its cache does not.
    """
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(name_or_path)
    model = AutoModelForSequenceClassification.from_pretrained(name_or_path).eval()

    def classify(texts: Sequence[str]) -> Sequence[float]:
        found: list[float] = []
        for start in range(0, len(texts), batch_size):
            some = list(texts[start : start + batch_size])
            inputs = tokenizer(some, return_tensors="pt", padding=True, truncation=True, max_length=max_length)
            with torch.no_grad():
                found += model(**inputs).logits.softmax(-1)[:, class_id].tolist()
        return found

    return classify
