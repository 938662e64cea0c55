"""What does a convolution multiply? `X`: a row for each position of its output, the patch under the kernel there.

`conv(x) = fold(X W^T)` with `X = unfold(x)`. A transposed convolution multiplies its input pixel by pixel.
"""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn


def patches(
    x: Float[Tensor, "batch channel *space"],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int] | str,
    dilation: Sequence[int],
) -> Float[Tensor, "batch pos d"]:
    """The patches of pictures, as rows `channel * kernel`.

    Args:
        x: pictures, in one to three dimensions.
        kernel: the kernel's size along each.
        stride: how far apart patches are.
        padding: zeros on either side, or `same` or `valid`.
        dilation: how far apart the entries of a patch are.

    Example:
        >>> import torch
        >>> patches(torch.tensor([[[1.0, 2.0, 3.0]]]), [2], [1], [0], [1]).tolist()
        [[[1.0, 2.0], [2.0, 3.0]]]
    """
    n_axes = len(kernel)
    x = nn.functional.pad(x, _sides(kernel, padding, dilation))
    for axis, (k, s, d) in enumerate(zip(kernel, stride, dilation, strict=True)):
        x = x.unfold(2 + axis, d * (k - 1) + 1, s)[..., ::d]
    # [batch channel *out *kernel] -> [batch *out channel *kernel]
    order = [0, *range(2, 2 + n_axes), 1, *range(2 + n_axes, 2 + 2 * n_axes)]
    return x.permute(order).flatten(1 + n_axes).flatten(1, n_axes)


def _sides(kernel: Sequence[int], padding: Sequence[int] | str, dilation: Sequence[int]) -> list[int]:
    """What `pad` takes: zeros before and after, from the last axis to the first."""
    if padding == "valid":
        padding = [0] * len(kernel)
    if isinstance(padding, str):  # "same"
        totals = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        sides = [(total // 2, total - total // 2) for total in totals]
    else:
        sides = [(p, p) for p in padding]
    return [side for pair in reversed(sides) for side in pair]


def pixels(x: Float[Tensor, "batch channel *space"]) -> Float[Tensor, "batch pos channel"]:
    """The pixels of pictures, as rows."""
    return x.flatten(2).transpose(1, 2)
