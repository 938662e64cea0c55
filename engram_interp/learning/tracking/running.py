"""`S <- gamma S + sum x x^T`: moments of what a model reads while it trains, without a pass of their own.

Every forward pass in train mode adds its rows, and what was added before fades. So the moments are those of the last
batches, as the model read them then, with dropout if it has any.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from engram_interp.common.arguments import number
from engram_interp.concepts.concept import REFERENCE, TARGET
from engram_interp.concepts.data import DataBatch
from engram_interp.models import LanguageAdapter, adapt
from engram_interp.models.torch_module.adapter import TorchModuleAdapter
from engram_interp.models.torch_module.reading import Listening
from engram_interp.options import Which
from engram_interp.statistics.moments import Moment
from engram_interp.statistics.statistics import Statistics

Belongs: TypeAlias = Callable[[Any], Tensor]
"""From what the model is called with to what belongs to a concept: `[batch pos]` or `[batch]`, true there."""
LEAST_COUNT = 1
"""Fewer positions than this have faded away."""


@dataclass
class Fading:
    """A moment that fades.

    Attributes:
        S: the sum of `x x^T`, in float64.
        sums: of `x`.
        count: how many rows that is, those of earlier batches for less.
    """

    S: Float[Tensor, "d d"]
    sums: Float[Tensor, "d"]
    count: float = 0.0

    def fade(self, gamma: float) -> None:
        """What was added so far counts for less."""
        self.S *= gamma
        self.sums *= gamma
        self.count *= gamma

    def add(self, X: Float[Tensor, "n d"]) -> None:
        """Add rows."""
        X = X.double()
        self.S.addmm_(X.T, X)
        self.sums += X.sum(0)
        self.count += len(X)

    @property
    def moment(self) -> Moment:
        """The moment as it is now."""
        n = max(round(self.count), LEAST_COUNT)
        return Moment(self.S.clone(), self.sums.clone(), n, n)


class RunningMoments:
    """Reads what a model's matrices multiply in every forward pass in train mode, until `remove`.

    Args:
        model: a plain module, as a Hugging Face model is. Its passes and their bits stay as they are.
        belongs: by concept, a function of what the model is called with (a dictionary of its arguments, or what there
            is in place of one) that returns booleans `[batch pos]` or `[batch]`: what belongs to the target.
        counts: the same for what counts at all; the reference is what counts and does not belong. None counts
            `attention_mask` where there is one, and else everything.
        half_life: after so many batches a batch counts for half.
        which: the matrices.
        may_read: says before each batch whether it is read.

    Attributes:
        n_batches: how many were read.
        seconds: how long that took beside the passes themselves.

    Raises:
        TypeError: if the model is one of TransformerLens's, which this cannot read while it trains.
        ValueError: if `half_life` is not above 0.
    """

    def __init__(
        self,
        model: nn.Module,
        belongs: Mapping[str, Belongs],
        counts: Belongs | None,
        half_life: float | int,
        which: Which,
        may_read: Callable[[], bool] = lambda: True,
    ) -> None:
        adapter = adapt(model)
        if isinstance(adapter, LanguageAdapter) or not isinstance(adapter, TorchModuleAdapter):
            raise TypeError(
                f"running moments are read of plain modules, such as Hugging Face's models; got a "
                f"{type(model).__name__}: give concepts, which are passed through it apart"
            )
        if number(half_life, "half_life") <= 0:
            raise ValueError(f"half_life must be above 0 batches; got {half_life}")
        self._model, self._adapter, self._which = model, adapter, which
        self._belongs, self._counts = dict(belongs), counts
        self._gamma = 0.5 ** (1 / float(half_life))
        self._moments: dict[tuple[str, str, str], Fading] = {}
        self.n_batches = 0
        self.seconds = 0.0
        self._may_read = may_read
        self._listening: Listening | None = None
        self._handles = [
            model.register_forward_pre_hook(_Hook(self._begin), with_kwargs=True),
            model.register_forward_hook(_Hook(self._end), always_call=True),
        ]

    def remove(self) -> None:
        """Read no more. The model is as it was."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def statistics(self, concept: str) -> Statistics:
        """The moments of a concept as they are now, against everything else that counted.

        Raises:
            ValueError: if nothing of the concept, or nothing else, was read yet.
        """
        keys = {site.key for site in self._adapter.sites(self._which.components, self._which.layers)}
        sites = [site for site in self._adapter.all_sites() if site.key in keys]
        groups: dict[str, dict[str, Moment]] = {}
        for side in (TARGET, REFERENCE):
            found = {
                str(site.input): self._moments[concept, side, str(site.input)].moment
                for site in sites
                if (concept, side, str(site.input)) in self._moments
            }
            if not found or max(one.count for one in self._fading(concept, side)) < LEAST_COUNT:
                raise ValueError(f"nothing of the {side} of {concept!r} was in the last batches")
            groups[side] = found
        read = [site for site in sites if str(site.input) in groups[TARGET] and str(site.input) in groups[REFERENCE]]
        names = [str(site.input) for site in read]
        return Statistics(
            adapt(self._model).info,
            tuple(site.key for site in read),
            {side: {name: some[name] for name in dict.fromkeys(names)} for side, some in groups.items()},
            concept,
            reads=self._adapter.reads,
        )

    def _fading(self, concept: str, side: str) -> list[Fading]:
        return [one for (name, of, _), one in self._moments.items() if (name, of) == (concept, side)]

    def _begin(self, model: nn.Module, args: Any, kwargs: Any) -> None:
        """Before a pass: what goes in, and what of it counts."""
        if not model.training or self._listening is not None or not self._may_read():
            return
        began = time.perf_counter()
        batch, masks = self._batch(args, kwargs)
        for one in self._moments.values():
            one.fade(self._gamma)
        self._listening = self._adapter.listening(batch, None, _Recording(masks, self))
        self.seconds += time.perf_counter() - began
        self._listening.__enter__()

    def _end(self, model: nn.Module, args: Any, output: Any) -> None:
        """After a pass, also one that failed."""
        del model, args, output
        listening, self._listening = self._listening, None
        if listening is None:
            return
        listening.__exit__(None, None, None)
        listening.finish()
        self.n_batches += 1

    def record(self, concept: str, side: str, name: str, rows: Float[Tensor, "n d"]) -> None:
        """Add rows of an input to the moments of a side."""
        d, zeros = rows.shape[1], {"dtype": torch.float64, "device": rows.device}
        moment = self._moments.setdefault(
            (concept, side, name), Fading(torch.zeros(d, d, **zeros), torch.zeros(d, **zeros))
        )
        moment.add(rows)

    def _batch(self, args: Any, kwargs: Any) -> tuple[DataBatch, dict[tuple[str, str], Bool[Tensor, "batch pos"]]]:
        """The batch with what counts of it, and what belongs to each side of each concept."""
        given = kwargs if kwargs else args[0] if len(args) == 1 else args
        belongs = {name: _wide(function(given)) for name, function in self._belongs.items()}
        counts = self._counted(given, next(iter(belongs.values())).shape)
        masks = {}
        for name, mine in belongs.items():
            if mine.shape != counts.shape:
                raise ValueError(f"{name!r} has a mask of {list(mine.shape)}; what counts is {list(counts.shape)}")
            masks |= {(name, TARGET): mine & counts, (name, REFERENCE): ~mine & counts}
        n = len(counts)
        inputs = given if isinstance(given, (Mapping, tuple)) else (given,)
        names = tuple(f"example {i}" for i in range(n))
        return DataBatch(inputs, None, counts, torch.zeros(n, dtype=torch.long), torch.arange(n), names), masks

    def _counted(self, given: Any, shape: torch.Size) -> Bool[Tensor, "batch pos"]:
        if self._counts is not None:
            return _wide(self._counts(given))
        mask = given.get("attention_mask") if isinstance(given, Mapping) else None
        if isinstance(mask, Tensor) and mask.shape == shape:
            return mask.bool().cpu()
        return torch.ones(shape, dtype=torch.bool)


