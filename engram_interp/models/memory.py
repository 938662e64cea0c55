"""Do two tensors share memory, so that an edit of one is an edit of the other?"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping

import torch
from torch import Tensor, nn


def share_memory(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors have an entry in common.

    Example:
        >>> whole = torch.zeros(4, 4)
        >>> share_memory(whole[:, :2], whole[:, 2:]), share_memory(whole[:, :2], whole.T)
        (False, True)
    """
    return _storage(one) == _storage(other) and _overlap(one, other)


def shared(keys: Collection[str], tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, str]]:
    """Every pair of a key and another name whose tensors have an entry in common.

    Example:
        >>> whole = torch.zeros(4, 4)
        >>> list(shared(["a"], {"a": whole, "b": whole[:2], "c": torch.zeros(2)}))
        [('a', 'b')]
    """
    by_storage: dict[int, list[str]] = {}
    for name, tensor in tensors.items():
        by_storage.setdefault(_storage(tensor), []).append(name)
    for key in keys:
        for name in by_storage[_storage(tensors[key])]:
            if name != key and _overlap(tensors[key], tensors[name]):
                yield key, name


_EMBEDDING = re.compile(r"(^|\.)(pos_)?embed\b")


def norms_and_embeddings(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """The parameters of norms and embeddings, by path.

    Any other module with matrices holds matrices of sites, or the fused tensor that a bridge has split into them.
    """
    found: dict[str, Tensor] = {}
    for path, module in modules.items():
        own = {name: one for name, one in module._parameters.items() if one is not None}
        if all(one.dim() < 2 for one in own.values()) or _EMBEDDING.search(path):
            found |= {f"{path}.{name}": one for name, one in own.items()}
    return found


def _storage(tensor: Tensor) -> int:
    """Where a tensor's memory begins. A tensor without memory gets a number of its own."""
    if tensor.device.type == "meta" or not tensor.numel():
        return -id(tensor)
    return tensor.untyped_storage().data_ptr()


def contains(whole: Tensor, part: Tensor) -> bool:
    """Whether a tensor is a view that lies within another's stretch of memory.

    Example:
        >>> whole = torch.zeros(4, 4)
        >>> contains(whole[1:], whole[1:3].T), contains(whole[1:], whole[:2])
        (True, False)
    """
    if whole.device != part.device or _storage(whole) != _storage(part):
        return False
    (start, stop), (first, last) = (_extent(one) for one in (whole, part))
    return start <= first and last <= stop


def _extent(view: Tensor) -> tuple[int, int]:
    """Where a view begins and ends in its storage."""
    start = int(view.storage_offset())
    return start, start + 1 + sum((n - 1) * stride for n, stride in zip(view.shape, view.stride(), strict=True))


def _overlap(one: Tensor, other: Tensor) -> bool:
    """Whether two views of one storage have an entry in common. Neighbouring columns of a matrix have none."""
    size = one.element_size()
    starts, ends = zip(_extent(one), _extent(other), strict=True)
    if other.element_size() == size and (ends[0] <= starts[1] or ends[1] <= starts[0]):
        return False
    seen = torch.zeros(one.untyped_storage().nbytes() // size, dtype=torch.uint8)
    for view in (one, other):
        seen.as_strided(view.shape, view.stride(), view.storage_offset()).add_(1)
    return bool(seen.max() > 1)
