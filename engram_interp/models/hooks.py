"""Which activations does a forward pass show, and does anybody else's hook change them?"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, TypeAlias

from torch import Tensor, nn

from engram_interp.models.sites import Input

PRE_HOOK, HOOK = True, False
Hook = tuple[nn.Module, Callable[..., Any], bool]
"""A module, the function to call when it runs, and whether that is before (`PRE_HOOK`) or after (`HOOK`)."""

Record: TypeAlias = Callable[..., None]
"""Called as `record(name, activation, routed=None)` with an input's activation, `[*batch_pos d]`, once a pass.

Where only some tokens reach a matrix, `activation` is `[n d]`. Then `routed`, `[n]`, holds these tokens' indices in the
batch, counted with its examples laid end to end.
"""


class Watch:
    """Passes every input's activation on, and remembers which are still missing."""

    def __init__(self, inputs: Collection[Input], record: Record) -> None:
        self.silent = set(inputs)
        self._record = record

    def note(self, name: Input, activation: Tensor, routed: Tensor | None = None) -> None:
        """What hooks call."""
        self.silent.discard(name)
        self._record(name, activation, routed)

    def require_all(self) -> None:
        """Check that every input was seen.

        Raises:
            RuntimeError: if some were not; it names them.
        """
        if self.silent:
            raise RuntimeError(
                f"no activation was seen for {', '.join(sorted(self.silent))}: the module that reads it did not run"
            )


class Stopped(Exception):  # noqa: N818
    """Ends a pass in which everything asked for has been seen."""


@contextmanager
def hooked(hooks: Iterable[Hook]) -> Iterator[None]:
    """Add hooks for the length of the block. They are removed also if the block raises."""
    with ExitStack() as stack:
        for module, function, before in hooks:
            handle: Any = (
                module.register_forward_pre_hook(function, with_kwargs=True)
                if before
                else module.register_forward_hook(function)
            )
            stack.callback(handle.remove)
        yield


def blocks_needed(inputs: Collection[Input], n_layers: int) -> int:
    """How many blocks must run before all of the inputs are there."""
    return max(n_layers if one.layer is None else one.layer + 1 for one in inputs)


def refuse_split_inputs(model: Any) -> None:
    """Check that Q, K and V read one input, not one by head, which hooks on them would not show.

    Raises:
        ValueError: if a setting splits their inputs; it names the setting and how to take it back.
    """
    for flag in ("use_split_qkv_input", "use_attn_in"):
        if getattr(model.cfg, flag, False):
            raise ValueError(
                f"{flag} must be off, since it splits what Q, K and V read by head: call model.set_{flag}(False) first"
            )


_LIBRARIES = ("torch", "transformers", "transformer_lens", "accelerate", "engram_interp")
_GLOBAL_HOOKS = (nn.modules.module._global_forward_hooks, nn.modules.module._global_forward_pre_hooks)


def foreign_hooks(modules: Mapping[str, nn.Module]) -> list[str]:
    """The paths of the modules with somebody else's forward hooks, which may change what is read.

    A module with several paths is listed under the shortest. `every module` stands for torch's global hooks.
    """
    paths: dict[nn.Module, str] = {}
    for name, module in modules.items():
        if any(map(_is_foreign, [*module._forward_hooks.values(), *module._forward_pre_hooks.values()])):
            paths[module] = min(name, paths.get(module, name), key=len)
    anywhere = any(_is_foreign(hook) for hooks in _GLOBAL_HOOKS for hook in hooks.values())
    return [*(["every module"] if anywhere else []), *paths.values()]


def _is_foreign(hook: Any) -> bool:
    """Whether a hook, or the function that TransformerLens wraps in one, comes from outside the model's libraries."""
    wraps = inspect.isfunction(hook) and _module_of(hook).startswith("transformer_lens")
    inside = inspect.getclosurevars(hook).nonlocals.get("hook") if wraps else None
    return _module_of(hook if inside is None else inside).partition(".")[0] not in _LIBRARIES


def _module_of(function: Any) -> str:
    function = getattr(function, "func", function)
    return getattr(function, "__module__", None) or type(function).__module__
