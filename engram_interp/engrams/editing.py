"""`W - alpha W+`, written into a model and taken out again, bit for bit, in any order of edits."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Protocol, runtime_checkable
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from engram_interp.engrams.strengths import Alpha
from engram_interp.models import Adapter, ModelInfo, adapt
from engram_interp.models.exclusive import edited

logger = logging.getLogger("engram_interp")


@runtime_checkable
class Editable(Protocol):
    """What an edit needs of an engram."""

    @property
    def tensors(self) -> dict[str, Tensor]:
        """`W+` by key."""
        ...

    @property
    def info(self) -> ModelInfo:
        """The model that it is part of."""
        ...

    def alphas(self, alpha: Alpha) -> dict[str, float]:
        """The strength of every weight's edit."""
        ...

    def weight_of(self, key: str) -> str:
        """The weight's key for a weight or its bias."""
        ...

    @property
    def unties(self) -> Collection[str]:
        """The tensors that an edit parts from others which share their memory."""
        ...


def require_fit(engram: Editable, adapter: Adapter) -> None:
    """Check that an engram may be written into a model.

    Raises:
        ValueError: if the engram is of another model or has other shapes, or if one of its weights shares memory with
            another weight of the model.
    """
    if adapter.info.processing == engram.info.processing:
        require_shapes(engram, adapter)
    engram.info.require(adapter.info, "the engram")
    adapter.require_editable(engram.tensors)
    adapter.require_unshared(engram.unties)


def require_shapes(engram: Editable, adapter: Adapter) -> None:
    """Check that every tensor of an engram has its parameter's shape.

    Raises:
        ValueError: if one has another shape; the message names it and both models.
    """
    for key, tensor in engram.tensors.items():
        shape = adapter.parameter(key).shape
        if shape != tensor.shape:
            raise ValueError(
                f"the engram of {engram.info.name!r} does not fit {adapter.info.name!r}: {key} is "
                f"{list(tensor.shape)} in the engram, {list(shape)} in the model"
            )


@torch.no_grad()
def write(engram: Editable, adapter: Adapter, originals: Mapping[str, Tensor], alphas: Mapping[str, float]) -> None:
    """Write `original - alpha W+`, rounded to the parameter's dtype once: every weight, or none.

    Raises:
        ValueError: if a weight would not be finite.
    """
    for key in engram.tensors:
        changed = without(engram, originals[key], key, alphas)
        if not is_finite(changed):
            for written in engram.tensors:
                adapter.parameter(written).copy_(originals[written])
            largest = [one[key].abs().max().item() for one in (originals, engram.tensors)]
            alpha = alphas[engram.weight_of(key)]
            raise ValueError(
                f"{key} would not be finite at alpha = {alpha:g}: the largest entry of the weight is {largest[0]:g}, "
                f"the largest of the engram {largest[1]:g}"
            )
        adapter.parameter(key).copy_(changed)


def without(engram: Editable, original: Tensor, key: str, alphas: Mapping[str, float]) -> Tensor:
    """`original - alpha W+` of a weight or bias, in the original's dtype."""
    step = alphas[engram.weight_of(key)] * engram.tensors[key].to(original.device)
    return (original.to(step.dtype) - step).to(original.dtype)


@contextmanager
def editing(engram: Editable, model: nn.Module) -> Iterator[Callable[[Alpha], None]]:
    """A function that sets how strongly an engram is ablated, each time from the original weights.

    Raises:
        RuntimeError: if another thread has the model edited, or, at the end of the block, if a weight cannot be set
            back because it was replaced by one of another shape. All others are set back before.
    """
    with edited(model):
        adapter = adapt(model)
        require_fit(engram, adapter)
        edit = Edit(engram, adapter)
        _edits.setdefault(model, []).append(edit)
        try:
            yield edit.set
        finally:
            edit.undo(_edits[model])


class Edit:
    """One engram ablated in a model, until it is undone.

    Args:
        engram: what is ablated. Its strength is 0 at first.
        adapter: the model.
    """

    def __init__(self, engram: Editable, adapter: Adapter) -> None:
        self.engram, self.adapter = engram, adapter
        self.originals = {key: adapter.parameter(key).detach().clone() for key in engram.tensors}
        self._nothing = dict.fromkeys(map(engram.weight_of, engram.tensors), 0.0)
        self._alphas = self._nothing
        self._tie_again = adapter.untie(engram.unties)

    def set(self, alpha: Alpha) -> None:
        """Ablate the engram this strongly, from the original weights."""
        alphas = self.engram.alphas(alpha)
        self._alphas = self._nothing  # what the model holds if `write` refuses
        write(self.engram, self.adapter, self.originals, alphas)
        self._alphas = alphas

    def changed(self, key: str) -> Tensor:
        """What the edit made of a weight."""
        return without(self.engram, self.originals[key], key, self._alphas)

    @torch.no_grad()
    def undo(self, edits: list[Edit]) -> None:
        """Take this edit out from among the model's edits, in any order. Every weight that can be set back is.

        Raises:
            RuntimeError: if some weights cannot be set back; the message names them.
        """
        wanted, lost = self._without_this(edits[edits.index(self) + 1 :])
        edits.remove(self)
        for key, weight in wanted.items():
            _set(self.adapter, key, weight)
        # All are compared once more, since one weight may have been replaced by another one's.
        failed = [key for key, weight in wanted.items() if not _same(self.adapter, key, weight)]
        self._tie_again()
        if failed:
            raise RuntimeError(
                f"{', '.join(failed)} cannot be set back to what it was before the block: it was replaced by another "
                f"tensor, or by one of another shape or dtype. All other weights are set back"
            )
        if lost:
            logger.warning(
                "%s%s changed while the engram was ablated, and the change is lost: the weights are those from before "
                "the block. To train an edited model, train the copy that `ablate` returns", ", ".join(lost[:3]),
                f" and {len(lost) - 3} more" if len(lost) > 3 else "",
            )  # fmt: skip

    def _without_this(self, later: list[Edit]) -> tuple[dict[str, Tensor], list[str]]:
        """The weights as they are without this edit but with later ones; and the keys that other code has changed."""
        lost, wanted = [], {}
        for key in self.originals:
            chain = [self, *(edit for edit in later if key in edit.originals)]
            if not _same(self.adapter, key, chain[-1].changed(key)):
                lost.append(key)
            wanted[key] = self.originals[key]
            for edit in chain[1:]:
                edit.originals[key] = wanted[key]
                wanted[key] = edit.changed(key)
        return wanted, lost


_edits: WeakKeyDictionary[nn.Module, list[Edit]] = WeakKeyDictionary()
"""What is ablated from each model now, in the order in which it began."""


def is_finite(tensor: Tensor) -> bool:
    """Whether all numbers are finite, in one pass that makes no tensor of their size."""
    return not tensor.numel() or bool(torch.stack(torch.aminmax(tensor.detach())).isfinite().all())


def _same(adapter: Adapter, key: str, weight: Tensor) -> bool:
    """Whether a weight of the model equals this one, on whichever device."""
    try:
        parameter = adapter.parameter(key)
        return parameter.dtype == weight.dtype and torch.equal(parameter.to(weight.device), weight)
    except (RuntimeError, ValueError, AttributeError, TypeError):
        return False


def _set(adapter: Adapter, key: str, weight: Tensor) -> None:
    """Write a weight if there is a tensor of its shape and dtype to write into."""
    with suppress(RuntimeError, ValueError, AttributeError, TypeError):
        parameter = adapter.parameter(key)
        if parameter.shape == weight.shape and parameter.dtype == weight.dtype:
            parameter.copy_(weight)
