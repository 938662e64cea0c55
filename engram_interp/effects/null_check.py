"""May weights change for free in directions that the data do not have? Perturb them there, and compare the logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn

from engram_interp.common.arguments import Number, number
from engram_interp.concepts.batches import batches, encode_groups
from engram_interp.concepts.concept import Example, TokenExample
from engram_interp.engrams.engram import Engram
from engram_interp.engrams.extract import weight_norms
from engram_interp.models import LanguageAdapter, adapt_language
from engram_interp.models.exclusive import exclusive
from engram_interp.models.sites import Site
from engram_interp.options import Run, Which, takes
from engram_interp.statistics.rows import Rows, collect_rows

THROUGH_NULL, ELSEWHERE = "through the null of the data", "elsewhere"


@exclusive
@torch.no_grad()
@takes(Which, Run)
def null_check(
    model: nn.Module, examples: Sequence[Example], *, size: Number = 1.0, seed: int = 0, which: Which, run: Run
) -> pd.DataFrame:
    """Whether weights may change freely in directions that the data do not have, judged by the logits on these data.

    All matrices are perturbed at once, by random matrices in directions that their inputs have at no position of the
    examples (prompts and BOS included, since answers depend on them), and then by matrices of the same size in
    directions that they have. An expert that no position reaches stays as it is. An input has such directions only if
    there are fewer positions than dimensions.

    Args:
        model: a `HookedTransformer` or `TransformerBridge`. It is left as it was.
        examples: as `Concept` takes them.
        size: the size of a perturbation, as a share of its matrix's norm.
        seed: of the random matrices.

    Returns:
        A row for each perturbation: `matrices` and `directions` perturbed (the mean over matrices), `largest_change`
        and `mean_change` of a logit, `answers_changed`, the share of positions whose argmax changes, and
        `largest_logit` of the unperturbed model, to judge rounding by.

    Raises:
        ValueError: if the examples have every direction, weights are in half precision (whose rounding leaves the
            null), or `size` is 0 or less.

    Example:
        >>> from engram_interp import testbed
        >>> found = null_check(testbed.load("full"), ["Where was Petra Dorlund born?"])
        >>> bool(found.at["through the null of the data", "largest_change"] < 1e-3)
        True
    """
    if not (size := number(size, "size")) > 0:
        raise ValueError(f"size must be above 0, as a share of each matrix's norm; got {size}")
    adapter = adapt_language(model)
    sites = adapter.sites(which.components, which.layers)
    _require_full_precision(adapter, sites)
    encoded = encode_groups({"examples": examples}, adapter.encoder)
    everywhere = {group: [_everywhere(one) for one in found] for group, found in encoded.items()}
    bases = {name: _row_space(found) for name, found in collect_rows(adapter, sites, everywhere, run).items()}
    reached = [site for site in sites if 0 < bases[site.input].shape[1] < bases[site.input].shape[0]]
    if not reached:
        n_rows = sum(int(one.counts.sum()) for found in everywhere.values() for one in found)
        raise ValueError(
            f"{n_rows} positions have every direction of every input: give fewer than an input has dimensions"
        )
    before = _logits(adapter, everywhere, run)
    table = {}
    for name, through in ((THROUGH_NULL, True), (ELSEWHERE, False)):
        with _noise(adapter, reached, bases, through, size, seed).injected(model):
            after = _logits(adapter, everywhere, run)
        ranks = [bases[site.input].shape for site in reached]
        directions = sum(d - rank if through else rank for d, rank in ranks) / len(ranks)
        table[name] = {"matrices": len(reached), "directions": directions, **_changes(before, after)}
    return pd.DataFrame.from_dict(table, orient="index")


def _require_full_precision(adapter: LanguageAdapter, sites: Sequence[Site]) -> None:
    full = (torch.float32, torch.float64)
    if coarse := [site.key for site in sites if adapter.parameter(site.path).dtype not in full]:
        raise ValueError(f"{coarse[0]} is in half precision, whose rounding leaves the null: use float32")


def _changes(before: Float[Tensor, "n d_vocab"], after: Float[Tensor, "n d_vocab"]) -> dict[str, float]:
    return {
        "largest_change": (after - before).abs().max().item(),
        "mean_change": (after - before).abs().mean().item(),
        "answers_changed": (after.argmax(-1) != before.argmax(-1)).double().mean().item(),
        "largest_logit": before.abs().max().item(),
    }


def _everywhere(example: TokenExample) -> TokenExample:
    return replace(example, counts=torch.ones_like(example.counts))


def _row_space(rows: Rows) -> Float[Tensor, "d rank"]:
    """An orthonormal basis of the directions that an input has, in float64."""
    _, singular, directions = torch.linalg.svd(rows.X.double(), full_matrices=False)
    floor = max(rows.X.shape) * torch.finfo(torch.float64).eps * singular[:1].sum()
    return directions[singular > floor].T


def _logits(adapter: LanguageAdapter, encoded: dict[str, list[TokenExample]], run: Run) -> Float[Tensor, "n d_vocab"]:
    found = [
        adapter.unembed(adapter.final(batch, at=batch.counts)).double().cpu()
        for batch in batches(encoded, run.batch_size, run.progress, "logits")
    ]
    return torch.cat(found)


def _noise(
    adapter: LanguageAdapter,
    sites: Sequence[Site],
    bases: dict[str, Float[Tensor, "d rank"]],
    through_null: bool,
    size: float | int,
    seed: int,
) -> Engram:
    """Random matrices in directions that inputs lack, or in those that they have, each of its matrix's size."""
    generator = torch.Generator().manual_seed(seed)
    tensors, norms = {}, weight_norms(adapter, sites)
    for site in sites:
        parameter, V = adapter.parameter(site.path), bases[site.input]
        R = torch.randn(parameter.numel() // len(V), len(V), generator=generator, dtype=torch.float64).to(V.device)
        inside = R @ V @ V.T
        chosen = R - inside if through_null else inside
        scaled = chosen * (size * norms[site.path].norm().to(V.device) / chosen.norm())
        tensors[site.path] = site.layout.to_parameter(scaled, like=parameter).to(parameter)
    return Engram(tensors, norms, adapter.info, name="noise")
