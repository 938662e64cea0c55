"""Who owns the global random generators? The user: code that draws from them or seeds them restores them."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import torch

T = TypeVar("T")


@contextmanager
def unchanged_randomness() -> Iterator[None]:
    """Restores the global generators of Python, NumPy and torch when the block ends.

    Example:
        >>> before = torch.get_rng_state()
        >>> with unchanged_randomness():
        ...     _ = torch.manual_seed(0)
        >>> torch.equal(torch.get_rng_state(), before)
        True
    """
    python, numpy = random.getstate(), np.random.get_state()
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def apart(source: Iterable[T]) -> Iterator[T]:
    """The items of an iterable that may draw random numbers, as a shuffling `DataLoader` does.

    It starts from the global state of torch's generator on the CPU, goes on from its own, and leaves the global one as
    it was.

    Example:
        >>> before = torch.get_rng_state()
        >>> first, second = apart(torch.rand(1) for _ in range(2))
        >>> bool(first == second), torch.equal(before, torch.get_rng_state())
        (False, True)
    """
    own = torch.get_rng_state()
    iterator = None
    while True:
        before = torch.get_rng_state()
        torch.set_rng_state(own)
        try:
            iterator = iter(source) if iterator is None else iterator
            item = next(iterator)
        except StopIteration:
            return
        finally:
            own = torch.get_rng_state()
            torch.set_rng_state(before)
        yield item
