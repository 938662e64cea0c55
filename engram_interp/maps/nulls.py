"""What would a map show of examples that own nothing of their own? Random sets of as many whole examples, resampled.

The engram of a set `r` is `W S_r S^pinv` with `S_r = X_r^T X_r`, so its size is that of `(X_r W^T)^T (X_r S^pinv)`:
from the rows of the inputs, with no forward pass and no factorisation of its own.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import TypeAlias

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from engram_interp.common.arguments import Layers, whole
from engram_interp.concepts.concept import REFERENCE, TARGET, Concept, TokenExample, encode_groups, require_concept
from engram_interp.engrams.extract import Part
from engram_interp.maps.quantities import head_moments
from engram_interp.models import Adapter, adapt
from engram_interp.models.sites import ATTENTION, Site, share, to_matrix
from engram_interp.statistics.collect import warn_of_few
from engram_interp.statistics.rows import Rows, collect_rows
from engram_interp.statistics.statistics import Statistics, full_precision

logger = logging.getLogger("engram_interp")

Sizes: TypeAlias = dict[str, Tensor]
"""Numbers of a matrix, then of its heads, `[... unit]`, by what they are."""

METRICS = {"wnorm": "", "fisher": "fisher_"}
"""The metrics, and how the quantities of each begin."""
MIN_DRAWS = 19
N_BOOTSTRAPS = 200
LEVEL = 0.95
ROUNDING = 1e-6
"""Sizes of random sets are made in float32: two that differ by less than this share are equal."""
CHUNK = 2**24
"""Numbers that are made at a time."""


@dataclass(frozen=True)
class Resampling:
    """The rows of every example, and sets of examples to take the engram of.

    Attributes:
        statistics: the target's and the reference's, from the rows.
        rows: by input.
        sets: `[set m]`, the examples of every set: the target's own, then random sets drawn without repetition, then
            bootstraps, drawn from the target with repetition.
    """

    statistics: Statistics
    rows: dict[str, Rows]
    sets: Int[Tensor, "set m"]

    @torch.no_grad()
    def excess(self, part: Part, sizes: Sizes) -> Sizes:
        """Of all sets, the sizes over their nulls, in either metric, `[set unit]`.

        Args:
            part: the matrix, and the directions of its input that are kept.
            sizes: of the target's own engram.
        """
        rows = self.rows[part.site.input]
        with full_precision():
            norms = set_norms(part, rows, rows_of_sets(rows, self.sets))
        offered = rows.offered[self.sets].sum(1).double()
        found = {}
        for (metric, prefix), norm in zip(METRICS.items(), ("weight_norm", "output_norm"), strict=True):
            # The target's expected size is n/N of the null's; another set's is as much more as it has positions.
            expected = sizes[f"{prefix}expected"] * sizes[norm] * (offered / offered[0])[:, None]
            found[metric] = share(norms[metric], expected)
        return found


def resampling(
    model: nn.Module,
    concept: Concept | Statistics,
    draws: int,
    seed: int,
    components: str | Collection[str] | None,
    layers: Layers,
    batch_size: int,
    progress: bool | None,
) -> Resampling:
    """One pass over a concept's examples that keeps their rows; see `localize` for the arguments.

    Raises:
        ValueError: fewer than 19 draws, too few for a p-value of `1 / (draws + 1) <= 0.05`; see `collect`.
        TypeError: something else than a concept.
    """
    draws, seed = whole(draws, "draws", at_least=MIN_DRAWS), whole(seed, "seed", at_least=0)
    if isinstance(concept, Statistics):
        raise TypeError('null="resampled" draws whole examples, which statistics do not hold: give the Concept itself')
    require_concept(concept)
    adapter = adapt(model)
    sites = adapter.sites(components, layers)
    encoded = encode_groups(concept.sides, adapter.encoder)
    n_target, n_examples = len(concept.target), len(concept.target) + len(concept.reference)
    if math.comb(n_examples, n_target) < MIN_DRAWS + 1:
        logger.warning(
            "%d of %d examples can be drawn in %d ways only, too few for a p-value of 0.05: give more reference "
            "examples", n_target, n_examples, math.comb(n_examples, n_target),
        )  # fmt: skip
    sets = sets_of_examples(n_target, n_examples, draws, seed)
    _announce(adapter, sites, encoded, sets, logging.INFO if progress is False else logging.WARNING)
    rows = collect_rows(adapter, sites, encoded, batch_size, progress)
    groups = {
        TARGET: {name: found.moment(0, n_target) for name, found in rows.items()},
        REFERENCE: {name: found.moment(n_target, n_examples) for name, found in rows.items()},
    }
    statistics = Statistics(adapter.info, tuple(site.key for site in sites), groups, concept.name)
    n_rows = {name: len(found.X) for name, found in rows.items()}
    warn_of_few(n_rows, adapter.widths(rows), sum(statistics.counts.values()))
    return Resampling(statistics, rows, sets)


def sets_of_examples(n_target: int, n_examples: int, draws: int, seed: int) -> Int[Tensor, "set m"]:
    """The target (the first examples), `draws` random sets of as many of all examples, and bootstraps of the target."""
    generator = torch.Generator().manual_seed(seed)
    random = torch.stack([torch.randperm(n_examples, generator=generator)[:n_target] for _ in range(draws)])
    bootstraps = torch.randint(n_target, (N_BOOTSTRAPS, n_target), generator=generator)
    # In order, so that the same examples have the same size, to the last bit.
    return torch.cat([torch.arange(n_target)[None], random, bootstraps]).sort(dim=1).values


def rows_of_sets(rows: Rows, sets: Int[Tensor, "set m"]) -> Int[Tensor, "set n"]:
    """The places of every set's rows, filled up with `len(rows.X)`, where a row of zeros is to stand."""
    starts = torch.searchsorted(rows.example, torch.arange(len(rows.offered) + 1))
    lengths = (starts[1:] - starts[:-1])[sets]
    flat = lengths.flatten()
    places = torch.arange(int(flat.sum())) + (starts[sets.flatten()] - flat.cumsum(0) + flat).repeat_interleave(flat)
    return pad_sequence(list(places.split(lengths.sum(1).tolist())), batch_first=True, padding_value=len(rows.X))


