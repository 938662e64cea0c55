"""Which matrices does a plain module have, and which of its weights are multiplied in another way?

| module | matrix | a row of its input |
|---|---|---|
| `nn.Linear` | `weight` | what it gets, position by position |
| `transformers`' `Conv1D` | `weight`, transposed | the same |
| `nn.Conv1d`, `2d`, `3d` | `weight`, `[out, in * kernel]`, for each group | a patch, padded as the module does |
| `nn.ConvTranspose1d`, `2d`, `3d` | `weight`, `[out * kernel, in]`, for each group | a pixel, spread over the output |
| `nn.MultiheadAttention` | `in_proj_weight` in three (Q, K, V) | query, key and value |
| its `out_proj` | `weight` | what all heads put out |

The bias of a transposed convolution is added once an output pixel, not once a product, so it is no part of a matrix.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import is_parametrized
from transformers.pytorch_utils import Conv1D

from engram_interp.models.layouts import Layout
from engram_interp.models.sites import Input, Site

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
KINDS = (nn.Linear, Conv1D, *CONVOLUTIONS, *TRANSPOSED)
"""Modules that multiply by their `weight`."""
_AXES = {1: "x", 2: "x y", 3: "x y z"}
_ELEMENTWISE = (nn.Embedding, nn.EmbeddingBag, nn.LayerNorm, nn.RMSNorm, nn.GroupNorm)
"""Modules whose weights are looked up, or multiply number by number."""


def require_plain(model: nn.Module) -> None:
    """Check that modules are Python's own, and that none waits for its first batch to know its shape.

    Raises:
        ValueError: if one does, or is scripted; the message names it.
    """
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise ValueError(f"{name or type(module).__name__} is scripted, and does not show what it multiplies")
        if any(one is not None and is_lazy(one) for one in module._parameters.values()):
            raise ValueError(f"{name or type(module).__name__} is not initialised yet: run the model on a batch first")


def sites_of(model: nn.Module) -> list[Site]:
    """Every matrix of a module, in the order in which modules were made. A shared weight is one matrix."""
    paths = _paths(model)
    outputs = {id(one.out_proj): one.num_heads for one in model.modules() if isinstance(one, nn.MultiheadAttention)}
    found: dict[str, Site] = {}
    for name, module in model.named_modules():
        for site in _of_module(name or type(module).__name__, module, paths):
            if (n_heads := outputs.get(id(module))) is not None:
                site = replace(site, layout=Layout("d_out (head d_head)", "d_out (head d_head)", n_heads))
            known = found.setdefault(site.key, site)
            if known.bias != site.bias:
                # One weight with two biases: neither is added to all of its products.
                found[site.key] = replace(known, bias=None)
    _require_one_grouping(found.values())
    owners: dict[str, set[str]] = {}
    for site in found.values():
        if site.bias is not None:
            owners.setdefault(site.bias, set()).add(site.path)
    # A bias of two weights cannot be absorbed in both: a Q, K and V apart share one, each a part of its own.
    shared = {bias for bias, paths in owners.items() if len(paths) > 1}
    return [
        replace(site, bias=None) if site.bias in shared and site.bias_block is None else site for site in found.values()
    ]


def _require_one_grouping(sites: Iterable[Site]) -> None:
    groups: dict[str, set[int]] = {}
    for site in sites:
        groups.setdefault(site.path, set()).add(site.block[1])
    if twice := [path for path, some in groups.items() if len(some) > 1]:
        raise ValueError(
            f"{', '.join(twice)}: modules that split it into different numbers of groups share this weight, so it is "
            f"no one matrix"
        )


def _paths(model: nn.Module) -> dict[int, str]:
    """The path of every parameter, by its identity: the first at a module that multiplies by it, if there is one."""
    found: dict[int, str] = {}
    modules = list(model.named_modules())
    for is_kind in (True, False):
        for name, module in modules:
            if isinstance(module, (*KINDS, nn.MultiheadAttention)) is is_kind:
                for own, tensor in module._parameters.items():
                    if tensor is not None:
                        found.setdefault(id(tensor), f"{name}.{own}".lstrip("."))
    return found


def _of_module(name: str, module: nn.Module, paths: dict[int, str]) -> Iterator[Site]:
    if _is_attention(module):
        yield from _of_attention(name, module, paths)
        return
    weight = module._parameters.get("weight")
    if not isinstance(module, KINDS) or _why_unreadable(module) is not None:
        return
    bias = None if isinstance(module, TRANSPOSED) else paths.get(id(module._parameters.get("bias")))
    path, n = paths[id(weight)], int(getattr(module, "groups", 1))
    for group in range(n):
        which = f"[{group}]" if n > 1 else ""
        yield Site(
            name, None, Input(f"{name}.in{which}"), bias, group if n > 1 else None, path, _layout(module),
            (group, n), str(group) if n > 1 else "",
        )  # fmt: skip


def _is_attention(module: nn.Module) -> TypeGuard[nn.MultiheadAttention]:
    return isinstance(module, nn.MultiheadAttention) and _why_unreadable(module) is None


def _layout(module: nn.Module) -> Layout:
    if isinstance(module, nn.Linear):
        return Layout("d_out d_in", "d_out d_in")
    if isinstance(module, Conv1D):
        return Layout("d_in d_out", "d_out d_in")
    kernel: Any = module.kernel_size
    axes = _AXES[len(kernel)]
    if isinstance(module, TRANSPOSED):
        return Layout(f"d_in head {axes}", f"(head {axes}) d_in")
    return Layout(f"head d_in {axes}", f"head (d_in {axes})")


def _of_attention(name: str, module: nn.MultiheadAttention, paths: dict[int, str]) -> Iterator[Site]:
    rows = Layout("(head d_head) d_in", "(head d_head) d_in", module.num_heads)
    bias = paths.get(id(module._parameters.get("in_proj_bias")))
    for i, letter in enumerate("QKV"):
        read = Input(f"{name}.{letter}.in")
        if module.in_proj_weight is not None:
            if (path := paths.get(id(module.in_proj_weight))) is not None:
                yield Site(f"{name}.{letter}", None, read, bias, None, path, rows, (i, 3), letter)
        elif (path := paths.get(id(getattr(module, f"{letter.lower()}_proj_weight")))) is not None:
            yield Site(f"{name}.{letter}", None, read, bias, None, path, rows, bias_block=(i, 3))


def unreadable(model: nn.Module) -> dict[str, str]:
    """Modules that multiply, but not by a weight that an engram can be taken of, by path, and why."""
    found = {}
    for name, module in model.named_modules():
        why = _why_unreadable(module)
        if why is not None:
            found[name or type(module).__name__] = why
    return found


def _why_unreadable(module: nn.Module) -> str | None:
    if hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None:
        return "is compiled: give the module that was compiled, `_orig_mod`, or a copy that is not"
    if "quantized" in type(module).__module__:
        return f"is quantised ({type(module).__name__}): load the model unquantised"
    if isinstance(module, nn.MultiheadAttention) and is_parametrized(module):
        return "has weights that are computed from other tensors (a parametrisation): remove it first"
    if not isinstance(module, KINDS):
        return None
    weight = module._parameters.get("weight")
    # A bias that is computed is no parameter under its own name: parametrisations leave theirs, pruning `bias_orig`.
    if weight is None or is_parametrized(module, "bias") or "bias_orig" in module._parameters:
        return "has a weight or bias that is computed from other tensors (a parametrisation): remove it first"
    if weight.is_complex():
        return f"has complex weights ({weight.dtype}), of which no engram is taken"
    if not weight.is_floating_point():
        return f"has quantised weights ({weight.dtype}): load the model unquantised"
    return None


def uncovered(model: nn.Module) -> dict[str, str]:
    """Parameters with two axes or more that belong to no matrix here, and the class of the module that holds them.

    A module of torch's own, as a recurrent one, is named as a whole; of attention, what is left. Embeddings, which are
    looked up, and norms, which multiply number by number, are left out.
    """
    covered = {path for site in sites_of(model) for path in (site.path, site.bias)}
    known = {number for number, path in _paths(model).items() if path in covered}
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, _ELEMENTWISE):
            continue
        for own, tensor in module._parameters.items():
            if isinstance(tensor, Tensor) and tensor.dim() > 1 and id(tensor) not in known:
                path = f"{name}.{own}".lstrip(".")
                is_whole = type(module).__module__.startswith("torch.nn") and name and not _is_attention(module)
                found[name if is_whole else path] = type(module).__name__
    return found
