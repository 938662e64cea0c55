"""Unlearning scores on plain arrays: log-probabilities, ranks and texts of any model's answers.

`memorization`, `utility` and `privacy` have one number per question. `aggregate` turns these into Memorization,
Utility, Privacy and Overall. `engram_interp.evaluate` runs a model and computes them all. `classes` and
`representations` are for classifiers and their features.
"""

from engram_interp.unlearning.metrics.aggregate import NoScaleError, harmonic_mean, relative, rescaled
from engram_interp.unlearning.metrics.classes import class_accuracies, tug_of_war
from engram_interp.unlearning.metrics.memorization import (
    closer_to_one,
    exact_memorization,
    extraction_strength,
    probability,
    true_better,
    truth_probability,
    truth_ratio,
)
from engram_interp.unlearning.metrics.privacy import (
    auc,
    forget_quality,
    loss_attack,
    min_k_attack,
    min_k_plus_plus_attack,
    privacy_score,
    zlib_attack,
)
from engram_interp.unlearning.metrics.representations import (
    debiased_cka,
    dimensional_alignment,
    linear_cka,
    normalized_mutual_information,
    separability,
)
from engram_interp.unlearning.metrics.utility import fluency, gibberish_detector, normalized_probability, rouge_l_recall

__all__ = [
    "NoScaleError",
    "auc",
    "class_accuracies",
    "closer_to_one",
    "debiased_cka",
    "dimensional_alignment",
    "exact_memorization",
    "extraction_strength",
    "fluency",
    "forget_quality",
    "gibberish_detector",
    "harmonic_mean",
    "linear_cka",
    "loss_attack",
    "min_k_attack",
    "min_k_plus_plus_attack",
    "normalized_mutual_information",
    "normalized_probability",
    "privacy_score",
    "probability",
    "relative",
    "rescaled",
    "rouge_l_recall",
    "separability",
    "true_better",
    "truth_probability",
    "truth_ratio",
    "tug_of_war",
    "zlib_attack",
]
