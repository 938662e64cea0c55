"""A model's weights as the formulas have them: `W [out d]` in float64, with an absorbed bias as the last column."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from engram_interp.models import Adapter, adapt
from engram_interp.models.sites import Site


def matrix_of(adapter: Adapter, site: Site, absorbed: bool) -> Float[Tensor, "out d"]:
    """A weight in float64. With `absorbed`, its bias (or zeros) is the last column.

    Raises:
        ValueError: if the weight is not finite.
    """
    W = adapter.weight(site).detach().double()
    if not W.isfinite().all():
        raise ValueError(f"{site.key} is not finite: the model's weights hold nan or inf there")
    return _with_bias(W, adapter.bias(site)) if absorbed else W


def matrix_in(tensors: Mapping[str, Tensor], site: Site, absorbed: bool) -> Float[Tensor, "out d"]:
    """`matrix_of` for tensors by path, as an engram has them. They may lack the bias."""
    W = site.matrix(tensors[site.path].double())
    bias = None if site.bias is None else tensors.get(site.bias)
    return _with_bias(W, None if bias is None else site.of_bias(bias)) if absorbed else W


def write_matrix(tensors: Mapping[str, Tensor], site: Site, matrix: Float[Tensor, "out d"], absorbed: bool) -> None:
    """Write a matrix into the tensors that hold it: the other way round. A bias that is not among them is left out."""
    part = site.of(tensors[site.path])
    part.copy_(site.layout.to_parameter(without_bias(matrix, absorbed), like=part))
    if absorbed and site.bias is not None and site.bias in tensors:
        bias = site.of_bias(tensors[site.bias])
        bias.copy_(matrix[:, -1].reshape(bias.shape))


def _with_bias(W: Float[Tensor, "out in"], bias: Tensor | None) -> Float[Tensor, "out d"]:
    """A matrix with its bias, or zeros, as the last column."""
    column = W.new_zeros(len(W)) if bias is None else bias.flatten().to(W)
    return torch.cat([W, column[:, None]], dim=1)


def without_bias(matrix: Float[Tensor, "*set out d"], absorbed: bool) -> Float[Tensor, "*set out in"]:
    """A matrix without its last column if that is the bias."""
    return matrix[..., :-1] if absorbed else matrix


def base_of(adapter: Adapter, delta_from: nn.Module | None, sites: list[Site]) -> Adapter | None:
    """The model whose weights are subtracted, if there is one.

    Raises:
        ValueError: if its shapes differ from the model's, or its weights were processed differently.
    """
    if delta_from is None:
        return None
    base = adapt(delta_from)
    if base.info.processing != adapter.info.processing:
        raise ValueError(
            f"delta_from has {base.info.processing} weights, the model {adapter.info.processing} ones: load both alike"
        )
    for site in sites:
        shapes = [list(one.parameter(site.path).shape) for one in (adapter, base)]
        if shapes[0] != shapes[1]:
            raise ValueError(f"{site.key} is {shapes[0]} in the model and {shapes[1]} in delta_from")
    return base


def absorbing_inputs(adapter: Adapter, base: Adapter | None) -> set[str]:
    """The inputs that get a row of ones: those that are read by a matrix with a bias other than zero.

    TransformerLens gives a model without biases zeros in their place, and folding moves `b_V` into `b_O`. All matrices
    that read an input are treated alike, whichever are asked for, so each input is factorised once.
    """
    models = [one for one in (adapter, base) if one is not None]
    return {
        site.input
        for site in adapter.all_sites()
        if site.bias is not None and any(bool(one.parameter(site.bias).count_nonzero()) for one in models)
    }
