"""Model + statistics -> `W+` of every matrix, one soft projector per input (paper, Eq. 3 to 5)."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from engram_interp.common.arguments import Layers
from engram_interp.common.progress import bar
from engram_interp.concepts.concept import BATCH_SIZE, TARGET, Concept
from engram_interp.engrams.engram import Engram
from engram_interp.linalg.filters import Function, Ownership, filter_name, ownership, require_filter, soft
from engram_interp.linalg.spectrum import Spectrum, engram_matrix, require_ridge, require_rtol, spectrum
from engram_interp.models import Adapter, adapt
from engram_interp.models.exclusive import exclusive
from engram_interp.models.sites import (
    ATTENTION,
    UNEMBED,
    Site,
    by_input,
    component_of,
    head_norms,
    layer_of,
    to_matrix,
    to_parameter,
)
from engram_interp.statistics.collect import collect
from engram_interp.statistics.statistics import Statistics


@dataclass(frozen=True)
class InputData:
    """What the data say about one input, the same for all matrices that read it.

    Attributes:
        absorbed: whether it has a row of ones below it, as the last of its `d` dimensions.
        S_plus: second moment of the target.
        S: second moment of target and reference together.
        every: the directions of `S` that the data has.
        rtol: the spectral cut; see `extract`.
        filter: how much of a direction is taken; see `engram_interp.linalg.filters`.
    """

    absorbed: bool
    S_plus: Float[Tensor, "d d"]
    S: Float[Tensor, "d d"]
    every: Spectrum
    rtol: float | int | None
    filter: Function = soft

    @cached_property
    def kept(self) -> Spectrum:
        """The directions of `S` above the cut."""
        return self.every.above(self.rtol)

    @cached_property
    def P_plus(self) -> Float[Tensor, "d d"]:
        """The soft projector `P+` (paper, Eq. 5), or with another filter `g(P+)`."""
        if self.filter == soft:
            return self.kept.soft_projector(self.S_plus)
        return self.owned.projector(self.filter)

    @cached_property
    def owned(self) -> Ownership:
        """Which share of every kept direction is the target's."""
        return ownership(self.S_plus, self.kept)


@dataclass(frozen=True)
class Part:
    """One matrix as the formulas have it, in float64; where its input has a row of ones, the bias is its last column.

    Attributes:
        site: which matrix.
        data: what it reads.
        W: the model's own.
        dW: what the engram is part of: `W`, or its difference from another model's.
        n_heads: into how many heads it falls; 0 where it has none.
    """

    site: Site
    data: InputData
    W: Float[Tensor, "out d"]
    dW: Float[Tensor, "out d"]
    n_heads: int

    @cached_property
    def W_plus(self) -> Float[Tensor, "out d"]:
        """The engram, `W+ = dW P+` (paper, Eq. 3)."""
        return engram_matrix(self.dW, self.data.P_plus)

    @property
    def change(self) -> Change:
        """The engram, as what may be taken from the matrix."""
        return Change(self.site, self.W_plus, self.data.absorbed)

    def weight(self, matrix: Float[Tensor, "out d"]) -> Float[Tensor, "out in"]:
        """Such a matrix without the bias."""
        return without_bias(matrix, self.data.absorbed)


@dataclass(frozen=True)
class Change:
    """What may be taken from a matrix, or added to it.

    Attributes:
        site: which matrix.
        matrix: `[out d]`, as the formulas have it.
        absorbed: whether its last column is the bias's.
    """

    site: Site
    matrix: Float[Tensor, "out d"]
    absorbed: bool


def without_bias(matrix: Float[Tensor, "out d"], absorbed: bool) -> Float[Tensor, "out in"]:
    """A matrix without its last column, where that is the bias's."""
    return matrix[:, :-1] if absorbed else matrix


