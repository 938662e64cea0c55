"""What does a group of examples consist of, if it is not text? Batches of what a model takes, read one at a time.

A batch is a tensor, a tuple or list (the model's arguments) or a dictionary (its keyword arguments). Every tensor in it
has an example in each row. Batches are read when they are needed and never held. A loader or a list can be read again;
an iterator can be read once.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from engram_interp.common.progress import bar
from engram_interp.common.randomness import apart

Mask: TypeAlias = Callable[[Any], Tensor]
"""From a batch, as it was given, to what counts in it: `[batch]` or `[batch pos]`, true there."""

BATCH_SIZE = 128
"""Examples in a batch where nobody says how many (the paper's)."""


@dataclass(frozen=True)
class DataBatch:
    """Examples side by side, as a model takes them.

    Attributes:
        inputs: what goes through the model: a tensor, a tuple of arguments or a dictionary of keyword arguments.
        labels: `[batch]`, the right class of each example; None if there are none.
        counts: `[batch pos]`, true where a position counts. `pos` is 1 where examples count as a whole.
        groups: `[batch]`, the group of each example, by its place in the list of groups.
        numbers: `[batch]`, the place of each example in its group.
        examples: what errors call these examples (`target[3]`, ...).
    """

    inputs: Any
    labels: Int[Tensor, "batch"] | None
    counts: Bool[Tensor, "batch pos"]
    groups: Int[Tensor, "batch"]
    numbers: Int[Tensor, "batch"]
    examples: tuple[str, ...]

    @property
    def args(self) -> tuple[Any, ...]:
        """The positional arguments of the model's call."""
        if isinstance(self.inputs, Mapping):
            return ()
        return tuple(self.inputs) if isinstance(self.inputs, (tuple, list)) else (self.inputs,)

    @property
    def kwargs(self) -> dict[str, Any]:
        """The keyword arguments of the model's call."""
        return dict(self.inputs) if isinstance(self.inputs, Mapping) else {}

    def counted(self, group: int) -> Int[Tensor, "n"]:
        """The places of a group's counted positions after the examples are laid end to end."""
        return (self.counts & (self.groups == group)[:, None]).flatten().nonzero().flatten()


class Found(NamedTuple):
    """A batch of a group.

    Attributes:
        numbers: the places of its examples in the group.
        inputs: what the model takes.
        labels: the right class of each example; None if there are none.
        counts: `[batch pos]`, true where a position counts.
    """

    numbers: list[int]
    inputs: Any
    labels: Tensor | None
    counts: Bool[Tensor, "batch pos"]


class Data(Sequence[Any]):
    """A group's examples, as an iterable of batches gives them.

    Args:
        source: batches: a `DataLoader`, a list, any other iterable.
        labelled: whether each batch is a pair of what the model takes and the labels of its examples.
        mask: which examples or positions count. None counts all.
        labels: the label of every example, where it is known without reading it.
        most: how many positions that count are read, in whole batches. None reads all.

    Raises:
        TypeError: if `source` is not an iterable of batches.
    """

    def __init__(
        self,
        source: Iterable[Any],
        labelled: bool = False,
        mask: Mask | None = None,
        labels: Sequence[Any] | None = None,
        most: int | None = None,
    ) -> None:
        if isinstance(source, (Tensor, str, bytes, Mapping)) or not isinstance(source, Iterable):
            raise TypeError(f"batches must be an iterable of what the model takes; got a {type(source).__name__}")
        self._source, self._labelled, self._mask, self.labels = source, labelled, mask, labels
        self._length: int | None = None if labels is None else len(labels)
        self._is_used = [False]  # in a list, since what is limited shares it
        self._first: list[Any] = []
        self._most = most

    def __len__(self) -> int:
        """How many examples there are. If nobody knows yet, all are read once to count them."""
        if self._length is None:
            self._length = sum(size_of(self._inputs(batch)) for batch in self.raw())
        return self._length

    def __getitem__(self, number: Any) -> Any:
        if isinstance(number, slice):
            return [DataExample(self, one) for one in range(len(self))[number]]
        if not 0 <= number < len(self):
            raise IndexError(f"there is no example {number} among {len(self)}")
        return DataExample(self, number)

    @property
    def is_labelled(self) -> bool:
        """Whether its batches have labels."""
        return self._labelled

    @property
    def is_once(self) -> bool:
        """Whether it can be read once only."""
        return isinstance(self._source, Iterator)

    def raw(self) -> Iterator[Any]:
        """The batches as they are given.

        Raises:
            ValueError: if the source can be read once only, and was.
        """
        self._require_unread()
        self._is_used[0] = True
        first, self._first = self._first, []
        return itertools.chain(first, apart(self._source))

    def _require_unread(self) -> None:
        """Check that there is something to read.

        Raises:
            ValueError: if the source can be read once only, and was.
        """
        if self.is_once and self._is_used[0]:
            raise ValueError(
                "these batches came from an iterator, which can be read once only: give a list or a DataLoader"
            )

    @property
    def labelled(self) -> bool:
        """Whether batches have labels."""
        return self._labelled

    def peek(self) -> Data:
        """The first batch alone, as a group. An iterator still gives it afterwards."""
        self._require_unread()
        if self.is_once and not self._first:
            self._first = list(itertools.islice(apart(self._source), 1))
        batches = self._first if self.is_once else list(itertools.islice(apart(self._source), 1))
        return Data(list(batches), self._labelled, self._mask)

    def read(self, numbers: Sequence[int] | None = None, batch_size: int | None = None) -> Iterator[Found]:
        """Batches of examples.

        Args:
            numbers: which examples, in ascending order. None reads all.
            batch_size: at most so many in a batch. None takes batches as they are given.
        """
        wanted, start, n_counted = None if numbers is None else torch.tensor(numbers), 0, 0
        for batch in self.raw():
            inputs, labels = self._inputs(batch), self._labels(batch)
            n = size_of(inputs)
            counts = self._counts(batch, n)
            n_counted += int(counts.sum())
            if self._most is not None and n_counted > self._most:
                if not start:
                    raise ValueError(
                        f"max_tokens must be {n_counted} or more, as the first batch has; got {self._most}"
                    )
                return
            mine = torch.arange(n) if wanted is None else wanted[(wanted >= start) & (wanted < start + n)] - start
            for some in mine.split(batch_size or n):
                if len(some) == n:
                    yield Found(list(range(start, start + n)), inputs, labels, counts)
                elif len(some):
                    mine_inputs, mine_labels = (taken(one, some, n) for one in (inputs, labels))
                    yield Found((some + start).tolist(), mine_inputs, mine_labels, counts[some])
            start += n
            if wanted is not None and start > int(wanted[-1]):
                return

    def limited(self, most: int) -> Data:
        """The same, up to so many positions that count. An iterator is shared with it."""
        found = Data(self._source, self._labelled, self._mask, most=most)
        found._first, found._is_used = self._first, self._is_used
        return found

    def _inputs(self, batch: Any) -> Any:
        if not self._labelled:
            return batch
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            raise ValueError(f"a labelled batch must be a pair of inputs and labels; got a {type(batch).__name__}")
        return batch[0]

    def _labels(self, batch: Any) -> Tensor | None:
        return torch.as_tensor(batch[1]) if self._labelled else None

    def _counts(self, batch: Any, n: int) -> Bool[Tensor, "batch pos"]:
        if self._mask is None:
            return torch.ones(n, 1, dtype=torch.bool)
        found = self._mask(batch)
        if not isinstance(found, Tensor) or found.dtype != torch.bool or found.dim() not in (1, 2) or len(found) != n:
            got = f"{found.dtype} {list(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
            raise ValueError(f"a mask must be booleans [batch] or [batch pos] with {n} examples; got {got}")
        return found.cpu() if found.dim() == 2 else found.cpu()[:, None]


@dataclass(frozen=True)
class DataExample:
    """One example of a group: where to find it.

    Attributes:
        data: the group.
        number: its place there.
    """

    data: Data
    number: int

    @property
    def label(self) -> Any:
        """Its label, where it is known without reading it."""
        return None if self.data.labels is None else self.data.labels[self.number]


def size_of(inputs: Any) -> int:
    """How many examples a batch holds: the rows of its first tensor.

    Raises:
        ValueError: if it has no tensor with rows, or no row.
    """
    for one in tensors_in(inputs):
        if one.dim():
            if not len(one):
                raise ValueError("a batch must hold one or more examples; got an empty one")
            return len(one)
    raise ValueError(
        f"a batch must hold a tensor with an example in each row, as torch.as_tensor makes one; got a "
        f"{type(inputs).__name__}"
    )


def tensors_in(inputs: Any) -> Iterator[Tensor]:
    """Every tensor of what a model takes, in order."""
    if isinstance(inputs, Mapping):
        inputs = list(inputs.values())
    if isinstance(inputs, (tuple, list)):
        for one in inputs:
            yield from tensors_in(one)
    elif isinstance(inputs, Tensor):
        yield inputs


def structure_of(inputs: Any) -> str:
    """What a model takes beside its tensors: names, order, and values that are no tensors."""
    if isinstance(inputs, Mapping):
        return "{" + ", ".join(f"{name!r}: {structure_of(one)}" for name, one in inputs.items()) + "}"
    if isinstance(inputs, (tuple, list)):
        return "(" + ", ".join(map(structure_of, inputs)) + ")"
    return "tensor" if isinstance(inputs, Tensor) else repr(inputs)


def taken(inputs: Any, rows: Int[Tensor, "n"], size: int) -> Any:
    """The same structure with some examples only. What has no row for each example stays as it is."""
    return with_each_tensor(lambda x: x[rows.to(x.device)] if x.dim() and len(x) == size else x, inputs)


def with_each_tensor(function: Callable[[Tensor], Tensor], inputs: Any) -> Any:
    """The same structure with what a function makes of each tensor."""
    if isinstance(inputs, Tensor):
        return function(inputs)
    if isinstance(inputs, Mapping):
        return {name: with_each_tensor(function, one) for name, one in inputs.items()}
    if isinstance(inputs, (tuple, list)):
        made = [with_each_tensor(function, one) for one in inputs]
        return type(inputs)(*made) if hasattr(inputs, "_fields") else type(inputs)(made)
    return inputs


def data_batches(
    groups: Mapping[str, Sequence[Any]], batch_size: int | None, progress: bool | None, describe: str
) -> Iterator[DataBatch]:
    """Yields every example of every group once, as its source gives them.

    Args:
        groups: by name: a whole group, or some examples of one or of several.
        batch_size: at most so many examples in a batch. None takes batches as they are given.
        progress: True shows a bar, False hides it. None shows it in a terminal and in a notebook.
        describe: what the bar says.
    """
    with bar(None, progress, describe, "batch") as shown:
        for place, (name, examples) in enumerate(groups.items()):
            for data, own in _by_source(examples):
                numbers = None if own is None else sorted(own)
                for found, inputs, labels, counts in data.read(numbers, batch_size):
                    mine = found if own is None else [own[number] for number in found]
                    yield DataBatch(
                        inputs, labels, counts, torch.full((len(found),), place), torch.tensor(mine),
                        tuple(f"{name}[{number}]" for number in mine),
                    )  # fmt: skip
                    shown.update()


def are_batches(groups: Mapping[str, Any]) -> bool:
    """Whether a group of examples is given as batches."""
    return any(isinstance(examples, Data) for examples in groups.values())


def first_of(examples: Sequence[Any]) -> Sequence[Any]:
    """The first batch of a group, or the first example of a list."""
    return examples.peek() if isinstance(examples, Data) else examples[:1]


def _by_source(examples: Sequence[Any]) -> list[tuple[Data, dict[int, int] | None]]:
    """The groups that examples come from, and the place of each example in the list, by its number in its group."""
    if isinstance(examples, Data):
        return [(examples, None)]
    found: dict[int, tuple[Data, dict[int, int]]] = {}
    for place, example in enumerate(examples):
        found.setdefault(id(example.data), (example.data, {}))[1][example.number] = place
    return list(found.values())
