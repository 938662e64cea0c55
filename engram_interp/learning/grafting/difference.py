"""`Delta = W - W_0`: what training changed, in every parameter of a model, and the graft `m * Delta` of a mask `m`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from engram_interp.engrams.weights import base_of
from engram_interp.models import Adapter
from engram_interp.models.sites import Site, parameter_paths
from engram_interp.options import Which

WIDER = {torch.float16: torch.float32, torch.bfloat16: torch.float32}
"""The precision in which differences of weights are exact: float64, but for these."""


@dataclass(frozen=True)
class Difference:
    """What training changed.

    Attributes:
        matrices: `W - W_0` of every weight and bias that an engram has, by path.
        others: the same of all other parameters, by path: embeddings, norms.
        sites: the matrices.
    """

    matrices: dict[str, Tensor]
    others: dict[str, Tensor]
    sites: tuple[Site, ...]

    @property
    def every(self) -> dict[str, Tensor]:
        """All of it, matrices first."""
        return {**self.matrices, **self.others}

    @property
    def n_entries(self) -> int:
        """How many numbers that is."""
        return sum(one.numel() for one in self.every.values())

    def masked(self, mask: Mapping[str, Bool[Tensor, "..."]]) -> dict[str, Tensor]:
        """What a mask takes. Of parameters without a matrix, those that it takes nothing of are left out."""
        kept = {key: change * mask[key] for key, change in self.matrices.items()}
        return kept | {key: change * mask[key] for key, change in self.others.items() if mask[key].any()}


@torch.no_grad()
def difference(fine: Adapter, base: Adapter, which: Which) -> Difference:
    """What training changed between two models of one shape.

    Args:
        fine: the model after training.
        base: the model before.
        which: the matrices. If it names any, nothing else is grafted.

    Raises:
        ValueError: if shapes or weight processing differ.
    """
    sites = fine.sites(which.components, which.layers)
    base_of(fine, base.model, sites)
    matrices = {
        path: _only_sites(_changed(fine.parameter(path), base.parameter(path)), path, sites, fine)
        for path in parameter_paths(sites)
    }
    others: dict[str, Tensor] = {}
    if which == Which():
        before, after = base.other_parameters(), fine.other_parameters()
        if before.keys() != after.keys():
            raise ValueError(f"model and base differ in the parameters {sorted(before.keys() ^ after.keys())}")
        others = {key: _changed(after[key], before[key]) for key in after}
    return Difference(matrices, others, tuple(sites))


def _changed(after: Tensor, before: Tensor) -> Tensor:
    if after.shape != before.shape:
        raise ValueError(f"a parameter is {list(after.shape)} in the model and {list(before.shape)} in base")
    wide = WIDER.get(after.dtype, torch.float64)
    return after.detach().to(wide) - before.detach().to(device=after.device, dtype=wide)


def _only_sites(change: Tensor, key: str, sites: Sequence[Site], adapter: Adapter) -> Tensor:
    """A parameter's change in the matrices that were asked for: it may hold others too."""
    every = [site for site in adapter.all_sites() if key in (site.path, site.bias)]
    asked = {site.key for site in sites}
    for site in every:
        if site.key not in asked:
            part = site.of(change) if key == site.path else site.of_bias(change)
            part.zero_()
    return change
