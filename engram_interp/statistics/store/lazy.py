"""The moments of a store as if they were in memory: `groups[group][input]`, read when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from engram_interp.statistics.moments import AnyMoment
from engram_interp.statistics.store.folder import Store


class StoredGroup(Mapping[str, AnyMoment]):
    """The moments of one group, by input. One input at a time is in memory.

    Args:
        store: where they lie.
        group: whose they are.
    """

    def __init__(self, store: Store, group: str) -> None:
        self.store, self.group = store, group

    def __getitem__(self, name: str) -> AnyMoment:
        return self.store.moments(name)[self.group]

    def __iter__(self) -> Iterator[str]:
        return iter(self.store.index.inputs)

    def __len__(self) -> int:
        return len(self.store.index.inputs)

    def __contains__(self, name: object) -> bool:
        return name in self.store.index.done
