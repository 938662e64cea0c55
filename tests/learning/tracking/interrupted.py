"""A track that is stopped: checkpoints of which one is never reached."""

from collections.abc import Iterator
from typing import Any


class Stopped(BaseException):
    """Ends a track as an interrupt of the keyboard does."""


def stopping(steps: list[Any], after: int) -> Iterator[Any]:
    """The first checkpoints, then an interrupt."""
    yield from steps[:after]
    raise Stopped
