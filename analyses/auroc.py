"""How well does a ranking tell some things from others? By the chance that it puts one of them above another."""

from typing import Any

import numpy as np
from scipy.stats import mannwhitneyu


def auroc(scores: np.ndarray, true: np.ndarray) -> float:
    """The chance that something true is ranked above something else; a tie counts half.

    Example:
        >>> auroc(np.array([3.0, 1.0, 2.0, 0.0]), np.array([True, False, False, True]))
        0.5
    """
    u: Any = mannwhitneyu(scores[true], scores[~true]).statistic
    return float(u / (true.sum() * (~true).sum()))