def significance(sizes: dict[str, Sizes], drawn: dict[str, Sizes], n_target: int) -> dict[str, Sizes]:
    """The sizes with what random sets say of them; p-values have one family of all matrices, and one of all heads.

    Args:
        sizes: by key.
        drawn: the excess of all sets by key; see `Resampling.excess`.
        n_target: examples of the target.
    """
    found = {key: dict(values) for key, values in sizes.items()}
    for metric, prefix in METRICS.items():
        p_values: dict[str, list[Tensor]] = {}
        for units in (slice(1), slice(1, None)):
            family = {key: values[metric][:-N_BOOTSTRAPS, units] for key, values in drawn.items()}
            joined = family_p_values(torch.cat(list(family.values()), dim=1))
            for key, p in zip(family, joined.split([values.shape[1] for values in family.values()]), strict=True):
                p_values.setdefault(key, []).append(p)
        for key, values in drawn.items():
            # Noise puts random sets above the closed form too, so it is they that the target is compared with; where
            # none of them reached an expert at all, the closed form remains.
            noise = values[metric][1:-N_BOOTSTRAPS].mean(0)
            noise = noise.where(noise > 0, 1.0)
            excess = share(sizes[key][f"{prefix}excess"], noise)
            low, high = interval(excess, share(values[metric][-N_BOOTSTRAPS:], noise))
            if n_target == 1:  # one example says nothing of how others would vary
                low, high = torch.full_like(low, torch.nan), torch.full_like(high, torch.nan)
            found[key] |= {
                f"{prefix}expected": sizes[key][f"{prefix}expected"] * noise,
                f"{prefix}excess": excess,
                f"{prefix}p_value": torch.cat(p_values[key]),
                f"{prefix}low": low,
                f"{prefix}high": high,
            }
    return found


def set_norms(part: Part, rows: Rows, index: Int[Tensor, "set n"]) -> dict[str, Float[Tensor, "set unit"]]:
    """Norms of the engrams of all sets, of the matrix and then of its heads, in either metric.

    Args:
        part: the matrix, and the directions of its input that are kept.
        rows: of its input.
        index: every set's rows; see `rows_of_sets`.
    """
    U, lam = part.data.kept.U.float(), part.data.kept.lam.float()
    X = nn.functional.pad(rows.X.float(), (0, int(part.data.absorbed)), value=1.0)
    X = nn.functional.pad(X, (0, 0, 0, 1))
    Y = X @ (part.dW if part.n_heads else _triangular(part.dW)).float().T
    whitened = X @ U / lam.sqrt()
    owned = part.weight((whitened / lam.sqrt()) @ U.T)
    if part.site.component != "W_O":
        return {
            "wnorm": block_norms(Y, owned, index, part.n_heads),
            "fisher": block_norms(Y, whitened, index, part.n_heads),
        }
    fisher = block_norms(Y, whitened, index, 0)
    fisher_heads = block_norms(_by_own_moment(part, owned), Y, index, part.n_heads)[:, 1:]
    return {"wnorm": block_norms(owned, Y, index, part.n_heads), "fisher": torch.cat([fisher, fisher_heads], dim=1)}


