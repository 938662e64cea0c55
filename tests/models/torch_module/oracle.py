"""Engrams of convolutions by brute force: patches gathered pixel by pixel, and `pinv`, in float64."""

import itertools

import torch
from torch import Tensor, nn

MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "replicate", "circular": "circular"}


def patches(module: nn.Module, x: Tensor) -> Tensor:
    """`[group row channel*kernel]`: for every output position, the entries under the kernel, one by one."""
    n_axes = len(module.kernel_size)
    sides = []
    for axis in range(n_axes):
        if module.padding == "same":
            total = module.dilation[axis] * (module.kernel_size[axis] - 1)
            sides.append((total // 2, total - total // 2))
        else:
            sides.append((module.padding[axis],) * 2)
    flat = [side for pair in reversed(sides) for side in pair]
    padded = nn.functional.pad(x, flat, mode=MODES[module.padding_mode]).double()
    outs = [
        (padded.shape[2 + a] - module.dilation[a] * (module.kernel_size[a] - 1) - 1) // module.stride[a] + 1
        for a in range(n_axes)
    ]
    rows = []
    for picture in padded:
        for place in itertools.product(*map(range, outs)):
            entries = []
            for offset in itertools.product(*map(range, module.kernel_size)):
                at = [p * s + o * d for p, s, o, d in
                      zip(place, module.stride, offset, module.dilation, strict=True)]  # fmt: skip
                entries.append(picture[(slice(None), *at)])
            rows.append(torch.stack(entries, dim=1))  # [channel kernel]
    return torch.stack(rows).unflatten(1, (module.groups, -1)).transpose(0, 1).flatten(2)


def matrix(module: nn.Module) -> Tensor:
    """`[group out channel*kernel]`."""
    return module.weight.detach().double().flatten(1).unflatten(0, (module.groups, -1))


def engram(W: Tensor, bias: Tensor | None, target: Tensor, reference: Tensor) -> tuple[Tensor, Tensor | None]:
    """`W S+ (S+ + S-)^pinv` of one matrix; the bias is a further column."""
    if bias is not None:
        W = torch.cat([W, bias.double()[:, None]], dim=1)
        target, reference = (torch.cat([X, torch.ones(len(X), 1).double()], dim=1) for X in (target, reference))
    S_plus = target.T @ target
    S = S_plus + reference.T @ reference
    W_plus = W @ S_plus @ torch.linalg.pinv(S, rtol=len(S) * 2.0**-23, hermitian=True)
    return (W_plus, None) if bias is None else (W_plus[:, :-1], W_plus[:, -1])


def of_convolution(module: nn.Module, target: Tensor, reference: Tensor) -> tuple[Tensor, Tensor | None]:
    """The engram of a convolution, in the shapes of its parameters."""
    sides = patches(module, target), patches(module, reference)
    found = []
    for group in range(module.groups):
        bias = None if module.bias is None else module.bias.detach().unflatten(0, (module.groups, -1))[group]
        found.append(engram(matrix(module)[group], bias, sides[0][group], sides[1][group]))
    weight = torch.cat([W for W, _ in found]).view_as(module.weight)
    return weight, None if module.bias is None else torch.cat([b for _, b in found])


def of_transposed(module: nn.Module, target: Tensor, reference: Tensor) -> Tensor:
    """The engram of a transposed convolution, which reads its input pixel by pixel."""
    groups = module.groups
    sides = [x.double().flatten(2).transpose(1, 2).flatten(0, 1).chunk(groups, dim=1) for x in (target, reference)]
    parts = module.weight.detach().double().chunk(groups)
    found = []
    for W, X_plus, X_minus in zip(parts, *sides, strict=True):
        W_plus, _ = engram(W.flatten(1).T, None, X_plus, X_minus)
        found.append(W_plus.T.reshape(W.shape))
    return torch.cat(found)


def relative_error(found: Tensor, expected: Tensor) -> float:
    found, expected = found.detach().double(), expected.detach().double()
    return float((found - expected).norm() / expected.norm().clamp(min=1e-12))
