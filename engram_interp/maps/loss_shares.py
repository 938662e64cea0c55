"""Does the loss on a memory depend on a matrix? `|<dL/dW, W>|`, as a share of its sum over all matrices.

`<dL/dW, W>` is how the loss changes, to first order, when the matrix is scaled. A matrix may see a target in an unusual
way without taking part in its answers: text that is new to a model stands out, and its loss depends on no place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from engram_interp.answers.loss import answer_loss
from engram_interp.common.progress import bar
from engram_interp.concepts.batches import batches
from engram_interp.concepts.concept import TokenExample
from engram_interp.linalg.norms import share
from engram_interp.models import Adapter
from engram_interp.models.components import COMPONENT, to_matrix
from engram_interp.models.gradients import backward
from engram_interp.models.sites import Site
from engram_interp.options import Run


def loss_products(
    adapter: Adapter, sites: Sequence[Site], memories: Sequence[Sequence[TokenExample]], run: Run
) -> dict[str, Float[Tensor, "memory unit"]]:
    """`<dL/dW, W>` of every matrix and its heads, by key, with `L` the summed loss of each memory's answers.

    It takes a pass forward and one backward over every memory. The model is left as it was.
    """
    by_key = {site.key: site for site in sites}
    found = {site.key: torch.zeros(len(memories), 1 + _n_heads(adapter, site)).double() for site in sites}
    quiet = replace(run, progress=False)
    for number, memory in enumerate(bar(list(memories), run.progress, "differentiating", "memory")):

        def use(key: str, gradient: Tensor, number: int = number) -> None:
            found[key][number] += _products(adapter, by_key[key], gradient)

        for batch in batches({"memory": list(memory)}, quiet.batch_size, quiet.progress, ""):
            backward(adapter, list(by_key), lambda batch=batch: answer_loss(adapter, batch, "sum"), use)
    return found


def loss_shares(products: Float[Tensor, "set unit"]) -> Float[Tensor, "set unit"]:
    """Their sizes as shares of those of all units of a set.

    Example:
        >>> loss_shares(torch.tensor([[3.0, -1.0]])).tolist()
        [[0.75, 0.25]]
    """
    sizes = products.abs()
    return share(sizes, sizes.sum(1, keepdim=True).expand_as(sizes))


@torch.no_grad()
def _products(adapter: Adapter, site: Site, gradient: Tensor) -> Float[Tensor, "unit"]:
    product = to_matrix(site.component, gradient * adapter.parameter(site.key)).double().cpu()
    heads = COMPONENT[site.component].heads(len(adapter.parameter(site.key)))
    whole = product.sum()[None]
    return whole if heads is None else torch.cat([whole, heads.of(product).sum(dim=(-2, -1))])


def _n_heads(adapter: Adapter, site: Site) -> int:
    heads = COMPONENT[site.component].heads(len(adapter.parameter(site.key)))
    return 0 if heads is None else heads.n
