"""Do a memory's answers rely on a matrix, and more than those of other memories? `-<dL/dW, W>`, beside siblings.

`-<dL/dW, W>` is how far the loss falls, to first order, when the matrix is scaled up. Over its root mean square over
all matrices it says which of them a set's answers come from, however well they are known. The reliance is how far that
is above the mean of all other sets, in their standard deviations.

A matrix may see a target in an unusual way without taking part in its answers: text that is new to a model stands out,
and is said from no place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from engram_interp.answers.loss import answer_loss
from engram_interp.common.progress import bar
from engram_interp.concepts.batches import batches
from engram_interp.concepts.concept import REFERENCE, TARGET, TokenExample
from engram_interp.concepts.memories import Memories
from engram_interp.linalg.norms import share
from engram_interp.maps.null_sets import memories_in
from engram_interp.maps.scores import standardised
from engram_interp.models import Adapter
from engram_interp.models.components import COMPONENT, to_matrix
from engram_interp.models.gradients import backward
from engram_interp.models.sites import Site
from engram_interp.options import Run


def set_products(
    adapter: Adapter,
    sites: Sequence[Site],
    encoded: Mapping[str, Sequence[TokenExample]],
    sets: Sequence[Int[Tensor, "_"]],
    memories: Memories,
    run: Run,
) -> dict[str, Float[Tensor, "set unit"]]:
    """`<dL/dW, W>` of the target and every null set, which is the sum of its memories'.

    Args:
        adapter: the model.
        sites: the matrices.
        encoded: the examples, by side.
        sets: see `sibling_sets`.
        memories: what sets are made of.
        run: how examples go through the model.
    """
    examples = [*encoded[TARGET], *encoded[REFERENCE]]
    every = [[examples[i] for i in some] for some in (*memories.target, *memories.siblings)]
    members = memories_in(memories, sets)
    return {key: members @ values for key, values in loss_products(adapter, sites, every, run).items()}


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


def reliances(products: Float[Tensor, "set unit"]) -> Float[Tensor, "set unit"]:
    """The reliance of every set on every unit, against all other sets.

    Args:
        products: `<dL/dW, W>`.

    Example:
        >>> products = torch.tensor([[-4.0, 0.0], [-1.0, 1.0], [-1.0, 2.0], [-2.0, 1.0]])
        >>> (reliances(products)[0] > 1).tolist()
        [True, True]
    """
    profile = share(-products, products.square().mean(1, keepdim=True).sqrt().expand_as(products))
    every = torch.arange(len(profile))
    return torch.cat([standardised(profile[i : i + 1], profile[every != i]) for i in range(len(profile))])


@torch.no_grad()
def _products(adapter: Adapter, site: Site, gradient: Tensor) -> Float[Tensor, "unit"]:
    product = to_matrix(site.component, gradient * adapter.parameter(site.key)).double().cpu()
    heads = COMPONENT[site.component].heads(len(adapter.parameter(site.key)))
    whole = product.sum()[None]
    return whole if heads is None else torch.cat([whole, heads.of(product).sum(dim=(-2, -1))])


def _n_heads(adapter: Adapter, site: Site) -> int:
    heads = COMPONENT[site.component].heads(len(adapter.parameter(site.key)))
    return 0 if heads is None else heads.n
