"""What would others say of where a memory is? Causal ablation over sibling memories, K-FAC curvature, learned masks.

Each is a function of a model, a target and a reference, as `benchmarks.localization` takes them.
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import engram_interp as ei
from engram_interp.answers.loss import answer_loss
from engram_interp.benchmarks.localization import Method
from engram_interp.benchmarks.places import Place, matrices_of, modules_of
from engram_interp.concepts.batches import Batch, batches, encode_groups
from engram_interp.concepts.concept import Example, TokenExample
from engram_interp.concepts.memories import memories_of
from engram_interp.engrams.weights import matrix_of
from engram_interp.models import LanguageAdapter, adapt_language
from engram_interp.models.gradients import backward

Examples = Sequence[Example]
N_SIBLINGS = 12
"""So many sibling memories say what the loss of a module costs any memory."""
N_STEPS, RATE, START, L1, MOST = 40, 0.3, 3.0, 1.0, 8.0
"""Of learned masks: steps and rate of Adam, the first logit, the price of closing all, the loss that is enough."""


def module_ablation(model: nn.Module, target: Examples, reference: Examples) -> dict[str, float]:
    """How much a target's loss rises without a module, over how much that of sibling memories does."""
    return _ablated_over_siblings(model, target, reference, modules_of(model))


def matrix_ablation(model: nn.Module, target: Examples, reference: Examples) -> dict[str, float]:
    """How much a target's loss rises without a matrix, over how much that of sibling memories does."""
    return _ablated_over_siblings(model, target, reference, matrices_of(model))


def _ablated_over_siblings(
    model: nn.Module, target: Examples, reference: Examples, places: Sequence[Place]
) -> dict[str, float]:
    """`(rise of the target - mean rise of siblings) / their standard deviation`, for every matrix of a place."""
    memories = memories_of(ei.Concept(target, reference)).siblings
    chosen = random.Random(0).sample(memories, min(N_SIBLINGS, len(memories)))
    every = [*target, *reference]
    groups = {"target": list(target), **{str(i): [every[j] for j in some] for i, some in enumerate(chosen)}}
    before = _losses(model, groups)
    # What is in no place, such as the unembedding, is part of nothing that is ablated.
    found = dict.fromkeys((site.key for site in adapt_language(model).all_sites()), float("-inf"))
    for place in places:
        with without(model, dict.fromkeys(place.keys, torch.tensor(True))):
            rises = _losses(model, groups) - before
        z = float((rises[0] - rises[1:].mean()) / rises[1:].std())
        found |= dict.fromkeys(place.keys, z)
    return found


def _losses(model: nn.Module, groups: dict[str, list[Example]]) -> Tensor:
    return torch.tensor([one.loss for one in ei.score(model, groups, progress=False).values()])


@contextmanager
def without(model: nn.Module, gone: Mapping[str, Tensor]) -> Iterator[None]:
    """The model with these matrices set to zero, or those rows that a mask names, until the end."""
    weights = [adapt_language(model).parameter(key).detach() for key in gone]
    kept = [weight.clone() for weight in weights]
    try:
        for weight, rows in zip(weights, gone.values(), strict=True):
            weight[rows] = 0
        yield
    finally:
        for weight, before in zip(weights, kept, strict=True):
            weight.copy_(before)


def curvature_mass(model: nn.Module, target: Examples, reference: Examples) -> dict[str, float]:
    """`tr(G+ W S+ W^T) / tr(G W S W^T)` a position: the curvature along `W`, by K-FAC, of the target over all.

    `G` is the second moment of the loss's gradient by a matrix's outputs. Merullo et al. (2510.24256) tell memorised
    weights from others by their mass in a K-FAC eigenbasis.
    """
    adapter = adapt_language(model)
    statistics = ei.collect(model, ei.Concept(target, reference), progress=False)
    rng = random.Random(0)
    encoded = encode_groups(
        {"target": target, "reference": rng.sample(list(reference), min(len(reference), 4 * len(target)))},
        adapter.encoder,
    )
    gradients = {side: _output_moments(adapter, examples) for side, examples in encoded.items()}
    # The unembedding's outputs are too many for their second moment.
    found = dict.fromkeys((site.key for site in adapter.all_sites()), float("-inf"))
    for site in (site for site in adapter.all_sites() if site.layer is not None):
        W = matrix_of(adapter, site, absorbed=False).double()
        mass = {}
        for side, G in gradients.items():
            S = statistics.groups[side][site.input].matrix(False).double() / statistics.counts[side]
            mass[side] = float(((G[site.key] @ W) * (W @ S)).sum())
        found[site.key] = mass["target"] / mass["reference"]
    return found


