"""Which process does what? Examples are dealt out, every input has an owner, and what each found, all get to know.

Processes are those of torch's default process group, as `torchrun` and `init_process_group` make one. Without a group
there is one process, which does everything.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """One process among all that work together.

    Attributes:
        rank: its number.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def here(cls) -> Ranks:
        """The process that asks, in the default process group if there is one."""
        if not dist.is_available() or not dist.is_initialized():
            return cls()
        return cls(dist.get_rank(), dist.get_world_size())

    @property
    def is_first(self) -> bool:
        """Whether this process writes what there is once."""
        return self.rank == 0

    def gathered(self, value: T) -> list[T]:
        """The value of every process, by rank.

        Raises:
            RuntimeError: if another process has ended.
        """
        if self.size == 1:
            return [value]
        found: list[T | None] = [None] * self.size
        with speaking_of_others():
            dist.all_gather_object(found, value)
        return found  # pyright: ignore[reportReturnType]

    def merged(self, values: Mapping[str, T]) -> dict[str, T]:
        """What each process has by name, together. Names that several have come from the first of them."""
        found: dict[str, T] = {}
        for of_rank in self.gathered(dict(values)):
            found = {**of_rank, **found}
        return found

    def from_first(self, value: T) -> T:
        """The value that the first process has."""
        return self.from_rank(value, 0)

    def from_rank(self, value: T, rank: int) -> T:
        """The value that one of the processes has. What the others give is not looked at.

        Raises:
            RuntimeError: if another process has ended.
        """
        if self.size == 1:
            return value
        found = [value if self.rank == rank else None]
        with speaking_of_others():
            dist.broadcast_object_list(found, src=rank)
        return found[0]  # pyright: ignore[reportReturnType]

    @contextmanager
    def first_alone(self) -> Iterator[bool]:
        """A block that only the first process should do, which says whether this one is it. An error there is raised
        in all.
        """
        error: Exception | None = None
        try:
            yield self.is_first
        except Exception as found:
            error = found
        error = self.from_first(error)
        if error is not None:
            raise error


@contextmanager
def started_group() -> Iterator[None]:
    """The process group of all processes that torchrun has started: by NCCL where there are GPUs, by gloo elsewhere."""
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def owners(sizes: Mapping[str, int], n_ranks: int) -> dict[str, int]:
    """The rank that owns each input: the largest first, each to the rank that has least so far.

    Example:
        >>> owners({"a": 1, "b": 9, "c": 5, "d": 4}, n_ranks=2)
        {'a': 0, 'b': 0, 'c': 1, 'd': 1}
    """
    taken = [0] * n_ranks
    found = {}
    for name in sorted(sizes, key=lambda name: -sizes[name]):
        rank = taken.index(min(taken))
        found[name] = rank
        taken[rank] += sizes[name]
    return {name: found[name] for name in sizes}


@contextmanager
def speaking_of_others() -> Iterator[None]:
    """Say what an error between processes means: another one has ended.

    Raises:
        RuntimeError: in the place of the library's error.
    """
    try:
        yield
    except RuntimeError as error:
        raise RuntimeError(
            f"rank {dist.get_rank()} of {dist.get_world_size()} cannot reach the others: one of them ended, or the "
            f"network failed ({str(error).splitlines()[0]}). With a store, the same call goes on from the last "
            f"checkpoint, with any number of processes"
        ) from error


def gathered_numbers(numbers: Tensor) -> list[Tensor]:
    """The same few numbers of every process, by rank."""
    found = [torch.empty_like(numbers) for _ in range(dist.get_world_size())]
    with speaking_of_others():
        dist.all_gather(found, numbers)
    return found
