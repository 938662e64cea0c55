"""What says where a memory is? Every method that is compared, as a function of a model, a target and a reference.

All but `weight change` and `W-Norm, delta` know the model alone. These two are told the model before, which nobody has
of a real memory; they say what could be reached.
"""

import random
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn

import engram_interp as ei
from engram_interp.benchmarks import Ranking
from engram_interp.benchmarks.localization import Method
from engram_interp.concepts.batches import encode_groups
from engram_interp.concepts.concept import REFERENCE, TARGET, Example
from engram_interp.concepts.memories import memories_of
from engram_interp.engrams.weights import matrix_of
from engram_interp.linalg.intervals import exceedance
from engram_interp.linalg.norms import output_norm
from engram_interp.maps.null_sets import sibling_sets
from engram_interp.maps.reliance import loss_products, reliances, set_products
from engram_interp.models import adapt_language
from engram_interp.models.components import ATTENTION
from engram_interp.models.sites import component_of
from engram_interp.options import Run

Examples = Sequence[Example]
OURS = {
    "score": ("score", "score_p_value"),
    "gain": ("gain_excess", "gain_p_value"),
    "W-Norm over |P+|, siblings": ("oblique_gain_excess", "oblique_gain_p_value"),
    "W-Norm, siblings": ("excess", "p_value"),
    "Fisher share, siblings": ("fisher_excess", "fisher_p_value"),
    "W-Norm": ("wnorm", None),
    "Fisher share": ("fisher", None),
}
"""Columns of a map against siblings, and of their p-values."""
DRAWS = 199
"""The most sibling sets that a reliance is compared with, as in a map."""
ALPHA = 8.0
"""How strongly a matrix's engram is ablated alone."""


class Maps:
    """Maps against sibling memories. Each is made once, for all methods that read it.

    Args:
        options: of `localize`.
    """

    def __init__(self, **options: Any) -> None:
        self._options = options
        self._made: WeakKeyDictionary[nn.Module, dict[int, ei.LocalizationMap]] = WeakKeyDictionary()

    def of(self, model: nn.Module, target: Examples, reference: Examples) -> ei.LocalizationMap:
        """The map of a target in a model."""
        of_model = self._made.setdefault(model, {})
        if id(target) not in of_model:
            concept = ei.Concept(target, reference)
            of_model[id(target)] = ei.localize(model, concept, null="siblings", progress=False, **self._options)
        return of_model[id(target)]

    def by_matrix(self, column: str, p_value: str | None) -> Method:
        """What a column of the map says of matrices, and another one of their p-values."""

        def found(model: nn.Module, target: Examples, reference: Examples) -> Ranking:
            frame = self.of(model, target, reference).to_frame().set_index("key")
            return Ranking(_by_key(frame[column]), _by_key(frame[p_value]) if p_value else {})

        return found

    def by_head(self, column: str, p_value: str | None) -> Method:
        """What a column of the map says of heads."""

        def found(model: nn.Module, target: Examples, reference: Examples) -> Ranking:
            wmap = self.of(model, target, reference)
            return Ranking(_by_head(wmap, column), _by_head(wmap, p_value) if p_value else {})

        return found


def _by_head(wmap: ei.LocalizationMap, column: str) -> dict[str, Float[Tensor, "head"]]:
    return {
        f"blocks.{layer}.attn.{component}": of_heads
        for component in ATTENTION
        for layer, of_heads in enumerate(wmap.heads(component, column))
    }


def _by_key(values: pd.Series) -> dict[str, float]:
    return {str(key): float(value) for key, value in values.items()}


def ablation(model: nn.Module, target: Examples, reference: Examples) -> dict[str, float]:
    """How much the target's loss rises when one matrix's engram is ablated alone."""
    engram = ei.extract(model, ei.Concept(target, reference), progress=False)
    found = {}
    for key in engram.weight_norms:
        with engram.select(keys=key).ablated(model, ALPHA):
            found[key] = ei.score(model, {"target": target}, progress=False)["target"].loss
    return found


def gradient(model: nn.Module, target: Examples, reference: Examples) -> dict[str, float]:
    """`|<dL/dW, W>|`, the first-order effect on the target's loss of scaling a matrix."""
    del reference
    adapter = adapt_language(model)
    encoded = encode_groups({"target": target}, adapter.encoder)["target"]
    products = loss_products(adapter, adapter.all_sites(), [encoded], Run(progress=False))
    return {key: abs(float(of_memory[0, 0, 0])) for key, of_memory in products.items()}