@exclusive
def extract(
    model: nn.Module,
    concept: Concept | Statistics,
    *,
    components: str | Collection[str] | None = None,
    layers: Layers = None,
    batch_size: int = BATCH_SIZE,
    rtol: float | int | None = None,
    ridge: float | int = 0.0,
    filter: Function = soft,
    absorb_bias: bool = True,
    delta_from: nn.Module | None = None,
    progress: bool | None = None,
) -> Engram:
    """The concept's engram, `W+ = W S+ (S+ + S-)^pinv` of every matrix (paper, Eq. 4; Eq. 3 with `delta_from`).

    Args:
        model: a `HookedTransformer` or `TransformerBridge`, whatever weight processing it was loaded with.
        concept: what to look for, or the statistics that `collect` found for it.
        components: which matrices, `W_Q` to `W_U` or short; every one that the model has by default.
        layers: which layers; all by default. The unembedding is in none: `layers` leaves it out, unless `components`
            names it.
        batch_size: examples in a batch.
        rtol: directions of the inputs whose eigenvalue is at most this share of the largest are dropped; None is
            `d * 2**-23` with `d` the size of the moment matrix.
        ridge: `(S+ + S- + ridge I)^-1` in place of the pseudo-inverse (UCE; paper, Eq. 31), in units of the moments,
            which are sums over tokens. Nothing is dropped then, unless `rtol` says so.
        filter: how much is taken of a direction of which the target owns a share: `filters.soft` (the paper's),
            `filters.power(p)`, `filters.hard(tau)`, `filters.clip(gain)`, `filters.over(share)`, or any function of
            shares in [0, 1], `[k]`, to as many numbers. See `engram_interp.linalg.filters`.
        absorb_bias: treat a bias as one more column of its weight, and extract its engram too.
        delta_from: take the engram of `W - W_0`, with `W_0` the weights of this model of the same shape.
        progress: True or False shows or hides the bar; None shows it in a terminal and in a notebook.

    Raises:
        ValueError: see `collect`; statistics of another model or without the inputs asked for; a `delta_from` of
            other shapes; a cut or a ridge that is none, or a filter that gives something else than numbers.
        TypeError: a filter that is no function.

    Example:
        >>> from engram_interp import testbed
        >>> concept = testbed.authors().concept("Petra Dorlund")
        >>> engram = extract(testbed.load("full"), concept, components="K", layers=[1])
        >>> 0 < engram.wnorm()["blocks.1.attn.W_K"] < 1
        True
    """
    require_rtol(rtol)
    require_ridge(ridge)
    require_filter(filter)
    adapter = adapt(model)
    statistics = statistics_of(model, concept, components, layers, batch_size, progress)
    sites = sites_of(adapter, statistics, components, layers)
    made = parts(adapter, statistics, sites, rtol, absorb_bias, delta_from, ridge, filter, progress=progress)
    options = options_of(rtol, absorb_bias, delta_from, statistics.counts, ridge, filter)
    return engram_of(adapter, sites, (part.change for part in made), statistics.name, options)


def engram_of(
    adapter: Adapter, sites: list[Site], changes: Iterable[Change], name: str | None, options: dict[str, Any]
) -> Engram:
    """Changes of matrices, in the order of their sites and the shapes and places of the model's parameters."""
    tensors: dict[str, Tensor] = {}
    for change in changes:
        site, weight = change.site, without_bias(change.matrix, change.absorbed)
        parameter = adapter.parameter(site.key)
        tensors[site.key] = _like(parameter, to_parameter(site.component, weight, like=parameter))
        if change.absorbed and site.bias is not None:
            bias = adapter.parameter(site.bias)
            tensors[site.bias] = _like(bias, change.matrix[:, -1].reshape(bias.shape))
    keys = [key for site in sites for key in (site.key, site.bias) if key in tensors]
    return Engram(
        tensors={key: tensors[key] for key in keys if key is not None},
        weight_norms={
            site.key: head_norms(site.component, adapter.parameter(site.key)).detach().cpu() for site in sites
        },
        info=adapter.info,
        name=name,
        options=options,
    )


def options_of(
    rtol: float | int | None,
    absorb_bias: bool,
    delta_from: nn.Module | None,
    counts: dict[str, int],
    ridge: float | int = 0.0,
    filter: Function = soft,
) -> dict[str, Any]:
    """How an engram was made, as it and its file say."""
    return {
        "rtol": None if rtol is None else float(rtol),
        "ridge": float(ridge),
        "filter": filter_name(filter),
        "absorb_bias": bool(absorb_bias),
        "delta_from": None if delta_from is None else adapt(delta_from).info.name,
        **{f"{group} tokens": count for group, count in counts.items()},
    }


def _like(parameter: Tensor, tensor: Tensor) -> Tensor:
    """Where the parameter is, and in its precision or float32, whichever is finer."""
    return tensor.to(parameter.device, torch.promote_types(parameter.dtype, torch.float32)).contiguous()


def statistics_of(
    model: nn.Module,
    concept: Concept | Statistics,
    components: str | Collection[str] | None,
    layers: Layers,
    batch_size: int,
    progress: bool | None,
) -> Statistics:
    """The statistics themselves, or those of the concept."""
    if isinstance(concept, Statistics):
        return concept
    return collect(model, concept, components=components, layers=layers, batch_size=batch_size, progress=progress)


