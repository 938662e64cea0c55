"""Who may use a model now? One thread at a time, since models are read and edited in place.

A call that reads a model waits until another thread's call has ended. While a thread has the model edited, which may
take as long as a user's `with` block, other threads get an error: they would read, or restore, half-edited weights.
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
    """Who has a model: the thread that holds the lock reads it, and `editor` is the one that has it edited, if any."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.editor: int | None = None
        self.depth = 0

    def refuse_others(self) -> None:
        """Check that no other thread has the model edited.

        Raises:
            RuntimeError: if one has.
        """
        if self.editor not in (None, threading.get_ident()):
            raise RuntimeError(
                "another thread has this model edited, so its weights cannot be read or edited now: wait until that "
                "thread's `with` block has ended, or give each thread a copy of the model"
            )


_guards: WeakKeyDictionary[nn.Module, _Guard] = WeakKeyDictionary()
_making = threading.Lock()


def _guard_of(model: nn.Module) -> _Guard:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module; got {model!r} ({type(model).__name__})")
    with _making:
        return _guards.setdefault(model, _Guard())


@contextmanager
def held(model: nn.Module) -> Iterator[None]:
    """Keep the model for this thread alone until the block ends. Other threads wait.

    Raises:
        RuntimeError: if another thread has the model edited.
    """
    guard = _guard_of(model)
    guard.refuse_others()
    with guard.lock:
        guard.refuse_others()
        yield


@contextmanager
def edited(model: nn.Module) -> Iterator[None]:
    """Let this thread edit the model. Other threads get an error until the block ends, in whichever thread it does.

    Raises:
        RuntimeError: if another thread has the model edited.
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
    """The function, called with its models held, without autocast, and with lists in place of iterators.

    Autocast would take statistics in half precision, whatever dtype the model has.
    """

    @wraps(function)
    def alone(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = tuple(map(read_once, args)), {name: read_once(value) for name, value in kwargs.items()}
        models = {id(one): one for one in (*args, *kwargs.values()) if isinstance(one, nn.Module)}
        with ExitStack() as stack:
            stack.enter_context(ordinary_numbers())
            for _, model in sorted(models.items()):  # in one order, so that no two threads wait for each other
                stack.enter_context(held(model))
            return function(*args, **kwargs)

    return cast(Callable[P, R], alone)


@contextmanager
def ordinary_numbers() -> Iterator[None]:
    """Switch autocast and inference mode off: products keep their operands' dtype, and tensors can be edited."""
    with ExitStack() as stack:
        for device in ("cpu", "cuda", "mps"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.no_grad())
        yield
