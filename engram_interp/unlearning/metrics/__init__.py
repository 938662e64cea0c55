"""Unlearning scores on plain arrays: log-probabilities, ranks and texts of any model's answers.

`memorization`, `utility` and `privacy` have one number per question. `aggregate` turns these into Memorization,
Utility, Privacy and Overall. `engram_interp.evaluate` runs a model and computes them all.
"""

from engram_interp.unlearning.metrics.aggregate import NoScaleError, harmonic_mean, relative, rescaled
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
from engram_interp.unlearning.metrics.utility import fluency, gibberish_detector, normalized_probability, rouge_l_recall

__all__ = [
    "NoScaleError",
    "auc",
    "closer_to_one",
    "exact_memorization",
    "extraction_strength",
    "fluency",
    "forget_quality",
    "gibberish_detector",
    "harmonic_mean",
    "loss_attack",
    "min_k_attack",
    "min_k_plus_plus_attack",
    "normalized_probability",
    "privacy_score",
    "probability",
    "relative",
    "rescaled",
    "rouge_l_recall",
    "true_better",
    "truth_probability",
    "truth_ratio",
    "zlib_attack",
]
