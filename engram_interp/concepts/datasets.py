"""Which examples of a labelled dataset are meant? Those of a class, of several, or those that a function names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from engram_interp.common.arguments import whole
from engram_interp.common.randomness import apart
from engram_interp.concepts.data import Data, Found

Wanted: TypeAlias = Any
"""A label, the name of a class, a list of these, or a function of a label that says whether it is wanted."""
LABELS = ("targets", "labels", "_labels", "y")
"""What datasets call the list of their labels."""
LABEL = ("label", "labels", "target")
"""What items that are dictionaries call their label."""


class DatasetPart(Data):
    """Some examples of a dataset, read when they are needed.

    Args:
        dataset: the whole dataset.
        indices: which of its items.
        labels: their labels.
        batch_size: examples in a batch.
    """

    def __init__(self, dataset: Any, indices: Sequence[int], labels: Sequence[Any], batch_size: int) -> None:
        super().__init__((), labelled=True, labels=labels)
        self._dataset, self._indices = dataset, list(indices)
        self._batch_size = whole(batch_size, "batch_size", at_least=1)
        self._codes = _codes(dataset)

    def _collated(self, items: Sequence[Any]) -> tuple[Any, Tensor]:
        pairs = [_pair(item) for item in items]
        labels = [_number(label) for _, label in pairs]
        inputs = torch.utils.data.default_collate([inputs for inputs, _ in pairs])
        # A word that is no class's name says nothing of a model's outputs.
        return inputs, torch.tensor([self._codes.get(one, -1) if isinstance(one, str) else int(one) for one in labels])

    def peek(self) -> Data:
        """The first example alone."""
        return DatasetPart(self._dataset, self._indices[:1], list(self.labels or ())[:1], 1)

    def read(self, numbers: Sequence[int] | None = None, batch_size: int | None = None) -> Iterator[Found]:
        """Batches of examples; see `Data.read`. Only those that are asked for are read."""
        wanted, start = list(range(len(self))) if numbers is None else list(numbers), 0
        some: Dataset[Any] = Subset(self._dataset, [self._indices[number] for number in wanted])
        for inputs, labels in apart(DataLoader(some, batch_size or self._batch_size, collate_fn=self._collated)):
            n = len(labels)
            yield Found(wanted[start : start + n], inputs, labels, torch.ones(n, 1, dtype=torch.bool))
            start += n


def _pair(item: Any) -> tuple[Any, Any]:
    """What the model takes of an item, and its label."""
    if isinstance(item, Mapping):
        name = next((name for name in LABEL if name in item), None)
        if name is not None:
            return {key: value for key, value in item.items() if key != name}, item[name]
    elif isinstance(item, (tuple, list)) and len(item) == 2:
        return item[0], item[1]
    raise TypeError(f"an item of a labelled dataset must be (input, label); got a {type(item).__name__}")


def labels_of(dataset: Any) -> list[Any]:
    """The label of every item: the dataset's own list, or read from all items.

    Raises:
        TypeError: if the dataset has no length, or its items have no label.
    """
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        raise TypeError(f"a labelled dataset must have a length and items; got a {type(dataset).__name__}")
    if isinstance(dataset, Subset):
        every = labels_of(dataset.dataset)
        return [every[index] for index in dataset.indices]
    if isinstance(dataset, TensorDataset):
        return _plain(dataset.tensors[-1])
    for name in LABELS:
        if (found := getattr(dataset, name, None)) is not None and len(found) == len(dataset):
            return _plain(found)
    return _plain([_pair(dataset[index])[1] for index in range(len(dataset))])


def _plain(labels: Any) -> list[Any]:
    """Labels as whole numbers or words.

    Raises:
        TypeError: if one is anything else.
    """
    found = labels.tolist() if hasattr(labels, "tolist") else [_number(one) for one in labels]
    for one in found:
        if not isinstance(one, (str, int)) and not (isinstance(one, float) and one.is_integer()):
            raise TypeError(f"a label must be a whole number or a word, one for each example; got {one!r}")
    return [int(one) if isinstance(one, float) else one for one in found]


def _number(label: Any) -> Any:
    """A label that is a tensor or an array of one number, as this number."""
    size = label.numel() if isinstance(label, Tensor) else getattr(label, "size", None)
    return label.item() if size == 1 else label


def _codes(dataset: Any) -> dict[str, int]:
    """The number of every class that has a name."""
    return {name: label for label, name in _names(dataset).items()}


def by_class(dataset: Any, batch_size: int) -> dict[str, DatasetPart]:
    """The examples of every class, by its name or label, in the order of labels.

    Raises:
        TypeError: if the dataset has no length or no labels.
        ValueError: if it has no example.
    """
    labels = labels_of(dataset)
    if not labels:
        raise ValueError("a labelled dataset must have one or more examples; got an empty one")
    names = _names(dataset)
    return {
        names.get(label, str(label)): _part(dataset, labels, lambda one, label=label: one == label, batch_size)
        for label in sorted(set(labels), key=lambda one: (isinstance(one, str), one))
    }


def sides_of(
    dataset: Any, target: Wanted, reference: Wanted | None, batch_size: int
) -> tuple[DatasetPart, DatasetPart]:
    """Target and reference of a dataset; see `Concept.from_dataset`.

    Raises:
        ValueError: if a label or class is not in the dataset, or a side has no example.
        TypeError: if the dataset has no length or no labels.
    """
    labels = labels_of(dataset)
    is_target = _rule(dataset, labels, target, "target")
    is_reference = (
        _rule(dataset, labels, reference, "reference") if reference is not None else lambda one: not is_target(one)
    )
    if both := [one for one in dict.fromkeys(labels) if is_target(one) and is_reference(one)]:
        raise ValueError(f"target and reference must not share a class; both have {both[0]!r}")
    found = [_part(dataset, labels, rule, batch_size) for rule in (is_target, is_reference)]
    for side, part in zip(("target", "reference"), found, strict=True):
        if not len(part):
            raise ValueError(f"{side} has no example: the labels are {_listed(labels)}")
    return found[0], found[1]


def _part(dataset: Any, labels: Sequence[Any], is_wanted: Callable[[Any], bool], batch_size: int) -> DatasetPart:
    indices = [index for index, label in enumerate(labels) if is_wanted(label)]
    return DatasetPart(dataset, indices, [labels[index] for index in indices], batch_size)


def _rule(dataset: Any, labels: Sequence[Any], wanted: Wanted, side: str) -> Callable[[Any], bool]:
    """Whether a label is wanted."""
    if callable(wanted):
        return lambda label: bool(wanted(label))
    wanted = wanted.tolist() if hasattr(wanted, "tolist") else wanted
    given = list(wanted) if isinstance(wanted, Iterable) and not isinstance(wanted, str) else [wanted]
    known, by_name = set(labels), _codes(dataset)
    chosen = {_number(one) if _number(one) in known else by_name.get(one, one) for one in given}
    if missing := [one for one in chosen if one not in known]:
        raise ValueError(f"{side} has no class {missing[0]!r}: the labels are {_listed(labels)}")
    return lambda label: label in chosen


def _names(dataset: Any) -> dict[Any, str]:
    """The names of classes by label, where the dataset has them."""
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    return dict(enumerate(map(str, getattr(dataset, "classes", None) or ())))


def _listed(labels: Sequence[Any], at_most: int = 12) -> str:
    found = sorted(set(labels), key=str)
    return ", ".join(map(repr, found[:at_most])) + (f", ... ({len(found)})" if len(found) > at_most else "")
