"""A function of a tensor, computed again only after the tensor has changed."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

R = TypeVar("R")


def once(function: Callable[[Tensor], R]) -> Callable[[Tensor], R]:
    """The function, with its results kept for as long as their tensors live.

    The results of a view are kept with the tensor that it is a view of. For an inference tensor, which does not count
    its edits, nothing is kept. A write through `.data` is not counted either: it is noticed if it changes a whole row
    or column, and may be missed if it changes single entries.

    Example:
        >>> total = once(lambda x: print("summed") or x.sum().item())
        >>> x = torch.ones(2)
        >>> total(x), total(x)
        summed
        (2.0, 2.0)
    """
    results = WeakTensorKeyDictionary()

    @wraps(function)
    def kept(tensor: Tensor) -> R:
        if tensor.is_inference():
            return function(tensor)
        owner = tensor if tensor._base is None else tensor._base
        by_view: Any = results.setdefault(owner, {})
        view = tensor.shape, tensor.stride(), tensor.storage_offset(), tensor.dtype
        state = tensor.data_ptr(), tensor._version, _sample(tensor)
        if view not in by_view or by_view[view][0] != state:
            by_view[view] = state, function(tensor)
        return by_view[view][1]

    return kept


def _sample(tensor: Tensor) -> int:
    """A hash of entries along the diagonal, at least one from every row and column.

    It tells whether a write through `.data` changed them, which moves no version.
    """
    along = torch.arange(max(tensor.shape, default=0), device=tensor.device)
    entries = tensor.detach()[tuple(along % n for n in tensor.shape)] if tensor.numel() else tensor.detach()
    return hash(entries.contiguous().view(-1).view(torch.uint8).cpu().numpy().tobytes())
