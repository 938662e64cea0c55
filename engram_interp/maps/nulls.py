"""What would a map show of examples that own nothing of their own? Random sets of equal size, resampled.

The engram of a set `r` is `W S_r S^pinv` with `S_r = X_r^T X_r`, so its size follows from the rows of the inputs, with
no forward pass and no factorisation of its own: see `set_norms`.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from engram_interp.common.arguments import whole
from engram_interp.concepts.batches import encode_concept
from engram_interp.concepts.concept import REFERENCE, TARGET, Concept, TokenExample, require_concept
from engram_interp.engrams.parts import Part, Prepared
from engram_interp.engrams.weights import base_of
from engram_interp.linalg.filters import Function, filter_name, soft, values_of
from engram_interp.linalg.intervals import family_p_values, interval
from engram_interp.linalg.norms import share
from engram_interp.maps.quantities import METRICS, Metric, Norms, Sizes
from engram_interp.maps.set_norms import few_rows, set_norms
from engram_interp.models import Adapter, adapt
from engram_interp.models.components import ATTENTION, to_matrix
from engram_interp.models.sites import Input, Site
from engram_interp.options import Run, Solve, Which
from engram_interp.statistics.moments import full_precision
from engram_interp.statistics.passes import warn_of_few
from engram_interp.statistics.rows import Rows, collect_rows
from engram_interp.statistics.statistics import Statistics

logger = logging.getLogger("engram_interp")

MIN_DRAWS = 19
"""With fewer sets no p-value is 0.05 or less."""
N_BOOTSTRAPS = 200


@dataclass(frozen=True)
class Compared:
    """The sizes of a matrix and its heads in one metric, in units of `(n/N) |dW Pi|`, for the target and for sets.

    A set's unit grows with the number of its positions.

    Attributes:
        unit: the unit itself, as a share of the matrix's size.
        target: the target's size, from its moments in float64.
        sets: the size of every set, from its rows: the target, random sets, bootstraps of the target.
        fallback: the mean of random sets to assume if all of them are zero.
    """

    unit: Float[Tensor, "unit"]
    target: Float[Tensor, "unit"]
    sets: Float[Tensor, "set unit"]
    fallback: float

    @property
    def random(self) -> Float[Tensor, "set unit"]:
        """The target and the random sets."""
        return self.sets[:-N_BOOTSTRAPS]

    @property
    def noise(self) -> Float[Tensor, "unit"]:
        """The mean of the random sets. Noise raises it above 1, so the target is compared with it and not with 1."""
        mean = self.random[1:].mean(0)
        return mean.where(mean > 0, self.fallback)

    def columns(self, n_target: int) -> dict[str, Tensor]:
        """Expected size, excess, and the ends of its interval, by kind. One example says nothing about others."""
        noise = self.noise
        excess = share(self.target, noise)
        low, high = interval(excess, share(self.sets[-N_BOOTSTRAPS:], noise))
        if n_target == 1:
            low, high = torch.full_like(low, torch.nan), torch.full_like(high, torch.nan)
        return {"expected": self.unit * noise, "excess": excess, "low": low, "high": high}


@dataclass(frozen=True)
class Resampling:
    """The rows of every example, and the sets of examples whose engrams are compared.

    Attributes:
        rows: by input.
        sets: `[set m]`, the examples of every set: the target's own, then random sets drawn without repetition, then
            bootstraps, drawn from the target with repetition.
    """

    rows: dict[str, Rows]
    sets: Int[Tensor, "set m"]

    @torch.no_grad()
    def compared(
        self, parts: Sequence[Part], sizes: Mapping[str, Sizes], target_share: float
    ) -> dict[str, dict[Metric, Compared]]:
        """The sizes of the target's and all sets' engrams, by key and metric.

        Args:
            parts: matrices that read one input, and the target's engrams.
            sizes: what `sizes_of` says of them, by key.
            target_share: `n/N`, the target's share of the positions that count.
        """
        rows = self.rows[parts[0].site.input]
        with full_precision():
            norms = set_norms(parts, rows, rows_of_sets(rows, self.sets))
        offered = rows.offered[self.sets].sum(1).double()
        growth = (offered / offered[0])[:, None]
        return {
            part.site.key: _compared(part, sizes[part.site.key], of_sets, growth, target_share)
            for part, of_sets in zip(parts, norms, strict=True)
        }


def _compared(
    part: Part, sizes: Sizes, norms: Norms, growth: Float[Tensor, "set 1"], target_share: float
) -> dict[Metric, Compared]:
    """The sizes of one matrix; `growth` is how many positions a set has for each of the target's."""
    is_soft = part.data.is_soft
    null = None if is_soft else part.data.null(part.dW, target_share, soft)
    found = {}
    for metric in METRICS:
        whole = sizes[metric.whole]
        # Without a filter, the unit is the analytic null's size, which is at hand.
        unit = sizes[metric.column("expected")] if null is None else share(metric.norms(part, null).cpu(), whole)
        of_sets = share(norms[metric], unit * whole * growth)
        found[metric] = Compared(unit, share(sizes[metric.name], unit), of_sets, 1.0 if is_soft else math.nan)
    return found


