"""What do matrices write straight into the logits? `v^T y` of an output `y`, with the final norm's scale as it is.

`v = C (gain * (u_answer - u_other)) / scale`, with `u` the unembedding's rows and `C` the centring of a LayerNorm.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from engram_interp.concepts.batches import Batch
from engram_interp.models.language import LanguageAdapter
from engram_interp.models.sites import Site

logger = logging.getLogger("engram_interp")

OUTPUTS = {"W_O": "hook_attn_out", "W_out": "hook_mlp_out"}
"""The components that write into the residual stream, and what holds their output there."""
SCALE = "ln_final.hook_scale"
SAME = 1e-2
"""How far, as a share of its norm, what a layer adds to the residual stream may be from what its matrices put out."""


@dataclass(frozen=True)
class Written:
    """A matrix, and how its output at some positions becomes a difference of logits there: `v^T W x`.

    Attributes:
        site: which matrix.
        X: `[n d]`, its inputs, in float64.
        V: `[n d_model]`, in float64.
    """

    site: Site
    X: Float[Tensor, "n d"]
    V: Float[Tensor, "n d_model"]


@torch.no_grad()
def written(
    adapter: LanguageAdapter, sites: Sequence[Site], batch: Batch, answers: Int[Tensor, "n"], others: Int[Tensor, "n"]
) -> Iterator[Written]:
    """The matrices that write into the residual stream as they are, with what this does to the logits.

    A matrix is left out, and a message says so, if its output is changed before it is added (by a norm, a multiplier or
    a router).

    Args:
        adapter: the model.
        sites: matrices, of which those that write are taken.
        batch: the examples; its `counts` are the positions at which logits are compared.
        answers: `[n]`, the tokens whose logits count, at these positions.
        others: `[n]`, the tokens whose logits count against them.
    """
    writers = [site for site in sites if site.component in OUTPUTS and site.expert is None]
    if not writers:
        return
    inputs: dict[str, Tensor] = {}

    def record(name: str, activation: Tensor, _routed: Tensor | None = None) -> None:
        inputs[name] = _rows(activation, batch)

    adapter.run(batch, list(dict.fromkeys(site.input for site in writers)), record)
    streams = _streams(adapter, writers, batch)
    V = _directions(adapter, answers, others) / streams.get(SCALE, torch.ones(1, 1, dtype=torch.float64))
    changed = []
    for site in writers:
        X = inputs[site.input]
        if _adds(adapter, site, X, streams):
            yield Written(site, X, V)
        else:
            changed.append(site.key)
    if changed:
        logger.info("%s: what it puts out is changed before it reaches the residual stream", ", ".join(changed))


def _directions(
    adapter: LanguageAdapter, answers: Int[Tensor, "n"], others: Int[Tensor, "n"]
) -> Float[Tensor, "n d_model"]:
    """`C (gain * (u_answer - u_other))`."""
    W_U = adapter.W_U.detach()
    V = (W_U[answers.to(W_U.device)] - W_U[others.to(W_U.device)]).double().cpu()
    if adapter.final_gain is not None:
        V = V * adapter.final_gain.detach().to(V)
    return V - V.mean(1, keepdim=True) if adapter.final_norm.startswith("LN") else V


def _streams(adapter: LanguageAdapter, writers: Sequence[Site], batch: Batch) -> dict[str, Tensor]:
    """What the layers of these matrices read from the residual stream and add to it, and the final norm's scale."""
    known: Any = getattr(adapter.model, "hook_dict", {})
    names = ("hook_resid_pre", "hook_resid_post", *OUTPUTS.values())
    points = [f"blocks.{layer}.{name}" for layer in dict.fromkeys(site.layer for site in writers) for name in names]
    scale = [SCALE] if adapter.final_norm else []
    found = adapter.read_all(batch, [*(point for point in points if point in known), *scale])
    return {point: _rows(activation, batch) for point, activation in found.items()}


def _adds(adapter: LanguageAdapter, site: Site, X: Float[Tensor, "n d"], streams: dict[str, Tensor]) -> bool:
    """Whether a matrix's output is added to the residual stream as it is."""
    block = f"blocks.{site.layer}"
    own = X @ adapter.weight(site).detach().to(X).T
    if site.bias is not None:
        own = own + adapter.parameter(site.bias).detach().flatten().to(own)
    outputs = [streams[point] for name in OUTPUTS.values() if (point := f"{block}.{name}") in streams]
    added = streams[f"{block}.hook_resid_post"] - streams[f"{block}.hook_resid_pre"]
    mine = streams[f"{block}.{OUTPUTS[site.component]}"]
    return _close(own, mine, mine) and _close(sum(outputs, torch.zeros_like(added)), added, mine)


def _close(found: Tensor, wanted: Tensor, scale: Tensor) -> bool:
    return bool((found - wanted).norm() <= SAME * scale.norm())


def _rows(activation: Float[Tensor, "batch pos *d"], batch: Batch) -> Float[Tensor, "n d"]:
    """An activation at the positions that count, in float64."""
    return activation[batch.counts.to(activation.device)].flatten(1).double().cpu()
