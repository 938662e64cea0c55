"""How well does a ranking tell some things from others? By the chance that it puts one of them above another."""

from __future__ import annotations

import numpy as np


def auroc(scores: np.ndarray, true: np.ndarray) -> float:
    """The chance that something true is ranked above something else; a tie counts half.

    Example:
        >>> auroc(np.array([3.0, 1.0, 2.0, 0.0]), np.array([True, False, False, True]))
        0.5
    """
    from scipy.stats import rankdata

    ranks, n_true = rankdata(scores), int(true.sum())
    return float((ranks[true].sum() - n_true * (n_true + 1) / 2) / (n_true * (len(true) - n_true)))