def resampling(
    model: nn.Module, concept: Concept | Statistics, draws: int, seed: int, which: Which, solve: Solve, run: Run
) -> tuple[Prepared, Resampling]:
    """One pass over a concept's examples that keeps their rows; see `localize` for the arguments.

    Raises:
        ValueError: if `draws` is below 19, or the filter takes something of a direction that the target does not own;
            see also `collect`.
        TypeError: if `concept` is not a `Concept`.
    """
    draws, seed = whole(draws, "draws", at_least=MIN_DRAWS), whole(seed, "seed", at_least=0)
    if isinstance(concept, Statistics):
        raise TypeError('null="resampled" draws whole examples, which statistics do not hold: give the Concept itself')
    require_concept(concept)
    _require_nothing_of_nothing(solve.filter)
    adapter = adapt(model)
    sites = adapter.sites(which.components, which.layers)
    base_of(adapter, solve.delta_from, sites)
    encoded = encode_concept(concept, adapter.encoder)
    n_target, n_examples = len(concept.target), len(concept.target) + len(concept.reference)
    _warn_of_few_sets(n_target, n_examples)
    sets = sets_of_examples(n_target, n_examples, draws, seed)
    _announce(adapter, sites, encoded, sets, logging.INFO if run.progress is False else logging.WARNING)
    rows = collect_rows(adapter, sites, encoded, run)
    groups = {
        TARGET: {name: found.moment(0, n_target) for name, found in rows.items()},
        REFERENCE: {name: found.moment(n_target, n_examples) for name, found in rows.items()},
    }
    keys = tuple(site.key for site in sites)
    statistics = Statistics(adapter.info, keys, groups, concept.name, concept.read.in_words)
    n_rows = {name: len(found.X) for name, found in rows.items()}
    warn_of_few(n_rows, adapter.widths(rows), sum(statistics.counts.values()))
    return Prepared(adapter, statistics, sites), Resampling(rows, sets)


def sets_of_examples(n_target: int, n_examples: int, draws: int, seed: int) -> Int[Tensor, "set m"]:
    """The target (the first examples), `draws` random sets of the same size, and bootstraps of the target."""
    generator = torch.Generator().manual_seed(seed)
    random = torch.stack([torch.randperm(n_examples, generator=generator)[:n_target] for _ in range(draws)])
    bootstraps = torch.randint(n_target, (N_BOOTSTRAPS, n_target), generator=generator)
    # Sorted, so that the same examples have the same size to the last bit.
    return torch.cat([torch.arange(n_target)[None], random, bootstraps]).sort(dim=1).values


def rows_of_sets(rows: Rows, sets: Int[Tensor, "set m"]) -> Int[Tensor, "set n"]:
    """The places of every set's rows, padded with `len(rows.X)`, the place of a row of zeros."""
    starts = torch.searchsorted(rows.example, torch.arange(len(rows.offered) + 1))
    lengths = (starts[1:] - starts[:-1])[sets]
    flat = lengths.flatten()
    places = torch.arange(int(flat.sum())) + (starts[sets.flatten()] - flat.cumsum(0) + flat).repeat_interleave(flat)
    return pad_sequence(list(places.split(lengths.sum(1).tolist())), batch_first=True, padding_value=len(rows.X))


