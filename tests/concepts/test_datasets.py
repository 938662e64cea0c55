import pytest
import torch
from torch import nn
from torch.utils.data import Dataset, Subset, TensorDataset

from engram_interp import Concept
from engram_interp.concepts.data import data_batches
from engram_interp.concepts.datasets import by_class, labels_of

X, Y = torch.arange(8.0)[:, None], torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])


class Named(Dataset):
    """Items one by one, with names of classes, as torchvision's datasets have them."""

    classes = ("cat", "dog", "owl")

    def __init__(self, targets=True):
        if targets:
            self.targets = Y
        self.read = []

    def __len__(self):
        return len(X)

    def __getitem__(self, index):
        self.read.append(index)
        return X[index], int(Y[index])


def target_of(dataset, wanted, **options) -> list[float]:
    concept = Concept.from_dataset(dataset, wanted, **options)
    return [float(x) for batch in data_batches({"a": concept.target}, None, False, "") for x in batch.args[0]]


def test_a_class_several_or_a_rule_against_all_others():
    dataset = TensorDataset(X, Y)
    assert target_of(dataset, 1) == [1, 4, 7]
    assert target_of(dataset, [0, 2]) == [0, 2, 3, 5, 6]
    assert target_of(dataset, lambda label: label > 1) == [2, 5]
    concept = Concept.from_dataset(dataset, 1)
    assert concept.reference.labels == [0, 2, 0, 2, 0]
    assert concept.name == "1"
    assert [one.label for one in concept.target] == [1, 1, 1]
    some = Concept.from_dataset(dataset, 1, reference=2)
    assert some.reference.labels == [2, 2]


def test_classes_have_names():
    assert target_of(Named(), "dog") == [1, 4, 7]
    assert list(by_class(Named(), 4)) == ["cat", "dog", "owl"]
    assert target_of(Subset(Named(), [1, 2, 3]), "dog") == [1]


def test_only_what_is_asked_for_is_read_and_labels_that_are_known_are_not_read():
    dataset = Named()
    concept = Concept.from_dataset(dataset, "owl", batch_size=1)
    assert dataset.read == []
    list(data_batches({"a": [concept.target[1]]}, None, False, ""))
    assert dataset.read == [5]
    without = Named(targets=False)
    assert labels_of(without) == Y.tolist()
    assert without.read == list(range(8))


def test_items_may_be_dictionaries():
    class Dicts(Named):
        def __getitem__(self, index):
            return {"pixels": X[index], "label": int(Y[index])}

    concept = Concept.from_dataset(Dicts(targets=False), 2)
    (batch,) = data_batches({"a": concept.target}, None, False, "")
    assert batch.kwargs["pixels"].flatten().tolist() == [2, 5]
    assert batch.labels.tolist() == [2, 2]


@pytest.mark.parametrize(
    ("wanted", "reference", "match"),
    [
        (5, None, "target has no class 5.*0, 1, 2"),
        ("fox", None, "fox"),
        (lambda _: False, None, "target has no example"),
        (lambda _: True, None, "reference has no example"),
        (1, [1, 2], "both have 1"),
        (1, 9, "reference has no class 9"),
    ],
)
def test_a_class_that_is_not_there_is_refused(wanted, reference, match):
    with pytest.raises(ValueError, match=match):
        Concept.from_dataset(Named(), wanted, reference)


def test_what_is_no_labelled_dataset_is_refused():
    with pytest.raises(TypeError, match="int"):
        Concept.from_dataset(5, 1)
    with pytest.raises(TypeError, match="Tensor"):
        Concept.from_dataset(list(X), 1)
    with pytest.raises(ValueError, match="empty"):
        by_class(TensorDataset(X[:0], Y[:0]), 4)


def test_labels_are_whole_numbers_or_words():
    class Words(Named):
        def __getitem__(self, index):
            return X[index], self.classes[int(Y[index])]

    assert target_of(Words(targets=False), "dog") == [1, 4, 7]
    (batch,) = data_batches({"a": Concept.from_dataset(Words(targets=False), "owl").target}, None, False, "")
    assert batch.labels.tolist() == [2, 2]
    assert target_of(TensorDataset(X, Y), torch.tensor([0, 2])) == [0, 2, 3, 5, 6]
    assert labels_of(TensorDataset(X, Y.float())) == Y.tolist()
    for wrong in (nn.functional.one_hot(Y), Y + 0.5, Y[:, None]):
        with pytest.raises(TypeError, match="label"):
            labels_of(TensorDataset(X, wrong))