OUTPUTS = {
    "W_Q": "attn.hook_q", "W_K": "attn.hook_k", "W_V": "attn.hook_v", "W_O": "hook_attn_out",
    "W_gate": "mlp.hook_pre", "W_in": "mlp.hook_pre", "W_out": "hook_mlp_out",
}  # fmt: skip
"""The hook points of what matrices put out. In a gated MLP, `W_in` has `hook_pre_linear`."""


def _output_moments(adapter: LanguageAdapter, examples: Sequence[TokenExample]) -> dict[str, Tensor]:
    """The sum of `g g^T` an example, by key, with `g` the gradient of its loss by a matrix's output."""
    model: Any = adapter.model
    sites = [site for site in adapter.all_sites() if site.layer is not None]
    gated = {site.layer for site in sites if site.component == "W_gate"}
    points = {}
    for site in sites:
        name = "mlp.hook_pre_linear" if site.component == "W_in" and site.layer in gated else OUTPUTS[site.component]
        points[site.key] = f"blocks.{site.layer}.{name}"
    found: dict[str, Tensor] = {}

    def add(point: str, gradient: Tensor, hook: Any) -> None:
        del hook  # a bridge calls it by another name
        rows = gradient.detach().flatten(2).flatten(0, 1)
        found[point] = found.get(point, 0) + (rows.T @ rows).double()

    hooks = [(point, partial(add, point)) for point in set(points.values())]
    required = {parameter: parameter.requires_grad for parameter in model.parameters()}
    model.requires_grad_(True)
    for batch in batches({"all": list(examples)}, 32, progress=False, describe=""):
        with torch.enable_grad(), model.hooks(bwd_hooks=hooks):
            answer_loss(adapter, batch, "sum").backward()
        model.zero_grad(set_to_none=True)
    for parameter, before in required.items():
        parameter.requires_grad_(before)
    return {key: found[point] / len(examples) for key, point in points.items()}


def learned_mask(model: nn.Module, target: Examples, reference: Examples) -> dict[str, Tensor]:
    """`1 - m` of masks `m` in `W m` that forget the target and keep the reference, by weight, learned by gradients."""
    adapter = adapt_language(model)
    keys = [site.key for site in adapter.all_sites()]
    weights = {key: adapter.parameter(key).detach() for key in keys}
    kept = {key: weight.clone() for key, weight in weights.items()}
    logits = {key: torch.full_like(weight, START) for key, weight in weights.items()}
    optimizer = torch.optim.Adam(logits.values(), lr=RATE)
    encoded = encode_groups({"target": target, "reference": reference}, adapter.encoder)
    n_weights, rng = sum(weight.numel() for weight in weights.values()), random.Random(0)
    try:
        for _ in range(N_STEPS):
            for key, weight in weights.items():
                mask = logits[key].sigmoid()
                weight.copy_(kept[key] * mask)
                logits[key].grad = (-L1 / n_weights) * mask * (1 - mask)
            for side, sign in (("target", -1.0), ("reference", 1.0)):
                some = rng.sample(encoded[side], min(32, len(encoded[side])))
                (batch,) = batches({side: some}, len(some), progress=False, describe="")
                backward(adapter, keys, _objective(adapter, batch, sign), _onto(logits, kept))
            optimizer.step()
    finally:
        for key, weight in weights.items():
            weight.copy_(kept[key])
    return {key: 1 - one.sigmoid() for key, one in logits.items()}


def _objective(adapter: LanguageAdapter, batch: Batch, sign: float) -> Callable[[], Tensor]:
    """The loss of what is kept; less that of what is forgotten, as far as it is not enough."""
    return lambda: sign * answer_loss(adapter, batch, "mean").clamp(max=MOST)


def _onto(logits: dict[str, Tensor], kept: dict[str, Tensor]) -> Callable[[str, Tensor], None]:
    def use(key: str, gradient: Tensor) -> None:
        mask = logits[key].sigmoid()
        logits[key].grad += gradient * kept[key] * mask * (1 - mask)  # pyright: ignore[reportOperatorIssue]

    return use


def by_matrix(method: Callable[[nn.Module, Examples, Examples], dict[str, Tensor]]) -> Method:
    """The mean over a matrix's weights of what a method says of each."""

    def found(model: nn.Module, target: Examples, reference: Examples) -> dict[str, float]:
        return {key: float(values.mean()) for key, values in method(model, target, reference).items()}

    return found


RIVALS: dict[str, Method] = {
    "ablation of a module, siblings": module_ablation,
    "ablation of one matrix, siblings": matrix_ablation,
    "K-FAC curvature mass": curvature_mass,
    "learned mask": by_matrix(learned_mask),
}
