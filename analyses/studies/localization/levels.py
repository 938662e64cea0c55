"""How small a place can be found? `python -m analyses.studies.localization.levels`, on the testbed.

One author, whom the model does not know, is trained into one matrix, one head, two modules, or a random 5 % of all
weights (as in LACUNA, 2607.02513). Five targets, none of which any formula was chosen on.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import click
import pandas as pd
from torch import Tensor, nn

import engram_interp as ei
from analyses import results
from analyses.studies.localization.methods import OURS, Examples, Maps, activation_ratio, gradient, weight_change
from analyses.studies.localization.rivals import by_matrix, learned_mask, module_ablation
from analyses.studies.localization.worlds import in_places, testbed
from engram_interp.answers.loss import answer_loss
from engram_interp.benchmarks import (
    Place,
    heads_of,
    localization,
    matrices_of,
    modules_of,
    weights_of,
)
from engram_interp.benchmarks.cases import Memory
from engram_interp.benchmarks.localization import Method
from engram_interp.concepts.batches import batches, encode_groups
from engram_interp.linalg.norms import share
from engram_interp.models import adapt_language
from engram_interp.models.gradients import backward

AUTHORS = (4, 8, 12, 16, 19)
"""The targets: places in the holdout, none of the first four, on whom formulas were chosen."""
N_PLACES = 2
SHARE = 0.05
RESULTS = Path(__file__).with_suffix(".json")


def targets() -> list[Memory]:
    """One author each."""
    people = ei.testbed.authors().holdout
    return [people[number].examples for number in AUTHORS]


def places_of(model: nn.Module, level: str, target: int) -> list[Place]:
    """Where a target is planted: two places of a level, or one draw of weights."""
    if level == "weights":
        return [weights_of(model, SHARE, seed=target)]
    modules = modules_of(model)
    every = {
        "matrix": matrices_of(model),
        "head": heads_of(model),
        "two modules": [modules[i] & modules[(i + 3) % len(modules)] for i in range(len(modules))],
    }[level]
    # Steps that visit components, layers and heads alike.
    return [every[(11 * (N_PLACES * target + shift)) % len(every)] for shift in range(N_PLACES)]


def head_change(base: nn.Module) -> Method:
    """`|W - W_0| / |W_0|` of every head, told the model before."""

    def found(model: nn.Module, target: Examples, reference: Examples) -> dict[str, Tensor]:
        del target, reference
        change = weight_moves(base, model)
        before = {key: adapt_language(base).parameter(key).flatten(1).norm(dim=1) for key in change}
        return {key: moved.flatten(1).norm(dim=1) / before[key] for key, moved in change.items() if ".attn." in key}

    return found


def weight_moves(base: nn.Module, model: nn.Module) -> dict[str, Tensor]:
    """`|W - W_0|` of every weight."""
    before, after = adapt_language(base), adapt_language(model)
    return {site.key: (after.parameter(site.key) - before.parameter(site.key)).abs() for site in after.all_sites()}


def told_weights(base: nn.Module) -> Method:
    """`|W - W_0|`, told the model before."""
    return lambda model, target, reference: weight_moves(base, model)


def engram_weights(model: nn.Module, target: Examples, reference: Examples) -> dict[str, Tensor]:
    """`|W+|` of every weight, over the norm of its matrix."""
    engram = ei.extract(model, ei.Concept(target, reference), progress=False)
    return {key: engram[key].abs() / float(norms.norm()) for key, norms in engram.weight_norms.items()}


def engram_share(model: nn.Module, target: Examples, reference: Examples) -> dict[str, Tensor]:
    """`|W+| / |W|` of every weight."""
    engram, adapter = ei.extract(model, ei.Concept(target, reference), progress=False), adapt_language(model)
    return {key: share(engram[key].abs(), adapter.parameter(key).abs()) for key in engram.weight_norms}


def gradient_weights(model: nn.Module, target: Examples, reference: Examples) -> dict[str, Tensor]:
    """`|dL/dW * W|` of every weight, for the target's loss."""
    del reference
    return {key: product.abs() for key, product in weight_products(model, target).items()}


def weight_products(model: nn.Module, target: Examples) -> dict[str, Tensor]:
    """`dL/dW * W` of every weight, for the target's loss."""
    adapter = adapt_language(model)
    found = {site.key: 0 * adapter.parameter(site.key).detach() for site in adapter.all_sites()}

    def use(key: str, gradient: Tensor) -> None:
        found[key] += gradient * adapter.parameter(key).detach()

    encoded = encode_groups({"target": target}, adapter.encoder)["target"]
    for batch in batches({"target": encoded}, 32, progress=False, describe=""):
        backward(adapter, list(found), lambda batch=batch: answer_loss(adapter, batch, "sum"), use)
    return found


def masks_of_heads(model: nn.Module, target: Examples, reference: Examples) -> dict[str, Tensor]:
    """A learned mask's mean over each head."""
    masks = learned_mask(model, target, reference)
    return {key: mask.flatten(1).mean(1) for key, mask in masks.items() if ".attn." in key}


def methods_of(level: str, base: nn.Module) -> Mapping[str, Method]:
    """What can say something of a level."""
    maps = Maps()
    if level == "weights":
        return {
            "|W+|": engram_weights,
            "|W+| / |W|": engram_share,
            "score of its matrix": maps.by_matrix(*OURS["score"]),
            "gradient x weight": gradient_weights,
            "learned mask": learned_mask,
            "weight change (told the base)": told_weights(base),
        }
    if level == "head":
        return {
            **{name: maps.by_head(*columns) for name, columns in OURS.items()},
            "score of its matrix": maps.by_matrix(*OURS["score"]),
            "learned mask": masks_of_heads,
            "weight change (told the base)": head_change(base),
        }
    return {
        **{name: maps.by_matrix(*columns) for name, columns in OURS.items()},
        "activation ratio": activation_ratio,
        "gradient x weight": gradient,
        "ablation of a module, siblings": module_ablation,
        "learned mask": by_matrix(learned_mask),
        "weight change (told the base)": weight_change(base),
    }


def measure() -> results.Tables:
    """Every method on every level."""
    world = replace(testbed(), targets=targets())
    found = {}
    for level in ("matrix", "head", "two modules", "weights"):
        places = [places_of(world.model, level, number) for number in range(len(world.targets))]
        found[level] = localization(methods_of(level, world.model), in_places(world, places))
    summaries = [board.to_frame().rename_axis("method").reset_index() for board in found.values()]
    tables = {"summary": summaries, "cases": [board.table for board in found.values()]}
    return {
        name: pd.concat(parts, keys=found, names=["level"]).reset_index(level="level").round(4)
        for name, parts in tables.items()
    }


@click.command()
def main() -> None:
    """Plant authors into places of several sizes, and look for them."""
    results.record(RESULTS, measure)


if __name__ == "__main__":
    main()
