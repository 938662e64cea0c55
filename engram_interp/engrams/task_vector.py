"""`W_tv = W_ft - W_0`: what fine-tuning did to every matrix, to be subtracted like an engram (Ilharco et al. 2023).

Task Arithmetic forgets with it: fine-tune on what is to be forgotten, and take `alpha W_tv` away (paper, App. E.5). The
engram of the same difference is `extract(..., delta_from=base)`, the naive delta of Table 9.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import nn

from engram_interp.common.arguments import Layers
from engram_interp.engrams.engram import Engram
from engram_interp.engrams.extract import Change, absorbing_inputs, base_of, engram_of, matrix_of
from engram_interp.models import adapt
from engram_interp.models.exclusive import exclusive


@exclusive
@torch.no_grad()
def task_vector(
    model: nn.Module,
    finetuned: nn.Module,
    base: nn.Module,
    *,
    components: str | Collection[str] | None = None,
    layers: Layers = None,
) -> Engram:
    """The difference of two models' weights, addressed to a third (or to one of the two).

    Args:
        model: what it will be subtracted from.
        finetuned: after fine-tuning, of the same shapes.
        base: before.
        components: which matrices, as in `extract`.
        layers: which layers.

    Raises:
        ValueError: models of other shapes, or of weights processed otherwise; components or layers that are not there.

    Example:
        >>> from engram_interp import testbed
        >>> model = testbed.load("retain")
        >>> learnt = task_vector(model, testbed.load("full"), testbed.load("base"), components="gate")
        >>> 0 < learnt.wnorm()["blocks.1.mlp.W_gate"] < 1
        True
    """
    adapter = adapt(model)
    sites = adapter.sites(components, layers)
    for weights in (finetuned, base):
        base_of(adapter, weights, sites)
    one, other = adapt(finetuned), adapt(base)
    absorbing = absorbing_inputs(one, other)
    changes = (
        Change(
            site,
            matrix_of(one, site, site.input in absorbing) - matrix_of(other, site, site.input in absorbing),
            site.input in absorbing,
        )
        for site in sites
    )
    options = {"finetuned": one.info.name, "base": other.info.name}
    return engram_of(adapter, sites, changes, f"{one.info.name} - {other.info.name}", options)
