"""`W_tv = W_ft - W_0`: what fine-tuning did to every matrix, to be subtracted like an engram (Ilharco et al. 2023).

Task Arithmetic forgets with it: fine-tune on what is to be forgotten, and subtract `alpha W_tv` (paper, App. E.5).
`extract(..., delta_from=base)` gives the engram of the same difference, the naive delta of Table 9.
"""

from __future__ import annotations

import torch
from torch import nn

from engram_interp.engrams.engram import Engram
from engram_interp.engrams.extract import engram_of
from engram_interp.engrams.parts import Change
from engram_interp.engrams.weights import absorbing_inputs, base_of, matrix_of
from engram_interp.models import Adapter, adapt
from engram_interp.models.exclusive import exclusive
from engram_interp.models.sites import Site
from engram_interp.options import Which, takes


@exclusive
@torch.no_grad()
@takes(Which)
def task_vector(model: nn.Module, finetuned: nn.Module, base: nn.Module, *, which: Which) -> Engram:
    """The difference of two models' weights, as an engram of a third model (or of one of the two).

    Args:
        model: what it will be subtracted from.
        finetuned: the model after fine-tuning, of the same shapes.
        base: the model before.

    Raises:
        ValueError: if shapes or weight processing differ, or a component or layer is missing.

    Example:
        >>> from engram_interp import testbed
        >>> model = testbed.load("retain")
        >>> learnt = task_vector(model, testbed.load("full"), testbed.load("base"), components="gate")
        >>> 0 < learnt.wnorm()["blocks.1.mlp.W_gate"] < 1
        True
    """
    adapter = adapt(model)
    sites = adapter.sites(which.components, which.layers)
    for weights in (finetuned, base):
        base_of(adapter, weights, sites)
    one, other = adapt(finetuned), adapt(base)
    absorbing = absorbing_inputs(one, other)
    changes = [_difference(one, other, site, site.input in absorbing) for site in sites]
    options = {"finetuned": one.info.name, "base": other.info.name}
    return engram_of(adapter, sites, changes, f"{one.info.name} - {other.info.name}", options)


def _difference(one: Adapter, other: Adapter, site: Site, absorbed: bool) -> Change:
    return Change(site, matrix_of(one, site, absorbed) - matrix_of(other, site, absorbed), absorbed)
