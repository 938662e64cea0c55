"""What if there are more examples than memory holds, or than anybody has counted? They are read as they are needed.

A stream is any iterable without a length: a generator, a `datasets.IterableDataset`, a file, rows of a memory-mapped
array. One with few examples becomes a list, with everything that a list allows.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

KEPT = 4096
"""A stream with at most so many examples is kept as a list."""


class Stream(Sequence[Any]):
    """More examples than are kept, each checked when it is read. It has no length.

    Args:
        source: the examples. An iterator can be read once, any other iterable again and again.
        group: what errors call them, `target[0]` and so on.
        convert: makes an example of an item and its place, or raises.
        head: the first items, which an iterator has given already.
    """

    def __init__(
        self, source: Iterable[Any], group: str, convert: Callable[[Any, str], Any], head: Sequence[Any] = ()
    ) -> None:
        self._source, self._group, self._convert = source, group, convert
        self._head = list(head) if self.is_once else []
        self._is_used = False

    @property
    def is_once(self) -> bool:
        """Whether it can be read once only."""
        return isinstance(self._source, Iterator)

    def __iter__(self) -> Iterator[Any]:
        if self.is_once and self._is_used:
            raise ValueError(
                f"the {self._group} came from an iterator, which can be read once only: give a list, a file or another "
                f"iterable that can be read again"
            )
        self._is_used = True
        head, self._head = self._head, []
        for i, item in enumerate(itertools.chain(head, self._source)):
            yield self._convert(item, f"{self._group}[{i}]")

    def __len__(self) -> int:
        raise TypeError(f"the {self._group} is a stream, and nobody has counted its examples: this needs a list")

    def __bool__(self) -> bool:
        return True

    def __getitem__(self, place: Any) -> Any:
        raise TypeError(
            f"the {self._group} is a stream, of which no single example can be asked for: this needs a list"
        )

    def __repr__(self) -> str:
        return f"a stream of {self._group} examples"


def listed_or_stream(source: Iterable[Any], group: str, convert: Callable[[Any, str], Any]) -> list[Any] | Stream:
    """A list of the examples if they are few, and else a stream of them.

    Args:
        source: an iterable without a length.
        group: what errors call them.
        convert: makes an example of an item and its place, or raises.
    """
    first = iter(source)
    head = list(itertools.islice(first, KEPT + 1))
    if len(head) <= KEPT:
        return [convert(item, f"{group}[{i}]") for i, item in enumerate(head)]
    # An iterable that gives the same iterator each time can be read once, as that can.
    return Stream(first if iter(source) is first else source, group, convert, head)
