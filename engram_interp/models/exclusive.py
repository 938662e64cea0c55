"""One thread at a time: a model is read and edited in place, so that no two calls may do either at once.

A call that reads a model waits until another thread's call has ended. While a thread has the model edited, in a `with`
block of its own length, other threads are refused: they would read, or restore, weights in between.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar, cast
from weakref import WeakKeyDictionary

import torch
from torch import nn

from engram_interp.common.arguments import read_once

P = ParamSpec("P")
R = TypeVar("R")


class _Guard:
    """Who has a model: the thread that holds the lock reads it, and `editor` has it edited, in `depth` blocks."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.editor: int | None = None
        self.depth = 0

    def refuse_others(self) -> None:
        """Raise where another thread has the model edited.

        Raises:
            RuntimeError: it has.
        """
        if self.editor not in (None, threading.get_ident()):
            raise RuntimeError(
                "another thread has this model edited, and reading or editing it now would meet weights in between: "
                "wait until its `with` block has ended, or give each thread a copy of the model"
            )


_guards: WeakKeyDictionary[nn.Module, _Guard] = WeakKeyDictionary()
_making = threading.Lock()


def _guard_of(model: nn.Module) -> _Guard:
    if not isinstance(model, nn.Module):
        raise TypeError(f"expected a model, got {model!r} ({type(model).__name__})")
    with _making:
        return _guards.setdefault(model, _Guard())


@contextmanager
def held(model: nn.Module) -> Iterator[None]:
    """The model for this thread alone, for the length of the block; other threads wait.

    Raises:
        RuntimeError: another thread has the model edited.
    """
    guard = _guard_of(model)
    guard.refuse_others()
    with guard.lock:
        guard.refuse_others()
        yield


@contextmanager
def edited(model: nn.Module) -> Iterator[None]:
    """The model for this thread to edit; other threads are refused until the block ends, in whichever thread it does.

    Raises:
        RuntimeError: another thread has the model edited.
    """
    guard = _guard_of(model)
    with held(model):
        guard.editor, guard.depth = threading.get_ident(), guard.depth + 1
    try:
        yield
    finally:
        guard.depth -= 1
        guard.editor = guard.editor if guard.depth else None


def exclusive(function: Callable[P, R]) -> Callable[P, R]:
    """The function, with the models among its arguments held, without autocast, and iterators read once.

    Autocast would take statistics in half precision, whatever dtype the model has.
    """

    @wraps(function)
    def alone(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = tuple(map(read_once, args)), {name: read_once(value) for name, value in kwargs.items()}
        models = {id(one): one for one in (*args, *kwargs.values()) if isinstance(one, nn.Module)}
        with ExitStack() as stack:
            stack.enter_context(ordinary_numbers())
            for _, model in sorted(models.items()):  # always in one order, so that no two threads wait for each other
                stack.enter_context(held(model))
            return function(*args, **kwargs)

    return cast(Callable[P, R], alone)


@contextmanager
def ordinary_numbers() -> Iterator[None]:
    """Products in the dtype of their operands, and tensors that can be edited, whatever the user has switched on."""
    with ExitStack() as stack:
        for device in ("cpu", "cuda", "mps"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.no_grad())
        yield