class _Recording:
    """Adds what is handed on to the moments of each side. It is called as `Record` says."""

    def __init__(self, masks: Mapping[tuple[str, str], Bool[Tensor, "batch pos"]], moments: RunningMoments) -> None:
        self._masks, self._moments = {key: mask.flatten() for key, mask in masks.items()}, moments

    def __call__(self, name: str, activation: Tensor, routed: Tensor | None = None) -> None:
        began, rows = time.perf_counter(), activation.flatten(0, -2)
        for (concept, side), mask in self._masks.items():
            mine = mask.to(rows.device) if routed is None else mask.to(rows.device)[routed]
            self._moments.record(concept, side, str(name), rows[mine])
        self._moments.seconds += time.perf_counter() - began


class _Hook:
    """A hook of a model that its copies do not have: they are other models, and nobody reads them."""

    def __init__(self, call: Callable[..., None]) -> None:
        self._call = call

    def __call__(self, *args: Any) -> None:
        self._call(*args)

    def __deepcopy__(self, memo: Any) -> _Nothing:
        return _Nothing()

    def __reduce__(self) -> tuple[Any, ...]:
        return _Nothing, ()


class _Nothing:
    """What copies of a model have in the place of a hook."""

    def __call__(self, *args: Any) -> None:
        del args


def _wide(mask: Tensor) -> Bool[Tensor, "batch pos"]:
    """A mask with a position for each example, where it has none."""
    mask = torch.as_tensor(mask).bool().cpu()
    return mask[:, None] if mask.dim() == 1 else mask
