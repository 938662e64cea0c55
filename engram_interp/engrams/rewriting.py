"""`W_new = (V* X+^T + W X- X-^T) (S+ + S-)^pinv`: chosen outputs for chosen inputs, the rest as it was (paper, Eq. 32).

Ablating (`V* = 0`) deletes a memory and injecting creates one; this updates it. In the directions that the data has,
`W_new = W + (V* - W X+) M X+^T S^pinv` with `S = S+ + S-`, `H = X+^T S^pinv X+` and `M = w (1 + (w - 1) H)^-1`, where
`w` is how much the target weighs: 1 in the paper. Without bound, `M = H^pinv` and the outputs are `V*` exactly: of one
input `k` that is ROME's rank-one update, `(v* - W k) (S^-1 k)^T / (k^T S^-1 k)` (Meng et al. 2022, Eq. 2).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from engram_interp.concepts.concept import (
    BATCH_SIZE,
    Concept,
    Example,
    TokenExample,
    batches,
    encode_groups,
    require_concept,
)
from engram_interp.engrams.engram import Engram
from engram_interp.engrams.extract import Change, absorbing_inputs, engram_of, matrix_of
from engram_interp.linalg.spectrum import Spectrum, spectrum
from engram_interp.models import Adapter, adapt
from engram_interp.models.exclusive import exclusive
from engram_interp.models.sites import Site
from engram_interp.statistics.collect import collect
from engram_interp.statistics.rows import collect_rows
from engram_interp.statistics.statistics import with_ones

Weight = float | int


def rewriting(
    W: Float[Tensor, "out d"],
    V_star: Float[Tensor, "out n"],
    X_plus: Float[Tensor, "d n"],
    kept: Spectrum,
    weight: Weight = 1.0,
) -> Float[Tensor, "out d"]:
    """`W_new - W` in float64, zero in directions that the data does not have (paper, Eq. 32).

    Args:
        W: the weight.
        V_star: what it should put out, a column an input.
        X_plus: these inputs.
        kept: the kept directions of `S = X+ X+^T + S-`.
        weight: of the target's error against the reference's; `math.inf` for outputs that are `V*` exactly, as far as
            the kept directions tell the inputs apart.

    Raises:
        ValueError: a weight that is not above 0.

    Example:
        >>> W, k = torch.eye(2), torch.tensor([[1.0], [0.0]])
        >>> kept = spectrum(k @ k.T + torch.diag(torch.tensor([1.0, 1.0])))
        >>> (W + rewriting(W, torch.tensor([[0.0], [3.0]]), k, kept, math.inf)).tolist()
        [[0.0, 0.0], [3.0, 1.0]]
    """
    if not weight > 0:
        raise ValueError(f"weight is how much the target counts against the reference, above 0; got {weight}")
    X = X_plus.to(kept.U)
    inverted = (kept.U.T @ X) / kept.lam[:, None]
    H = X.T @ kept.U @ inverted
    if math.isinf(weight):
        M = torch.linalg.pinv(H, hermitian=True, rtol=len(H) * 2.0**-23)
    else:
        M = weight * torch.linalg.inv(torch.eye(len(H)).to(H) + (weight - 1) * H)
    missed = V_star.to(kept.U) - W.to(kept.U) @ X
    return missed @ M @ inverted.T @ kept.U.T


@exclusive
def rewrite(
    model: nn.Module,
    concept: Concept,
    values: Mapping[str, Float[Tensor, "n out"]],
    *,
    weight: Weight = 1.0,
    rtol: float | int | None = None,
    absorb_bias: bool = True,
    batch_size: int = BATCH_SIZE,
    progress: bool | None = None,
) -> Engram:
    """The change that gives matrices chosen outputs at the target's counted positions: `.inject(model)` makes it.

    Args:
        model: the model.
        concept: the target's examples, which say where outputs are chosen, and the reference, which is to stay.
        values: by key, the outputs `V*` wanted, a row a counted position in the order of examples; `values_like` takes
            them from other examples. Each matrix is changed on the inputs that it has in the unedited model: where
            several are, the later ones meet other inputs than these.
        weight: how much the target counts against the reference; `math.inf` fits it exactly (ROME).
        rtol: the spectral cut; see `extract`.
        absorb_bias: see `extract`.
        batch_size: examples in a batch.
        progress: True or False shows or hides the bar; None shows it in a terminal and in a notebook.

    Raises:
        ValueError: a key that the model lacks, values of another shape or not finite, or a weight that is not above 0;
            see `collect`.

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
    adapter = adapt(model)
    sites = _sites(adapter, values)
    statistics = collect(
        model,
        concept,
        components={site.component for site in sites},
        layers={site.layer for site in sites if site.layer is not None} or None,
        batch_size=batch_size,
        progress=progress,
    )
    target = {"target": encode_groups(concept.sides, adapter.encoder)["target"]}
    rows = collect_rows(adapter, sites, target, batch_size, progress)
    absorbing = absorbing_inputs(adapter, None) if absorb_bias else set()
    changes = []
    for site in sites:
        absorbed = site.input in absorbing
        X = with_ones(rows[site.input].X, absorbed)
        W = matrix_of(adapter, site, absorbed).to(X)
        V_star = values[site.key].to(X)
        if V_star.shape != (len(X), len(W)):
            raise ValueError(
                f"{site.key} puts out {len(W)} numbers at each of {len(X)} counted positions of the target: values are "
                f"[{len(X)} {len(W)}], got {list(V_star.shape)}"
            )
        if not V_star.isfinite().all():
            raise ValueError(f"the values of {site.key} are not finite")
        kept = spectrum(statistics.total(site.input).matrix(absorbed).to(X), rtol)
        changes.append(Change(site, rewriting(W, V_star.T, X.T, kept, weight), absorbed))
    options = {"rewrite weight": float(weight), "rtol": rtol, "absorb_bias": absorb_bias}
    return engram_of(adapter, sites, changes, concept.name, options)


