import numpy as np
import pytest
from sklearn.metrics import confusion_matrix

from engram_interp.unlearning.metrics import class_accuracies, tug_of_war


def test_accuracies_by_class_are_the_diagonal_of_scikit_learns_confusion_matrix():
    rng = np.random.default_rng(0)
    labels, predicted = rng.integers(0, 4, 99), rng.integers(0, 5, 99)
    expected = confusion_matrix(labels, predicted, labels=range(5), normalize="true").diagonal()[:4]
    found = class_accuracies(predicted, labels, 5)
    np.testing.assert_allclose(found[:4], expected)
    assert np.isnan(found[4])


def test_labels_and_predictions_must_fit():
    with pytest.raises(ValueError, match="3 predictions.*2"):
        class_accuracies(np.zeros(3, int), np.zeros(2, int), 2)
    with pytest.raises(ValueError, match="0 to 1.*5"):
        class_accuracies(np.zeros(1, int), np.array([5]), 2)


def test_tug_of_war_by_hand():
    # (1 - 0.1) (1 - 0.2) (1 - 0) = 0.72
    one, other = {"f": 0.1, "r": 0.8, "t": 0.5}, {"f": 0.0, "r": 1.0, "t": 0.5}
    assert tug_of_war(one, other) == pytest.approx(0.72)
    assert tug_of_war(one, one) == 1.0
    with pytest.raises(ValueError, match="'t'"):
        tug_of_war(one, {"f": 0.0, "r": 1.0})
    with pytest.raises(ValueError, match="95"):
        tug_of_war({"f": 95.0}, {"f": 0.9})
