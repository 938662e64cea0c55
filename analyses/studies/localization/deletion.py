"""Are the neurons that a method ranks first those of the memory? `python -m analyses.studies.localization.deletion`.

The second half of INJ and DEL (2311.09060): set the neurons that are ranked first to zero, and see what the model still
gets right of a memory that it learned with all others, and of the others. A neuron is a hidden unit of an MLP, and it
goes with its row of `W_out`. Targets are eight of the testbed's authors.
"""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn

import engram_interp as ei
from analyses import results
from analyses.studies.localization.levels import engram_weights, weight_products
from analyses.studies.localization.methods import Examples
from analyses.studies.localization.rivals import learned_mask
from analyses.studies.localization.worlds import testbed
from engram_interp.concepts.concept import REFERENCE, TARGET
from engram_interp.models import adapt

EVERY = 25
"""One of so many authors is a target."""
SHARES = (0.005, 0.02, 0.1)
"""Of all neurons: so many go."""
N_SIBLINGS = 12
"""So many other authors say what is usual of a neuron."""
N_OTHERS = 20
"""So many more authors say what the deletion costs."""
RESULTS = Path(__file__).with_suffix(".json")
Neurons = Float[Tensor, "neuron"]
"""A number for each neuron, layer by layer."""


def out_keys(model: nn.Module) -> list[str]:
    """The matrices whose rows are neurons."""
    return [site.key for site in adapt(model).all_sites() if site.component == "W_out"]


def engram(model: nn.Module, target: Examples, reference: Examples) -> Neurons:
    """`|W+|` of a neuron's row, over the norm of its matrix."""
    found = engram_weights(model, target, reference)
    return torch.cat([found[key].norm(dim=1) for key in out_keys(model)])


def activation(model: nn.Module, target: Examples, reference: Examples) -> Neurons:
    """A neuron's mean square for the target, over that for the reference."""
    statistics = ei.collect(model, ei.Concept(target, reference), components="W_out", progress=False)
    found = []
    for site in (site for site in adapt(model).all_sites() if site.component == "W_out"):
        squares = {
            side: statistics.groups[side][site.input].matrix(False).diagonal() / statistics.counts[side]
            for side in (TARGET, REFERENCE)
        }
        found.append(squares[TARGET] / squares[REFERENCE])
    return torch.cat(found)


def gradient(model: nn.Module, target: Examples, reference: Examples) -> Neurons:
    """`-sum a dL/da` of a neuron's activation `a`: how the target's loss rises, to first order, as it goes."""
    del reference
    products = weight_products(model, target)
    return -torch.cat([products[key].sum(1) for key in out_keys(model)])


def mask(model: nn.Module, target: Examples, reference: Examples) -> Neurons:
    """A learned mask's mean over a neuron's row."""
    found = learned_mask(model, target, reference)
    return torch.cat([found[key].mean(1) for key in out_keys(model)])


def chance(model: nn.Module, target: Examples, reference: Examples) -> Neurons:
    """Random numbers: a control."""
    del reference
    n = sum(len(adapt(model).parameter(key)) for key in out_keys(model))
    return torch.rand(n, generator=torch.Generator().manual_seed(random.Random(repr(target[0])).getrandbits(32)))


METHODS = {"engram": engram, "activation ratio": activation, "gradient x activation": gradient, "chance": chance}
OVER_SIBLINGS = ("engram", "activation ratio", "gradient x activation")
"""Methods that are also compared with what they say of other authors."""


def over_siblings(target: Neurons, siblings: Float[Tensor, "sibling neuron"]) -> Neurons:
    """Standard deviations from the mean of siblings."""
    return (target - siblings.mean(0)) / siblings.std(0).clamp(min=torch.finfo(siblings.dtype).tiny)


@contextmanager
def without(model: nn.Module, chosen: Tensor) -> Iterator[None]:
    """The model without these neurons, until the end."""
    weights = [adapt(model).parameter(key).detach() for key in out_keys(model)]
    kept = [weight.clone() for weight in weights]
    gone = torch.zeros(sum(map(len, weights)), dtype=torch.bool).index_fill(0, chosen, True)
    try:
        for weight, some in zip(weights, gone.split([len(weight) for weight in weights]), strict=True):
            weight[some] = 0
        yield
    finally:
        for weight, before in zip(weights, kept, strict=True):
            weight.copy_(before)


def rankings(model: nn.Module, memories: Sequence[Examples], number: int) -> dict[str, Neurons]:
    """What every method says of one memory's neurons."""

    def said_of(i: int, name: str) -> Neurons:
        others = [example for j, memory in enumerate(memories) if j != i for example in memory]
        return METHODS[name](model, memories[i], others)

    siblings = random.Random(number).sample([i for i in range(len(memories)) if i != number], N_SIBLINGS)
    found = {name: said_of(number, name) for name in METHODS}
    for name in OVER_SIBLINGS:
        found[f"{name}, siblings"] = over_siblings(found[name], torch.stack([said_of(i, name) for i in siblings]))
    others = [example for j, memory in enumerate(memories) if j != number for example in memory]
    return {**found, "learned mask": mask(model, memories[number], others)}


def judged(model: nn.Module, memories: Sequence[Examples], number: int) -> Iterator[dict[str, object]]:
    """What is left of a memory, and of others, without the neurons that each method ranks first."""
    rest = [memory for i, memory in enumerate(memories) if i != number]
    asked = random.Random(-1 - number).sample(rest, N_OTHERS)
    groups = {"target": list(memories[number]), "others": [example for memory in asked for example in memory]}
    before = ei.score(model, groups, progress=False)
    for name, values in rankings(model, memories, number).items():
        for share in SHARES:
            with without(model, values.argsort(descending=True)[: round(share * len(values))]):
                after = ei.score(model, groups, progress=False)
            left = {side: after[side].accuracy / before[side].accuracy for side in groups}
            yield {"target": number, "method": name, "share": share, "left": left["target"], "kept": left["others"]}


def measure() -> results.Tables:
    """Every method on every target."""
    world = testbed()
    numbers = range(0, len(world.siblings), EVERY)
    cases = pd.DataFrame([row for number in numbers for row in judged(world.model, world.siblings, number)])
    means = cases.groupby(["method", "share"], sort=False)[["left", "kept"]].mean().reset_index()
    return {"summary": means.round(4), "cases": cases.round(4)}


@click.command()
def main() -> None:
    """Delete the neurons that methods rank first."""
    results.record(RESULTS, measure)


if __name__ == "__main__":
    main()
