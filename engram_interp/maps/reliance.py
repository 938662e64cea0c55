"""Do a memory's answers rely on a matrix, and more than those of other memories? `-<dL/dW, W> / |dL/dW|`.

`-<dL/dW, W>` is how far the loss falls, to first order, when the matrix is scaled up. Over the gradient's norm it is
the length of `W` down its own gradient, and over the root mean square of all matrices' lengths it says which of them a
set's answers come from. The reliance is how far that is above the mean of all other sets, in their standard deviations.
How large a loss is, and how well a memory is known, cancels. The gradient of a set of memories has the root of the sum
of their squared norms, as if they had nothing in common.

A matrix may see a target in an unusual way without taking part in its answers: text that is new to a model stands out,
and is said from no place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from engram_interp.answers.loss import answer_loss
from engram_interp.common.progress import bar
from engram_interp.concepts.batches import Examples, any_batches
from engram_interp.concepts.concept import REFERENCE, TARGET
from engram_interp.concepts.memories import Memories
from engram_interp.linalg.norms import share
from engram_interp.maps.null_sets import memories_in
from engram_interp.maps.scores import over_rms, standardised
from engram_interp.models import Adapter
from engram_interp.models.gradients import backward
from engram_interp.models.sites import Site
from engram_interp.options import Run


def set_products(
    adapter: Adapter,
    sites: Sequence[Site],
    encoded: Mapping[str, Examples],
    sets: Sequence[Int[Tensor, "_"]],
    memories: Memories,
    run: Run,
) -> dict[str, Float[Tensor, "set unit 2"]]:
    """`<dL/dW, W>` and `|dL/dW|^2` of the target and every null set: the sums of its memories'.

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
    of_memories = loss_products(adapter, sites, every, run)
    return {key: torch.tensordot(members, values, dims=1) for key, values in of_memories.items()}


def loss_products(
    adapter: Adapter, sites: Sequence[Site], memories: Sequence[Examples], run: Run
) -> dict[str, Float[Tensor, "memory unit 2"]]:
    """`<dL/dW, W>` and `|dL/dW|^2` of every matrix and its heads, with `L` the summed loss of each memory's answers.

    It takes a pass forward and one backward over every memory. The model is left as it was. Where a memory is more than
    one batch, its gradients are held until the last, which takes as much memory as the weights.
    """
    found = {site.key: torch.zeros(len(memories), 1 + _n_heads(adapter, site), 2).double() for site in sites}
    for number, memory in enumerate(bar(list(memories), run.progress, "differentiating", "memory")):
        for key, values in _of_memory(adapter, sites, memory, run).items():
            found[key][number] = values
    return found


def _of_memory(
    adapter: Adapter, sites: Sequence[Site], memory: Examples, run: Run
) -> dict[str, Float[Tensor, "unit 2"]]:
    paths = list(dict.fromkeys(site.path for site in sites))
    held: dict[str, Tensor] = {}
    found: dict[str, Tensor] = {}

    def measure(path: str, gradient: Tensor) -> None:
        for site in sites:
            if site.path == path:
                # A weight that two parameters hold has a gradient in each.
                found[site.key] = found.get(site.key, 0) + _products(adapter, site, gradient)

    def hold(key: str, gradient: Tensor) -> None:
        held[key] = held[key] + gradient if key in held else gradient

    def use(path: str, gradient: Tensor) -> None:
        hold(path, gradient)
        measure(path, held.pop(path))

    *others, last = any_batches({"memory": list(memory)}, run.batch_size, False, "")
    for batch in others:
        backward(adapter, paths, lambda batch=batch: answer_loss(adapter, batch, "sum"), hold)
    backward(adapter, paths, lambda: answer_loss(adapter, last, "sum"), use)
    # What is held still are experts that the last batch was not sent to.
    for path, gradient in held.items():
        measure(path, gradient)
    return found


def reliances(products: Float[Tensor, "set unit 2"]) -> Float[Tensor, "set unit"]:
    """The reliance of every set on every unit, against all other sets.

    Args:
        products: `<dL/dW, W>` and `|dL/dW|^2`.

    Example:
        >>> product = torch.tensor([[-3.0, 1.0], [-1.0, -1.0], [1.0, -1.0], [0.0, 0.0]])
        >>> reliances(torch.stack([product, torch.ones(4, 2)], dim=2))[0, 0].item()  # (3 / sqrt 5 - 0) / 1
        1.34...
    """
    product, square = products.unbind(-1)
    length = share(-product, square.sqrt())
    profile = over_rms(length)
    every = torch.arange(len(profile))
    return torch.cat([standardised(profile[i : i + 1], profile[every != i]) for i in range(len(profile))])


@torch.no_grad()
def _products(adapter: Adapter, site: Site, gradient: Tensor) -> Float[Tensor, "unit 2"]:
    weight, heads = site.of(adapter.parameter(site.path)), adapter.heads(site)
    gradient = site.of(gradient)
    # The square of a small gradient is zero in float16.
    wide = torch.promote_types(weight.dtype, torch.float32)
    gradient, weight = gradient.to(wide), weight.to(wide)
    found = []
    for values in (gradient * weight, gradient.square()):
        matrix = site.layout.to_matrix(values)
        whole = matrix.sum(dtype=torch.float64)[None]
        by_head = [] if heads is None else [heads.of(matrix).sum(dim=(-2, -1), dtype=torch.float64)]
        found.append(torch.cat([whole, *by_head]).cpu())
    return torch.stack(found, dim=-1)


def _n_heads(adapter: Adapter, site: Site) -> int:
    heads = adapter.heads(site)
    return 0 if heads is None else heads.n