def significance(sizes: dict[str, Sizes], drawn: dict[str, dict[Metric, Compared]], n_target: int) -> dict[str, Sizes]:
    """The sizes with what random sets say of them. All matrices are one family of p-values, and all heads are another.

    Args:
        sizes: by key.
        drawn: the sizes of the target and all sets, by key and metric.
        n_target: how many examples the target has.
    """
    found = {key: dict(values) for key, values in sizes.items()}
    for metric in METRICS:
        compared = {key: values[metric] for key, values in drawn.items()}
        p_values = _family_wise({key: one.random for key, one in compared.items()})
        for key, one in compared.items():
            columns = {**one.columns(n_target), "p_value": p_values[key]}
            found[key] |= {metric.column(kind): values for kind, values in columns.items()}
    return found


def _family_wise(sets: dict[str, Float[Tensor, "set unit"]]) -> dict[str, Float[Tensor, "unit"]]:
    """p-values by key: the first unit of each is a matrix, the others are its heads."""
    found: dict[str, list[Tensor]] = {key: [] for key in sets}
    for units in (slice(1), slice(1, None)):
        family = [values[:, units] for values in sets.values()]
        joined = family_p_values(torch.cat(family, dim=1))
        for key, p in zip(found, joined.split([values.shape[1] for values in family]), strict=True):
            found[key].append(p)
    return {key: torch.cat(p) for key, p in found.items()}


def _require_nothing_of_nothing(g: Function) -> None:
    taken = float(values_of(g, torch.zeros(1, dtype=torch.float64)))
    if taken:
        raise ValueError(
            f"the filter {filter_name(g)} takes {taken:g} of a direction that the target does not own: a resampled "
            f'null needs a filter with g(0) = 0. null="analytic" takes any'
        )


def _warn_of_few_sets(n_target: int, n_examples: int) -> None:
    if (n_sets := math.comb(n_examples, n_target)) < MIN_DRAWS + 1:
        logger.warning(
            "there are only %d sets of %d of the %d examples, too few for a p-value of 0.05: give more reference "
            "examples", n_sets, n_target, n_examples,
        )  # fmt: skip


def _announce(
    adapter: Adapter, sites: list[Site], encoded: dict[str, list[TokenExample]], sets: Tensor, level: int
) -> None:
    """Log the memory and time that resampling takes."""
    counted = [int(example.counts.sum()) for examples in encoded.values() for example in examples]
    widths = adapter.widths({site.input for site in sites})
    weights = {site: adapter.parameter(site.key) for site in sites}
    size = next(iter(weights.values())).element_size()
    outs = {name: sum(some) for name, some in _outputs(weights).items()}
    # Beside all rows, those of one input are held in float32 as they are, whitened, solved for, and times each matrix.
    of_one = max(3 * widths[name] + some for name, some in outs.items())
    needed = sum(counted) * (sum(widths.values()) * size + of_one * 4)
    rows_of_a_set = sum(counted) * sets.shape[1] / len(counted)
    m = max(1, round(rows_of_a_set))
    work = 0.0
    for name, some in outs.items():
        d = widths[name]
        work += len(sets) * _work(m, d, some) + sum(counted) * d * (some + 2 * d)
    rate = _multiply_adds_a_second(m, max(widths.values()), next(iter(weights.values())).device)
    seconds = 2 * work / rate  # everything else takes about as long again
    logger.log(
        level,
        "the resampled null takes %.0f MB for rows of inputs, and about %.0f s beside the forward pass: %d sets of %d "
        "examples", needed / 1e6, seconds, len(sets), sets.shape[1],
    )  # fmt: skip


def _outputs(weights: Mapping[Site, Tensor]) -> dict[Input, list[int]]:
    """The outputs of every input's matrices; a matrix without heads is made no taller than wide."""
    found: dict[Input, list[int]] = {}
    for site, weight in weights.items():
        out, d = to_matrix(site.component, weight).shape
        found.setdefault(site.input, []).append(out if site.component in ATTENTION else min(out, d))
    return found


def _work(m: int, d: int, outs: int) -> int:
    """Multiply-adds of a set of `m` rows; see `few_rows`."""
    return 2 * m * m * (d + outs) if few_rows(m, d, outs) else d * d * (m + 2 * outs)


def _multiply_adds_a_second(n: int, d: int, device: torch.device) -> float:
    """Measured on a few sets of `n` rows: the fastest of five, since the first warms up and others are disturbed."""
    A = torch.randn(16, n, d, generator=torch.Generator().manual_seed(0)).to(device)
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        (A @ A.mT).sum().item()
        seconds.append(time.perf_counter() - began)
    return 16 * n * n * d / min(seconds)
