"""Checkpoints that watch who reads them: of which one is never reached, or of which one lives at a time."""

import gc
import weakref
from collections.abc import Iterator
from typing import Any

from torch import nn

from tests.conftest import build


class Stopped(BaseException):
    """Ends a track as an interrupt of the keyboard does."""


def stopping(steps: list[Any], after: int) -> Iterator[Any]:
    """The first checkpoints, then an interrupt."""
    yield from steps[:after]
    raise Stopped


def one_at_a_time(alive: list[weakref.ref]) -> Iterator[nn.Module]:
    """Three models. Each is made only if nobody holds one of those before, which `alive` lists."""
    for seed in range(3):
        gc.collect()
        assert not any(one() is not None for one in alive)
        model = build("llama", seed=seed)
        alive.append(weakref.ref(model))
        yield model
        del model