def sites_of(
    adapter: Adapter,
    statistics: Statistics,
    components: str | Collection[str] | None,
    layers: Layers,
) -> list[Site]:
    """The matrices whose engrams these statistics give; by default those they were collected for.

    Raises:
        ValueError: statistics of another model, without a target, or without an input that is asked for.
    """
    statistics.info.require(adapter.info, "the statistics")
    if TARGET not in statistics.groups:
        raise ValueError(f"the statistics have no group {TARGET!r}, only {', '.join(statistics.groups)}")
    collected = {component_of(key) for key in statistics.keys}
    sites = adapter.sites(collected if components is None else components, layers)
    if components is None:
        sites = [site for site in sites if site.key in statistics.keys and (layers is None or site.layer is not None)]
    elif layers is None:
        layers_collected = {layer_of(key) for key in statistics.keys}
        sites = [site for site in sites if site.layer in layers_collected or site.component == UNEMBED]
    if not sites:
        raise ValueError(
            f"nothing of what the statistics were collected for ({', '.join(statistics.keys)}) lies in "
            f"components={components}, layers={layers}"
        )
    if missing := [site.key for site in sites if site.input not in statistics.inputs]:
        raise ValueError(f"the statistics lack the inputs of {', '.join(missing)}: collect them for these matrices")
    return sites


def parts(
    adapter: Adapter,
    statistics: Statistics,
    sites: list[Site],
    rtol: float | int | None,
    absorb_bias: bool,
    delta_from: nn.Module | None,
    ridge: float | int = 0.0,
    filter: Function = soft,
    *,
    progress: bool | None = False,
) -> Iterator[Part]:
    """Every matrix with its engram, those that share an input one after the other, and with it one soft projector."""
    if absorb_bias not in (True, False):
        raise TypeError(f"absorb_bias is True or False, got {absorb_bias!r}")
    base = base_of(adapter, delta_from, sites)
    absorbing = absorbing_inputs(adapter, base) if absorb_bias else set()
    for name, readers in bar(by_input(sites).items(), progress, "solving", "input"):
        absorbed = name in absorbing
        S = statistics.total(name).matrix(absorbed)
        S_plus = statistics.groups[TARGET][name].matrix(absorbed).to(S.device)
        data = InputData(absorbed, S_plus, S, spectrum(S, 0.0, ridge), 0.0 if ridge and rtol is None else rtol, filter)
        for site in readers:
            yield part_of(site, data, adapter, base)


@torch.no_grad()
def part_of(site: Site, data: InputData, adapter: Adapter, base: Adapter | None) -> Part:
    """One matrix with what it reads; of `base`, where there is one, its difference."""
    W = matrix_of(adapter, site, data.absorbed).to(data.S.device)
    dW = W if base is None else W - matrix_of(base, site, data.absorbed).to(W)
    return Part(site, data, W, dW, len(adapter.parameter(site.key)) if site.component in ATTENTION else 0)


def matrix_of(adapter: Adapter, site: Site, absorbed: bool) -> Float[Tensor, "out d"]:
    """A weight as the formulas have it, in float64; with `absorbed`, its bias (or zeros) as the last column.

    Raises:
        ValueError: a weight that is not finite.
    """
    W = to_matrix(site.component, adapter.parameter(site.key).detach().double())
    if not W.isfinite().all():
        raise ValueError(f"{site.key} is not finite: the model's weights hold nan or inf there")
    if not absorbed:
        return W
    bias = W.new_zeros(len(W)) if site.bias is None else adapter.parameter(site.bias).detach().flatten()
    return torch.cat([W, bias.to(W)[:, None]], dim=1)


def base_of(adapter: Adapter, delta_from: nn.Module | None, sites: list[Site]) -> Adapter | None:
    """The model whose weights are subtracted, where there is one.

    Raises:
        ValueError: a model of other shapes, or of weights processed otherwise.
    """
    if delta_from is None:
        return None
    base = adapt(delta_from)
    if base.info.processing != adapter.info.processing:
        raise ValueError(
            f"delta_from has {base.info.processing} weights, the model {adapter.info.processing} ones: load both alike"
        )
    for site in sites:
        shapes = [list(one.parameter(site.key).shape) for one in (adapter, base)]
        if shapes[0] != shapes[1]:
            raise ValueError(f"{site.key} is {shapes[0]} in the model and {shapes[1]} in delta_from")
    return base


def absorbing_inputs(adapter: Adapter, base: Adapter | None) -> set[str]:
    """The inputs that get a row of ones: those of which some reader has a bias that is not zero throughout.

    TransformerLens gives a model without biases zeros in their place, and folding moves `b_V` into `b_O`. All readers
    of an input are treated alike, whichever of them are asked for, so that each input is factorised once.
    """
    models = [one for one in (adapter, base) if one is not None]
    return {
        site.input
        for site in adapter.all_sites()
        if site.bias is not None and any(bool(one.parameter(site.bias).count_nonzero()) for one in models)
    }
