"""Are the neurons that a method ranks first those of the memory? `python -m analyses.studies.localization.deletion`.

The second half of INJ and DEL (2311.09060): set the neurons that are ranked first to zero, and see what the model still
gets right of a memory that it learned with all others, and of the others. A neuron is a hidden unit of an MLP, and it
goes with its row of `W_out`. Memories are the testbed's authors; eight of them are targets.
"""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn

import engram_interp as ei
from analyses import results
from analyses.studies.localization.levels import weight_products
from analyses.studies.localization.methods import Examples
from analyses.studies.localization.rivals import learned_mask, without
from analyses.studies.localization.worlds import testbed
from engram_interp.maps.scores import standardised
from engram_interp.models import adapt
from engram_interp.models.sites import Site

EVERY = 25
"""One of so many authors is a target."""
SHARES = (0.02, 0.1, 0.3)
"""Of all neurons: so many go."""
N_OTHERS = 20
"""So many other authors say what the deletion costs."""
RESULTS = Path(__file__).with_suffix(".json")
Neurons = Float[Tensor, "memory neuron"]
"""A number for each memory and each neuron, layer by layer."""


def out_sites(model: nn.Module) -> list[Site]:
    """The matrices whose rows are neurons."""
    return [site for site in adapt(model).all_sites() if site.component == "W_out"]


def engrams_and_activations(model: nn.Module, memories: Sequence[Examples]) -> tuple[Neurons, Neurons]:
    """`|W+|` of a neuron's row, over the norm of its matrix; and its mean square, over that for all other memories."""
    named = {str(number): memory for number, memory in enumerate(memories)}
    parts = ei.decompose(model, named, components="out", progress=False)
    counts = torch.tensor([float(parts.counts[name]) for name in named])[:, None]
    of_engrams, of_activations = [], []
    for site in out_sites(model):
        norm = adapt(model).parameter(site.key).detach().norm()
        rows = [parts.engram(name)[site.key].norm(dim=1) / norm for name in named]
        squares = torch.stack([parts.moment(site.input, [name]).diagonal() for name in named]).float()
        others = (squares.sum(0) - squares) / (counts.sum() - counts)
        of_engrams.append(torch.stack(rows))
        of_activations.append(squares / counts / others)
    return torch.cat(of_engrams, dim=1), torch.cat(of_activations, dim=1)


def gradients(model: nn.Module, memories: Sequence[Examples]) -> Neurons:
    """`-sum a dL/da` of a neuron's activation `a`: how a memory's loss rises, to first order, as the neuron goes."""
    found = []
    for memory in memories:
        products = weight_products(model, memory)
        found.append(-torch.cat([products[site.key].sum(1) for site in out_sites(model)]))
    return torch.stack(found)


def over_siblings(values: Neurons, number: int) -> Float[Tensor, "neuron"]:
    """One memory's numbers, in standard deviations from the mean of all others."""
    others = values[torch.arange(len(values)) != number]
    return standardised(values[number][None], others)[0]


def mask(model: nn.Module, target: Examples, reference: Examples) -> Float[Tensor, "neuron"]:
    """A learned mask's mean over a neuron's row."""
    found = learned_mask(model, target, reference)
    return torch.cat([found[site.key].mean(1) for site in out_sites(model)])


def rows_of(model: nn.Module, chosen: Tensor) -> dict[str, Tensor]:
    """The rows of neurons, as a mask for each matrix."""
    sizes = {site.key: len(adapt(model).parameter(site.key)) for site in out_sites(model)}
    gone = torch.zeros(sum(sizes.values()), dtype=torch.bool).index_fill(0, chosen, True)
    return dict(zip(sizes, gone.split([*sizes.values()]), strict=True))


def rankings(
    model: nn.Module, memories: Sequence[Examples]
) -> Iterator[tuple[int, dict[str, Float[Tensor, "neuron"]]]]:
    """The number of every target, and what each method says of its neurons."""
    engrams, activations = engrams_and_activations(model, memories)
    every = {"engram": engrams, "activation ratio": activations, "gradient x activation": gradients(model, memories)}
    for number in range(0, len(memories), EVERY):
        others = [example for i, memory in enumerate(memories) if i != number for example in memory]
        found = {name: values[number] for name, values in every.items()}
        found |= {f"{name}, siblings": over_siblings(values, number) for name, values in every.items()}
        found["learned mask"] = mask(model, memories[number], others)
        found["chance"] = torch.rand(engrams.shape[1], generator=torch.Generator().manual_seed(number))
        yield number, found


def judged(
    model: nn.Module, memories: Sequence[Examples], number: int, methods: dict[str, Tensor]
) -> Iterator[dict[str, object]]:
    """What is left of a memory, and of others, without the neurons that each method ranks first."""
    rest = [memory for i, memory in enumerate(memories) if i != number]
    asked = random.Random(number).sample(rest, N_OTHERS)
    groups = {"target": list(memories[number]), "others": [example for memory in asked for example in memory]}
    before = ei.score(model, groups, progress=False)
    for name, values in methods.items():
        for share in SHARES:
            first = values.argsort(descending=True)[: round(share * len(values))]
            with without(model, rows_of(model, first)):
                after = ei.score(model, groups, progress=False)
            left = {side: after[side].accuracy / before[side].accuracy for side in groups}
            yield {"target": number, "method": name, "share": share, "left": left["target"], "kept": left["others"]}


def measure() -> results.Tables:
    """Every method on every target."""
    world = testbed()
    found = rankings(world.model, world.siblings)
    rows = [row for number, methods in found for row in judged(world.model, world.siblings, number, methods)]
    cases = pd.DataFrame(rows)
    means = cases.groupby(["method", "share"], sort=False)[["left", "kept"]].mean().reset_index()
    return {"summary": means.round(4), "cases": cases.round(4)}


@click.command()
def main() -> None:
    """Delete the neurons that methods rank first."""
    results.record(RESULTS, measure)


if __name__ == "__main__":
    main()
