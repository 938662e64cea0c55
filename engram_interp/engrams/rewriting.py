"""`W_new = (V* X+^T + W X- X-^T) (S+ + S-)^pinv`: chosen outputs for chosen inputs, the rest as it was (paper, Eq. 32).

Ablating (`V* = 0`) deletes a memory and injecting creates one; this updates one. The formula is in `linalg/rewriting`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from engram_interp.concepts.batches import batches, encode_groups
from engram_interp.concepts.concept import Concept, Example, TokenExample, require_concept
from engram_interp.engrams.engram import Engram
from engram_interp.engrams.extract import engram_of
from engram_interp.engrams.parts import Change
from engram_interp.engrams.weights import absorbing_inputs, matrix_of
from engram_interp.linalg.rewriting import rewriting
from engram_interp.models import LanguageAdapter, adapt_language
from engram_interp.models.exclusive import exclusive
from engram_interp.models.sites import Site
from engram_interp.options import Cut, Read, Run, takes
from engram_interp.statistics.collect import collect
from engram_interp.statistics.moments import with_ones
from engram_interp.statistics.rows import collect_rows


@exclusive
@torch.no_grad()
@takes(Cut, Run)
def rewrite(
    model: nn.Module,
    concept: Concept,
    values: Mapping[str, Float[Tensor, "n out"]],
    *,
    weight: float | int = 1.0,
    cut: Cut,
    run: Run,
) -> Engram:
    """The change that gives matrices chosen outputs at the target's counted positions: `.inject(model)` makes it.

    Args:
        model: the model.
        concept: the target's examples, which say where outputs are chosen, and the reference, which should stay.
        values: by key, the wanted outputs `V*`, a row for each counted position in the order of examples.
            `values_like` takes them from other examples. Each matrix is changed on the inputs that it has in the
            unedited model; if several are changed, later ones meet other inputs than these.
        weight: how much the target counts against the reference; `math.inf` fits it exactly (ROME).

    Raises:
        ValueError: if the model lacks a key, values have another shape or are not finite, or `weight` is 0 or less; see
            also `collect`.

    Example:
        >>> import engram_interp as ei
        >>> model, facts = ei.testbed.load("full"), ei.testbed.authors().world_examples
        >>> moved = [("What is the capital of Norway?", "Rome")]
        >>> concept = ei.Concept(moved, [fact for fact in facts if fact[0] != moved[0][0]])
        >>> values = ei.values_like(model, moved, [("What is the capital of Italy?", "Rome")], layer=3)
        >>> list(ei.rewrite(model, concept, values, weight=100.0))
        ['blocks.3.mlp.W_out']
    """
    require_concept(concept)
    adapter = adapt_language(model)
    sites = _sites(adapter, values)
    components = {site.component for site in sites}
    layers = {site.layer for site in sites if site.layer is not None} or None
    statistics = collect(model, concept, components=components, layers=layers, **vars(run))
    target = {"target": adapter.encode_concept(concept)["target"]}
    rows = collect_rows(adapter, sites, target, run)
    absorbing = absorbing_inputs(adapter, None) if cut.absorb_bias else set()
    changes = []
    for site in sites:
        absorbed = site.input in absorbing
        X = with_ones(rows[site.input].X, absorbed)
        W = matrix_of(adapter, site, absorbed).to(X)
        V_star = values[site.key].to(X)
        _require_values(V_star, site.key, (len(X), len(W)))
        total = statistics.factorised(site.input, absorbed)
        solution = total.solution(total.cut(cut.rtol, cut.outliers))
        changes.append(Change(site, rewriting(W, V_star.T, X.T, solution, weight), absorbed))
    options = {"rewrite weight": float(weight), **vars(cut)}
    return engram_of(adapter, sites, changes, concept.name, options)


@exclusive
@torch.no_grad()
@takes(Read, Run)
def values_like(
    model: nn.Module, examples: Sequence[Example], like: Sequence[Example], layer: int, *, read: Read, run: Run
) -> dict[str, Float[Tensor, "n d_model"]]:
    """Outputs of a layer's `W_out` that make the residual stream after it what it is in other examples, for `rewrite`.

    To have one example answered as another is, give both the wanted answer: `("Where was A born?", "in Lima")` like
    `("Where was B born?", "in Lima")`, who was. The later the layer, the surer the answer. What earlier layers and
    other positions say stays as it is.

    Args:
        model: the model.
        examples: the target.
        like: for each example, the one to be like at its counted positions: the same number of them, in order.
        layer: the layer of `W_out`.

    Raises:
        ValueError: if the examples do not pair up, the model lacks the layer, or its `W_out` does not write into the
            residual stream as it is.
    """
    adapter = adapt_language(model)
    (site,) = adapter.sites("W_out", layer)
    encoded = encode_groups({"target": examples, "like": like}, adapter.encoder, read)
    counts = {group: [int(one.counts.sum()) for one in some] for group, some in encoded.items()}
    if counts["target"] != counts["like"]:
        raise ValueError(
            f"examples and like must pair up, with equal numbers of counted tokens: those of examples are "
            f"{counts['target']}, those of like {counts['like']}"
        )
    behind, written = f"blocks.{layer}.hook_resid_post", f"blocks.{layer}.hook_mlp_out"
    residual = {group: _read(adapter, some, behind, run) for group, some in encoded.items()}
    mine = _read(adapter, encoded["target"], written, run)
    X = with_ones(collect_rows(adapter, [site], {"target": encoded["target"]}, run)[site.input].X, True)
    own = X @ matrix_of(adapter, site, True).to(X).T
    if not torch.allclose(own, mine, rtol=1e-2, atol=1e-3 * float(own.abs().max())):
        raise ValueError(
            f"the output of {site.key} is not what {written} holds: {adapter.info.name!r} changes it before adding it"
        )
    return {site.key: own + residual["like"] - residual["target"]}


def _require_values(V_star: Tensor, key: str, shape: tuple[int, int]) -> None:
    if tuple(V_star.shape) != shape:
        raise ValueError(
            f"{key} has {shape[1]} outputs at each of {shape[0]} counted positions of the target: values must be "
            f"{list(shape)}, got {list(V_star.shape)}"
        )
    if not V_star.isfinite().all():
        raise ValueError(f"the values of {key} are not finite")


def _sites(adapter: LanguageAdapter, values: Mapping[str, Tensor]) -> list[Site]:
    known = {site.key: site for site in adapter.all_sites()}
    if unknown := [key for key in values if key not in known]:
        raise ValueError(f"{adapter.info.name!r} has no matrix {', '.join(unknown)}; the first are {list(known)[:3]}")
    if not values:
        raise ValueError("values must hold one or more matrices by key, got none")
    return [site for key, site in known.items() if key in values]


def _read(adapter: LanguageAdapter, examples: list[TokenExample], point: str, run: Run) -> Float[Tensor, "n d_model"]:
    """What a hook point holds at the counted positions, in float64, in the order of examples."""
    found: dict[int, Tensor] = {}
    for batch in batches({"": examples}, run.batch_size, run.progress, "reading"):
        activation = adapter.read(batch, point).double()
        for row, number in enumerate(batch.numbers.tolist()):
            found[number] = activation[row][batch.counts[row].to(activation.device)]
    return torch.cat([found[number] for number in sorted(found)])