@exclusive
@torch.no_grad()
def values_like(
    model: nn.Module, examples: Sequence[Example], like: Sequence[Example], layer: int
) -> dict[str, Float[Tensor, "n d_model"]]:
    """Outputs of a layer's `W_out` that make the residual stream behind it what it is in other examples, for `rewrite`.

    Where an example should be answered as another is, both have the wanted answer: `("Where was A born?", "in Lima")`
    like `("Where was B born?", "in Lima")`, who was. The later the layer, the surer the answer; what earlier layers and
    other positions say stays as it is.

    Args:
        model: the model.
        examples: the target.
        like: of each, what it should be like at its counted positions: as many of them, in the same order.
        layer: which layer's `W_out`.

    Raises:
        ValueError: examples that do not go in pairs; a layer that the model lacks, or in which `W_out` does not write
            into the residual stream as it is.
    """
    adapter = adapt(model)
    (site,) = adapter.sites("W_out", layer)
    encoded = encode_groups({"target": examples, "like": like}, adapter.encoder)
    counts = {group: [int(one.counts.sum()) for one in some] for group, some in encoded.items()}
    if counts["target"] != counts["like"]:
        raise ValueError(
            f"each example needs one to be like, with as many counted tokens: the target's have {counts['target']}, "
            f"the others {counts['like']}"
        )
    behind, written = f"blocks.{layer}.hook_resid_post", f"blocks.{layer}.hook_mlp_out"
    residual = {group: _read(adapter, some, behind) for group, some in encoded.items()}
    mine = _read(adapter, encoded["target"], written)
    rows = collect_rows(adapter, [site], {"target": encoded["target"]}, BATCH_SIZE, False)[site.input]
    X = with_ones(rows.X, True)
    own = X @ matrix_of(adapter, site, True).to(X).T
    if not torch.allclose(own, mine, rtol=1e-2, atol=1e-3 * float(own.abs().max())):
        raise ValueError(
            f"what {site.key} puts out is not what {written} carries: {adapter.info.name!r} changes it before it is "
            f"added"
        )
    return {site.key: own + residual["like"] - residual["target"]}


def _sites(adapter: Adapter, values: Mapping[str, Tensor]) -> list[Site]:
    known = {site.key: site for site in adapter.all_sites()}
    if unknown := [key for key in values if key not in known]:
        raise ValueError(f"{adapter.info.name!r} has no matrix {', '.join(unknown)}; the first are {list(known)[:3]}")
    if not values:
        raise ValueError("values are of one or more matrices by key, got none")
    return [site for key, site in known.items() if key in values]


def _read(adapter: Adapter, examples: list[TokenExample], point: str) -> Float[Tensor, "n d_model"]:
    """What a hook point carries at the counted positions, in float64, in the order of examples."""
    found: dict[int, Tensor] = {}
    for batch in batches({"": examples}, BATCH_SIZE, False, ""):
        activation = adapter.read(batch, point).double()
        for row, number in enumerate(batch.numbers.tolist()):
            found[number] = activation[row][batch.counts[row].to(activation.device)]
    return torch.cat([found[number] for number in sorted(found)])
