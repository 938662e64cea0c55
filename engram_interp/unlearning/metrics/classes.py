"""What is forgotten class by class, and is the model then like one that never saw it? Accuracies of classifiers.

`ToW = prod over sets of (1 - |acc_u - acc_r|)` (Tug-of-War; Zhao et al. 2024; paper, App. B.4.1), over what is to be
forgotten, what is to be kept, and a test set.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Integer


def class_accuracies(
    predicted: Integer[np.ndarray, "example"], labels: Integer[np.ndarray, "label"], n_classes: int
) -> Float[np.ndarray, "cls"]:
    """The share of each class's examples that are right; NaN for a class without any.

    The rows of a class-wise matrix are these of a model without each class.

    Args:
        predicted: the class that the model says.
        labels: the right ones.
        n_classes: how many classes there are.

    Raises:
        ValueError: if there are not as many predictions as labels, or a label is no class.

    Example:
        >>> class_accuracies(np.array([0, 1, 1, 0]), np.array([0, 0, 1, 1]), 2).tolist()
        [0.5, 0.5]
    """
    if predicted.shape != labels.shape:
        raise ValueError(f"there must be a label for each of {len(predicted)} predictions; got {len(labels)}")
    if len(labels) and not (labels.min() >= 0 and labels.max() < n_classes):
        raise ValueError(f"labels must be 0 to {n_classes - 1}; got {labels.min()} to {labels.max()}")
    right = np.bincount(labels, weights=predicted == labels, minlength=n_classes)
    n = np.bincount(labels, minlength=n_classes)
    return np.divide(right, n, out=np.full(n_classes, np.nan), where=n > 0)


def tug_of_war(unlearned: Mapping[str, float], retrained: Mapping[str, float]) -> float:
    """`prod (1 - |acc_u - acc_r|)`: 1 if the unlearned model has the retrained one's accuracy on every set.

    Args:
        unlearned: accuracies in [0, 1] by set: of what is forgotten, what is kept, and test data.
        retrained: those of a model that was trained without what is forgotten.

    Raises:
        ValueError: if the sets differ, or an accuracy is not in [0, 1].

    Example:
        >>> tug_of_war({"forget": 0.5, "retain": 1.0}, {"forget": 0.0, "retain": 0.9})
        0.45
    """
    if set(unlearned) != set(retrained) or not unlearned:
        raise ValueError(f"both models need accuracies on the same sets; got {list(unlearned)} and {list(retrained)}")
    values = [*unlearned.values(), *retrained.values()]
    if not all(0 <= value <= 1 for value in values):
        raise ValueError(f"accuracies must be in [0, 1]; got {min(values)} to {max(values)}")
    return float(np.prod([1 - abs(unlearned[name] - retrained[name]) for name in unlearned]))