def reliance(model: nn.Module, target: Examples, reference: Examples) -> Ranking:
    """The reliance that `localize(..., gradient=True)` gives, without the rest of the map."""
    adapter, concept = adapt_language(model), ei.Concept(target, reference)
    memories = memories_of(concept)
    sets = sibling_sets(memories, len(target), DRAWS, seed=0)
    encoded = adapter.encode_concept(concept)
    products = set_products(adapter, adapter.all_sites(), encoded, sets, memories, Run(progress=False))
    of_sets = reliances(torch.stack([values[:, 0] for values in products.values()], dim=1))
    found = (of_sets[0].tolist(), exceedance(of_sets).tolist())
    return Ranking(*(dict(zip(products, values, strict=True)) for values in found))


def activation_ratio(model: nn.Module, target: Examples, reference: Examples) -> dict[str, float]:
    """How much a matrix puts out for the target, over what it puts out for the reference, a position."""
    adapter, statistics = adapt_language(model), ei.collect(model, ei.Concept(target, reference), progress=False)
    n = statistics.counts
    found = {}
    for site in adapter.all_sites():
        W = matrix_of(adapter, site, absorbed=False)
        moments = {side: groups[site.input].of_inputs(False) for side, groups in statistics.groups.items()}
        sizes = {side: output_norm(W, moment) / n[side] ** 0.5 for side, moment in moments.items()}
        found[site.key] = float(sizes[TARGET] / sizes[REFERENCE])
    return found


def norm_over_siblings(model: nn.Module, target: Examples, reference: Examples) -> dict[str, float]:
    """A matrix's Frobenius norm over the mean of the same component in all layers: a control that knows no target."""
    del target, reference
    adapter = adapt_language(model)
    norms = pd.Series({site.key: float(adapter.parameter(site.key).detach().norm()) for site in adapter.all_sites()})
    return _by_key(norms / norms.groupby(component_of).transform("mean"))


def depth(model: nn.Module, target: Examples, reference: Examples) -> dict[str, float]:
    """The layer: a control that knows no target."""
    del target, reference
    sites, n_layers = adapt_language(model).all_sites(), adapt_language(model).n_layers
    return {site.key: float(n_layers if site.layer is None else site.layer) for site in sites}


def size(model: nn.Module, target: Examples, reference: Examples) -> dict[str, float]:
    """The number of weights: a control that knows no target."""
    del target, reference
    adapter = adapt_language(model)
    return {site.key: float(adapter.parameter(site.key).numel()) for site in adapter.all_sites()}


def chance(model: nn.Module, target: Examples, reference: Examples) -> dict[str, float]:
    """Random numbers: a control."""
    del reference
    rng = random.Random(repr(target[0]))
    return {site.key: rng.random() for site in adapt_language(model).all_sites()}


def weight_change(base: nn.Module) -> Method:
    """`|W - W_0| / |W_0|`, told the model before."""

    def found(model: nn.Module, target: Examples, reference: Examples) -> dict[str, float]:
        del target, reference
        adapter, before = adapt_language(model), adapt_language(base)
        weights = {site.key: before.parameter(site.key) for site in adapter.all_sites()}
        return {key: float(((adapter.parameter(key) - W).norm() / W.norm()).detach()) for key, W in weights.items()}

    return found


def delta(base: nn.Module) -> Method:
    """The W-Norm of `W - W_0`, told the model before."""

    def found(model: nn.Module, target: Examples, reference: Examples) -> dict[str, float]:
        wmap = ei.localize(model, ei.Concept(target, reference), null="analytic", delta_from=base, progress=False)
        return dict(wmap)

    return found


def every_method(base: nn.Module) -> dict[str, Method]:
    """All methods by name."""
    maps = Maps()
    return {
        **{name: maps.by_matrix(*columns) for name, columns in OURS.items()},
        "ablation of one matrix": ablation,
        "reliance": reliance,
        "gradient x weight": gradient,
        "activation ratio": activation_ratio,
        "norm over siblings": norm_over_siblings,
        "depth": depth,
        "size": size,
        "chance": chance,
        "weight change (told the base)": weight_change(base),
        "W-Norm, delta (told the base)": delta(base),
    }
