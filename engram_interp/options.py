"""The options that calls share: which matrices, how to solve, how to run, where to keep, what to compare with.

Each is declared here, once.

A function that takes them is written with one argument for each kind, and called with the options as keywords:

    @takes(Which, Solve, Run)
    def extract(model, concept, *, which: Which, solve: Solve, run: Run) -> Engram: ...

    extract(model, concept, layers=[3], ridge=0.1, batch_size=8)

Its signature and its docstring, as `help` and notebooks show them, list every option with its default.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass, fields
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import nn

from engram_interp.common.arguments import Layers, n_bytes, number, whole
from engram_interp.linalg.filters import Function, require_filter, soft
from engram_interp.linalg.spectrum import require_ridge, require_rtol

R = TypeVar("R")

PREDICTING, ANSWER, BOTH, ALL = "predicting", "answer", "both", "all"
POSITIONS = (PREDICTING, ANSWER, BOTH, ALL)


@dataclass(frozen=True, kw_only=True)
class Which:
    """Which matrices.

    Attributes:
        components: names of components, `W_Q` to `W_U`, or short, `Q` to `U`. Of a plain module, paths of its modules,
            or patterns of such paths as `blocks.*.mlp`; a module stands for all that is in it. None means all that the
            model has.
        layers: one layer or several, by number. Of a plain module, depths in the order of calls. None means all. The
            unembedding lies in no layer: `layers` leaves it out, unless `components` names it.
    """

    components: str | Collection[str] | None = None
    layers: Layers = None


@dataclass(frozen=True, kw_only=True)
class Read:
    """Which positions of a `(prompt, answer)` pair count. In a plain string every token counts, but not BOS.

    Attributes:
        positions: `"predicting"` counts those whose output gives the answer's tokens: the prompt's last token to the
            answer's last but one (to its last if EOS follows). `"answer"` counts the answer's own tokens, as the paper
            does. `"both"` counts either, and `"all"` every token but BOS. Raises ValueError if it is another word.
        eos: whether the end-of-sequence token follows every answer. It is then one of the answer's tokens.
    """

    positions: str = PREDICTING
    eos: bool = True

    def __post_init__(self) -> None:
        if self.positions not in POSITIONS:
            raise ValueError(f"positions must be one of {', '.join(POSITIONS)}; got {self.positions!r}")
        if self.eos not in (True, False):
            raise TypeError(f"eos must be True or False; got {self.eos!r}")

    @property
    def in_words(self) -> str:
        """These positions, as results and files say them: `predicting`, or `predicting, no EOS`."""
        return self.positions if self.eos else f"{self.positions}, no EOS"


@dataclass(frozen=True, kw_only=True)
class Cut:
    """Which directions of an input count, and whether the bias belongs to the weight.

    Attributes:
        rtol: drops directions whose eigenvalue is at most this share of the largest. None means `d * 2**-23`, with `d`
            the size of the moment matrix. Raises ValueError if it is outside [0, 1).
        outliers: the share of directions, those with the largest eigenvalues, that do not set the cut: `rtol` is then
            relative to the largest eigenvalue of the others. 0.01 sets massive activations aside, of which one can hide
            most other directions below the cut. Raises ValueError if it is outside [0, 1).
        absorb_bias: treats a bias as one more column of its weight.
    """

    rtol: float | int | None = None
    outliers: float | int = 0.0
    absorb_bias: bool = True

    def __post_init__(self) -> None:
        require_rtol(self.rtol)
        if not 0 <= number(self.outliers, "outliers") < 1:
            raise ValueError(f"outliers must be in [0, 1), a share of the directions; got {self.outliers}")
        if self.absorb_bias not in (True, False):
            raise TypeError(f"absorb_bias must be True or False, got {self.absorb_bias!r}")


@dataclass(frozen=True, kw_only=True)
class Solve(Cut):
    """How an engram is solved for.

    Attributes:
        ridge: uses `(S+ + S- + ridge I)^-1` in place of the pseudo-inverse (UCE; paper, Eq. 31). Its unit is that of
            the moments, which are sums over tokens. With a ridge nothing is dropped, unless `rtol` says so. Raises
            ValueError if it is negative.
        filter: how much is taken of a direction of which the target owns a share: `filters.soft` (the paper's),
            `filters.power(p)`, `filters.hard(tau)`, `filters.clip(gain)`, `filters.over(share)`, or any function from
            shares in [0, 1] to as many numbers.
        delta_from: takes the engram of `W - W_0`, with `W_0` the weights of this model of the same shape (paper, Eq.
            3). Sizes remain shares of `W`.
    """

    ridge: float | int = 0.0
    filter: Function = soft
    delta_from: nn.Module | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require_ridge(self.ridge)
        require_filter(self.filter)

    @property
    def cut(self) -> float | int | None:
        """The cut that is in force: a ridge needs none."""
        return 0.0 if self.ridge and self.rtol is None else self.rtol


@dataclass(frozen=True, kw_only=True)
class Show:
    """Whether it shows how far it is.

    Attributes:
        progress: True shows a bar, False hides it. None shows it in a terminal and in a notebook.
    """

    progress: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Run(Show):
    """How examples go through the model.

    Attributes:
        batch_size: examples in a batch, 1 or more. None takes examples of similar length until they make up 4096
            tokens. Batches that a user gives are divided into ones of at most this size. It affects memory, and results
            by rounding only.
    """

    batch_size: int | None = None

    def __post_init__(self) -> None:
        if self.batch_size is not None:
            object.__setattr__(self, "batch_size", whole(self.batch_size, "batch_size", at_least=1))


@dataclass(frozen=True, kw_only=True)
class Keep:
    """Where moments are kept, and how much is read for them.

    Attributes:
        store: a folder for the moments. They are written there as they are done, with checkpoints, and read one input
            at a time, so that memory holds the largest input only. Without a null that keeps rows, maps are then
            compared with the analytic null. None keeps all moments in memory.
        budget: how much memory moments may take while they are summed, beside the model and a batch: a number of bytes,
            or `"24GB"`. Inputs beyond it wait for a further pass over the examples. None sums all in one pass. It needs
            a store. Raises ValueError if it does not hold the largest input.
        resume: goes on with a store that is there: after a process was killed, from its last checkpoint, and with the
            same bits in the end. A finished store is opened. Raises ValueError if the model, the examples or the
            options are others, and FileExistsError if `resume` is False and there is a store.
        checkpoint_every: seconds between checkpoints. They are rarer if writing them takes over a twentieth of the
            time.
        storage_device: where sums are kept, such as `"cpu"`. None keeps each where its input is computed.
        max_tokens: how many positions that count are read of each side, in the order in which its examples come. The
            example that exceeds it is left out. None reads all.
        until: ends the pass when the 95 % interval of every W-Norm that is watched is at most this wide; see
            `statistics/convergence.py`. None reads all.
    """

    store: str | os.PathLike[str] | None = None
    budget: int | str | None = None
    resume: bool = True
    checkpoint_every: float | int = 300.0
    storage_device: str | torch.device | None = None
    max_tokens: int | None = None
    until: float | int | None = None

    def __post_init__(self) -> None:
        if self.store is not None and not os.fspath(self.store):
            raise ValueError("store must be a folder; got an empty path")
        if self.budget is not None:
            object.__setattr__(self, "budget", n_bytes(self.budget, "budget"))
        if self.budget is not None and self.store is None:
            raise ValueError("budget needs store, a folder for what waits: store='statistics'")
        if self.resume not in (True, False):
            raise TypeError(f"resume must be True or False; got {self.resume!r}")
        if number(self.checkpoint_every, "checkpoint_every") < 0:
            raise ValueError(f"checkpoint_every must be 0 or more seconds; got {self.checkpoint_every}")
        if self.max_tokens is not None:
            object.__setattr__(self, "max_tokens", whole(self.max_tokens, "max_tokens", at_least=1))
        if self.until is not None and number(self.until, "until") <= 0:
            raise ValueError(f"until must be above 0, the width of an interval of W-Norms; got {self.until}")

    @property
    def room(self) -> int | None:
        """The budget in bytes."""
        return None if self.budget is None else n_bytes(self.budget, "budget")


@dataclass(frozen=True, kw_only=True)
class Compare:
    """What sizes are compared with.

    Attributes:
        null: what sizes are compared with. `"siblings"`: other whole memories, as `groups` says, each set of as many as
            the target consists of. Everything that was learned as a whole leaves like traces, so this null tells what
            is the target's own. `"resampled"`: random examples of target and reference together, as many as the target
            has. Any whole memory differs from these nearly everywhere. `"analytic"`: a target with the second moments
            of all examples. It costs nothing, and a small target exceeds it by noise alone. The first two keep the rows
            of every input, and give p-values and intervals; the memory and time that this takes are logged before it
            starts, as a warning if it is over 1 GB or 30 s and `progress` is not False. None takes siblings where the
            concept has 19 or more of them and the filter allows it, and else the analytic null, as for statistics; also
            where the rows of pictures would take over 2 GB, which a warning says.
        groups: which memory each example belongs to: a function of an example, a list with a label for each reference
            example, or `{"target": [...], "reference": [...]}`. An example labelled None belongs to no memory. None
            goes by the subject that prompts share, where the target has one, and else takes blocks of consecutive
            reference examples, as long as the target. `memories` of the map says which it was.
        gradient: also says how much more the target's answers rely on a matrix than its siblings' do: `reliance`, from
            `-<dL/dW, W> / |dL/dW|`, by a backward pass over every memory. A significant score must then be significant
            in it too, so that text that is new to the model is starred less; the score itself stays as it is. Where a
            memory is a small part of its matrices, as in large models, the reliance finds it and the score does not:
            see `top(by="reliance")`. It hardly tells apart what scales the same thing: `W_V` and `W_O`, `W_Q` and
            `W_K`, the linear half of a gated MLP and its `W_out`.
        draws: how many sets at most; p-values are multiples of `1 / (draws + 1)`.
        seed: of the sets.
    """

    null: str | None = None
    groups: Any = None
    gradient: bool = False
    draws: int = 199
    seed: int = 0


def takes(*kinds: type) -> Callable[[Callable[..., R]], Callable[..., R]]:
    """Let a function be called with the options of these kinds as keywords.

    Args:
        kinds: `Which`, `Read`, `Cut`, `Solve`, `Show`, `Run`, `Keep` or `Compare`. The function has an argument for
            each, named as its kind in lower case.

    Example:
        >>> @takes(Run)
        ... def double(x: int, *, run: Run) -> int:
        ...     return 2 * x
        >>> double(3, batch_size=8)
        6
        >>> str(inspect.signature(double))
        "(x: 'int', *, progress: 'bool | None' = None, batch_size: 'int | None' = None) -> 'int'"
    """
    options = {kind.__name__.lower(): kind for kind in kinds}

    def decorate(function: Callable[..., R]) -> Callable[..., R]:
        signature = _expanded(inspect.signature(function), options)

        @wraps(function)
        def called(*args: Any, **given: Any) -> R:
            signature.bind(*args, **given)  # an unknown keyword is an error that names this function's own
            made = {
                name: kind(**{one.name: given.pop(one.name) for one in fields(kind) if one.name in given})
                for name, kind in options.items()
            }
            return function(*args, **given, **made)

        called.__signature__ = signature  # pyright: ignore[reportAttributeAccessIssue]
        called.__doc__ = _documented(function.__doc__, options)
        return called

    return decorate


def _expanded(signature: inspect.Signature, options: dict[str, type]) -> inspect.Signature:
    """A signature with the options of each kind in place of the kind."""
    own = [one for one in signature.parameters.values() if one.name not in options]
    keywords = [
        inspect.Parameter(one.name, inspect.Parameter.KEYWORD_ONLY, default=one.default, annotation=one.type)
        for kind in options.values()
        for one in fields(kind)
    ]
    return signature.replace(parameters=[*own, *keywords])


def _documented(text: str | None, options: dict[str, type]) -> str | None:
    """A docstring with a line for each option at the end of its `Args:`."""
    if text is None:
        return None
    lines = inspect.cleandoc(text).splitlines()
    start = lines.index("Args:") + 1 if "Args:" in lines else len(lines)
    end = next((i for i in range(start, len(lines)) if lines[i] and not lines[i].startswith(" ")), len(lines))
    while end > start and not lines[end - 1]:
        end -= 1
    head = [] if "Args:" in lines else ["", "Args:"]
    described = [line for kind in options.values() for line in _attributes(kind)]
    return "\n".join([*lines[:end], *head, *described, *lines[end:]])


def _attributes(kind: type) -> list[str]:
    """The lines that describe a kind's options, those of the kind that it extends first."""
    lines = [line for base in kind.__bases__ if base is not object for line in _attributes(base)]
    own = inspect.cleandoc(kind.__doc__ or "").splitlines()
    return [*lines, *own[own.index("Attributes:") + 1 :]]
