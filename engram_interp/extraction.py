"""Model + statistics -> `W+` of every matrix, one soft projector per input (paper, Eq. 3 to 5)."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from engram_interp.collect import collect
from engram_interp.concept import BATCH_SIZE, TARGET, Concept
from engram_interp.engram import Engram
from engram_interp.estimator import engram_matrix, soft_projector
from engram_interp.models import Adapter, adapt
from engram_interp.sites import UNEMBED, Site, component_of, head_norms, layer_of, to_matrix, to_parameter
from engram_interp.statistics import Statistics


@dataclass(frozen=True)
class Part:
    """The engram of one matrix.

    Attributes:
        site: which matrix.
        W_plus: in the parameter's shape.
        b_plus: of its absorbed bias, or None.
        weight_norms: of the model's own weight, by head; see `Engram`.
    """

    site: Site
    W_plus: Float[Tensor, "..."]
    b_plus: Float[Tensor, "..."] | None
    weight_norms: Float[Tensor, "head"]


def extract(
    model: nn.Module,
    concept: Concept | Statistics,
    *,
    components: str | Collection[str] | None = None,
    layers: int | Collection[int] | None = None,
    batch_size: int = BATCH_SIZE,
    rtol: float | int | None = None,
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
        absorb_bias: treat a bias as one more column of its weight, and extract its engram too.
        delta_from: take the engram of `W - W_0`, with `W_0` the weights of this model of the same shape.
        progress: True or False shows or hides the bar; None shows it in a terminal only.

    Raises:
        ValueError: see `collect`; statistics of another model or without the inputs asked for; a `delta_from` of
            other shapes.

    Example:
        >>> from engram_interp import testbed
        >>> concept = testbed.authors().concept("Petra Dorlund")
        >>> engram = extract(testbed.load("full"), concept, components="K", layers=[1])
        >>> 0 < engram.wnorm()["blocks.1.attn.W_K"] < 1
        True
    """
    adapter = adapt(model)
    statistics = statistics_of(model, concept, components, layers, batch_size, progress)
    sites = sites_of(adapter, statistics, components, layers)
    made = {part.site: part for part in parts(adapter, statistics, sites, rtol, absorb_bias, delta_from)}
    tensors: dict[str, Tensor] = {}
    for site in sites:
        tensors[site.key] = made[site].W_plus
        b_plus = made[site].b_plus
        if site.bias is not None and b_plus is not None:
            tensors[site.bias] = b_plus
    return Engram(
        tensors=tensors,
        weight_norms={site.key: made[site].weight_norms for site in sites},
        info=adapter.info,
        name=statistics.name,
        options={
            "rtol": rtol,
            "absorb_bias": absorb_bias,
            "delta_from": None if delta_from is None else adapt(delta_from).info.name,
            **{f"{group} tokens": count for group, count in statistics.counts.items()},
        },
    )


def statistics_of(
    model: nn.Module,
    concept: Concept | Statistics,
    components: str | Collection[str] | None,
    layers: int | Collection[int] | None,
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
    layers: int | Collection[int] | None,
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
) -> Iterator[Part]:
    """The engram of every matrix, those that share an input one after the other, and with it one soft projector."""
    base = None if delta_from is None else adapt(delta_from)
    if base is not None:
        _check_same_shapes(adapter, base, sites)
    absorbing = _absorbing_inputs(adapter, base) if absorb_bias else set()
    for name in dict.fromkeys(site.input for site in sites):
        absorbed = name in absorbing
        S = statistics.total(name).matrix(absorbed)
        P_plus = soft_projector(statistics.groups[TARGET][name].matrix(absorbed).to(S.device), S, rtol)
        for site in sites:
            if site.input == name:
                yield _part(site, adapter, base, P_plus, absorbed)


@torch.no_grad()
def _part(site: Site, adapter: Adapter, base: Adapter | None, P_plus: Float[Tensor, "d d"], absorbed: bool) -> Part:
    weight = adapter.parameter(site.key)
    dtype = torch.promote_types(weight.dtype, torch.float32)
    dW = to_matrix(site.component, _difference(site.key, adapter, base).to(P_plus.device))
    if not absorbed or site.bias is None:
        W_plus, b_plus = engram_matrix(dW, P_plus[: dW.shape[1], : dW.shape[1]]), None
    else:
        db = _difference(site.bias, adapter, base).to(P_plus.device)
        extended = engram_matrix(torch.cat([dW, db.flatten()[:, None]], dim=1), P_plus)
        W_plus, b_plus = extended[:, :-1], extended[:, -1].reshape(db.shape).to(weight.device, dtype)
    return Part(
        site=site,
        W_plus=to_parameter(site.component, W_plus, like=weight).to(weight.device, dtype).contiguous(),
        b_plus=b_plus,
        weight_norms=head_norms(site.component, weight).cpu(),
    )


def _difference(key: str, adapter: Adapter, base: Adapter | None) -> Tensor:
    """`dW` in float64: the weight itself (tabula rasa), or its difference from the base model's."""
    weight = adapter.parameter(key).double()
    difference = weight if base is None else weight - base.parameter(key).to(weight)
    if not difference.isfinite().all():
        raise ValueError(f"{key} is not finite: the model's weights hold nan or inf there")
    return difference


def _absorbing_inputs(adapter: Adapter, base: Adapter | None) -> set[str]:
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


def _check_same_shapes(adapter: Adapter, base: Adapter, sites: list[Site]) -> None:
    if base.info.processing != adapter.info.processing:
        raise ValueError(
            f"delta_from has {base.info.processing} weights, the model {adapter.info.processing} ones: load both alike"
        )
    for site in sites:
        shapes = [list(one.parameter(site.key).shape) for one in (adapter, base)]
        if shapes[0] != shapes[1]:
            raise ValueError(f"{site.key} is {shapes[0]} in the model and {shapes[1]} in delta_from")