def block_norms(
    A: Float[Tensor, "n a"], B: Float[Tensor, "n b"], index: Int[Tensor, "set m"], n_blocks: int
) -> Float[Tensor, "set unit"]:
    """`|A_r^T B_r|_F` of every set of rows, of the whole and then by blocks of the columns of `A`.

    Args:
        A: a row of zeros at the end.
        B: likewise.
        index: every set's rows.
        n_blocks: how many blocks; 0 for the whole alone.
    """
    size = index.shape[1] * (A.shape[1] + B.shape[1]) + A.shape[1] * B.shape[1]
    found = []
    for chunk in index.to(A.device).split(max(1, CHUNK // size)):
        a, b = (one.index_select(0, chunk.flatten()).unflatten(0, chunk.shape) for one in (A, B))
        product = torch.bmm(a.mT, b)
        blocks = torch.linalg.vector_norm(product.view(len(chunk), max(n_blocks, 1), -1), dim=-1)
        found.append(blocks.double().cpu())
    norms = torch.cat(found)
    return torch.cat([norms.norm(dim=1, keepdim=True), norms], dim=1) if n_blocks else norms


def family_p_values(excess: Float[Tensor, "set unit"]) -> Float[Tensor, "unit"]:
    """How often the largest of all units, over random sets, is as far out as each unit of the target's (the first set).

    Units differ in how much they vary, so each is measured in its own standard deviations from its own mean; the
    largest of all is what a family-wise error rate is about (Westfall and Young's single-step maxT). The target counts
    as one of the sets, which makes the level exact.
    """
    if not excess.shape[1]:
        return excess[0]
    mean, std = excess.mean(0), excess.std(0)
    # A unit that varies by rounding alone is never the largest, and rounding breaks no tie.
    z = ((excess - mean) / std).where(std > 100 * ROUNDING * mean, -torch.inf)
    tie = (ROUNDING * mean / std).nan_to_num(0.0, posinf=0.0)
    return (z.amax(1)[:, None] >= z[0] - tie).double().mean(0)


def interval(
    excess: Float[Tensor, "unit"], bootstraps: Float[Tensor, "set unit"]
) -> tuple[Float[Tensor, "unit"], Float[Tensor, "unit"]]:
    """The ends of a 95 % interval, from how `excess` varies over bootstraps of the target's examples.

    An example that is drawn twice counts four times in a square, which moves all bootstraps up; squares are therefore
    taken from their own mean.
    """
    squares = bootstraps.square()
    tail = (1 - LEVEL) / 2
    low, high = (squares - squares.mean(0)).quantile(torch.tensor([tail, 1 - tail], dtype=squares.dtype), dim=0)
    return (excess.square() + low).clamp(min=0).sqrt(), (excess.square() + high).clamp(min=0).sqrt()


def _triangular(W: Float[Tensor, "out d"]) -> Float[Tensor, "rows d"]:
    """`R` with `R^T R = W^T W`, which has no more rows than columns: its products have the norms of those with `W`."""
    return W if len(W) <= W.shape[1] else torch.linalg.qr(W, mode="r").R


def _by_own_moment(part: Part, owned: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Every head's columns times a square root of the second moment of its own part of the input."""
    lam, V = torch.linalg.eigh(head_moments(part))
    root = (V * lam.clamp(min=0).sqrt()[:, None]).to(owned)
    by_head = rearrange(owned, "n (head x) -> head n x", head=part.n_heads) @ root
    return rearrange(by_head, "head n x -> n (head x)")


def _announce(
    adapter: Adapter, sites: list[Site], encoded: dict[str, list[TokenExample]], sets: Tensor, level: int
) -> None:
    """Say what memory and time resampling takes."""
    counted = [int(example.counts.sum()) for examples in encoded.values() for example in examples]
    widths = adapter.widths({site.input for site in sites})
    weights = {site: adapter.parameter(site.key) for site in sites}
    size = next(iter(weights.values())).element_size()
    # Beside all rows, those of one input are there in float32, and times a matrix and two inverses.
    needed = sum(counted) * (sum(widths.values()) * size + 5 * max(widths.values()) * 4)
    rows_of_a_set = sum(counted) * sets.shape[1] / len(counted)
    work = 0.0
    for site, weight in weights.items():
        out, d = to_matrix(site.component, weight).shape
        n_products = 3 if site.component == "W_O" else 2
        columns = out if site.component in ATTENTION else min(out, d)
        work += len(sets) * n_products * rows_of_a_set * columns * d + sum(counted) * d * (columns + 2 * d)
    rate = _multiply_adds_a_second(
        max(1, round(rows_of_a_set)), max(widths.values()), next(iter(weights.values())).device
    )
    seconds = 2 * work / rate  # what is not multiplication takes about as long again
    logger.log(
        level,
        "the resampled null takes %.0f MB for rows of inputs, and about %.0f s beside the forward pass: %d sets of %d "
        "examples", needed / 1e6, seconds, len(sets), sets.shape[1],
    )  # fmt: skip


def _multiply_adds_a_second(n: int, d: int, device: torch.device) -> float:
    """As measured on a few sets of `n` rows: the fastest of five, since the first warms up and others are disturbed."""
    A = torch.randn(n, d, generator=torch.Generator().manual_seed(0)).to(device)
    index = torch.arange(n).repeat(4, 1)
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        block_norms(A, A, index, 0)
        seconds.append(time.perf_counter() - began)
    return index.numel() * d * d / min(seconds)
