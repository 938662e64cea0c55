"""What does it take to compare a target with sets of examples? One pass over all examples, which keeps their rows."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor, nn

from engram_interp.common.arguments import whole
from engram_interp.concepts.batches import Examples, n_counted
from engram_interp.concepts.concept import REFERENCE, TARGET, Concept, require_concept
from engram_interp.concepts.memories import Groups, Memories, memories_of
from engram_interp.engrams.parts import Prepared
from engram_interp.engrams.weights import base_of
from engram_interp.linalg.filters import Function, filter_name, values_of
from engram_interp.maps.compared_with import RESAMPLED
from engram_interp.maps.known import warn_if_unknown
from engram_interp.maps.null_sets import (
    MIN_DRAWS,
    N_BOOTSTRAPS,
    NullSets,
    random_sets,
    sibling_sets,
    warn_of_few_sets,
)
from engram_interp.maps.reliance import set_products
from engram_interp.maps.set_norms import few_rows
from engram_interp.models import Adapter, adapt
from engram_interp.models.sites import Input, Site
from engram_interp.options import Compare, Run, Solve, Which
from engram_interp.statistics.passes import warn_of_few
from engram_interp.statistics.rows import collect_rows
from engram_interp.statistics.statistics import Statistics

logger = logging.getLogger("engram_interp")

LARGE, LONG = 1e9, 30.0
"""Bytes and seconds that a warning is about."""
TOO_LARGE = 2e9
"""More bytes than this are kept only if somebody asks for them."""


def with_null(
    model: nn.Module,
    concept: Concept | Statistics,
    compare: Compare,
    which: Which,
    solve: Solve,
    run: Run,
) -> tuple[Prepared, NullSets]:
    """One pass over a concept's examples that keeps their rows; see `localize` for the arguments.

    Raises:
        ValueError: if `draws` is below 19, the filter takes something of a direction that the target does not own, or
            there are no memories to compare with; see also `collect`.
        TypeError: if `concept` is not a `Concept`.
    """
    null, groups = str(compare.null), compare.groups
    draws, seed = whole(compare.draws, "draws", at_least=MIN_DRAWS), whole(compare.seed, "seed", at_least=0)
    if isinstance(concept, Statistics):
        raise TypeError(f'null="{null}" draws whole examples, which statistics do not hold: give the Concept itself')
    require_concept(concept)
    _require_nothing_of_nothing(solve.filter)
    adapter = adapt(model)
    adapter.look(concept)
    sites = adapter.sites(which.components, which.layers)
    base_of(adapter, solve.delta_from, sites)
    encoded = adapter.encode_concept(concept)
    sets, memories = _sets(concept, null, groups, draws, seed)
    n_target, n_examples = len(concept.target), len(concept.target) + len(concept.reference)
    _announce(adapter, sites, encoded, sets, null, quietly=run.progress is False)
    if memories is not None:
        siblings = [encoded[REFERENCE][i - n_target] for some in memories.siblings for i in some]
        if concept.is_text:
            warn_if_unknown(adapter, encoded[TARGET], siblings, run)
    products = {}
    if compare.gradient and memories is not None:
        products = set_products(adapter, sites, encoded, sets, memories, run)
    rows = collect_rows(adapter, sites, encoded, run)
    sites = [site for site in adapter.reached(sites, which) if site.input in rows]
    of_sides = {
        TARGET: {name: found.moment(0, n_target) for name, found in rows.items()},
        REFERENCE: {name: found.moment(n_target, n_examples) for name, found in rows.items()},
    }
    keys = tuple(site.key for site in sites)
    statistics = Statistics(adapter.info, keys, of_sides, concept.name, concept.in_words, reads=adapter.reads)
    n_rows = {name: len(found.X) for name, found in rows.items()}
    warn_of_few(n_rows, adapter.widths(rows), sum(statistics.counts.values()))
    return Prepared(adapter, statistics, sites), NullSets(rows, sets, memories, products)


def is_too_large(model: nn.Module, concept: Concept | Statistics, which: Which) -> bool:
    """Whether rows would take too much memory to keep them unasked, which can be so of pictures; a warning says so."""
    if isinstance(concept, Statistics) or concept.is_text:
        return False
    adapter = adapt(model)
    adapter.look(concept)
    sites = adapter.sites(which.components, which.layers)
    needed = _row_bytes(adapter, sites, adapter.encode_concept(concept))
    if needed > TOO_LARGE:
        logger.warning(
            "the map is compared with the analytic null: other classes would take %.1f GB for the rows of all inputs. "
            'null="siblings" does it all the same; components=... leaves large inputs out', needed / 1e9,
        )  # fmt: skip
    return needed > TOO_LARGE


def _row_bytes(adapter: Adapter, sites: Sequence[Site], encoded: Mapping[str, Examples]) -> int:
    """How much memory the rows of all inputs take."""
    widths = adapter.widths({site.input for site in sites})
    size = adapter.parameter(sites[0].path).element_size()
    return sum(n * widths[name] for name, n in _n_rows(adapter, widths, encoded).items()) * size


def _n_rows(adapter: Adapter, names: Collection[str], encoded: Mapping[str, Examples]) -> dict[str, int]:
    """How many rows each input has, over all examples."""
    if None not in (known := [n_counted(examples) for examples in encoded.values()]):
        return dict.fromkeys(names, sum(n for n in known if n is not None))
    n_examples = sum(map(len, encoded.values()))
    return {name: n_examples * adapter.rows_of(name) for name in names}


def _sets(
    concept: Concept, null: str, groups: Groups | None, draws: int, seed: int
) -> tuple[list[Tensor], Memories | None]:
    """The sets of examples that are compared, and the memories that they are made of, if they are."""
    n_target, n_examples = len(concept.target), len(concept.target) + len(concept.reference)
    if null == RESAMPLED:
        warn_of_few_sets(math.comb(n_examples, n_target), f"{n_target} of the {n_examples} examples")
        return random_sets(n_target, n_examples, draws, seed), None
    memories = memories_of(concept, groups)
    k, n = len(memories.target), len(memories.target) + len(memories.siblings)
    warn_of_few_sets(math.comb(n, k), f"{k} of the {n} memories ({memories.said_by})")
    return sibling_sets(memories, n_target, draws, seed), memories


def takes_of_nothing(g: Function) -> float:
    """How much a filter takes of a direction that the target does not own."""
    return float(values_of(g, torch.zeros(1, dtype=torch.float64)))


def _require_nothing_of_nothing(g: Function) -> None:
    if taken := takes_of_nothing(g):
        raise ValueError(
            f"the filter {filter_name(g)} takes {taken:g} of a direction that the target does not own: a null of sets "
            f'needs a filter with g(0) = 0. null="analytic" takes any'
        )


def _announce(
    adapter: Adapter,
    sites: list[Site],
    encoded: Mapping[str, Examples],
    sets: Sequence[Tensor],
    null: str,
    quietly: bool,
) -> None:
    """Log the memory and time that comparing with sets takes: as a warning if it is much, unless quietly."""
    n_examples = sum(map(len, encoded.values()))
    widths = adapter.widths({site.input for site in sites})
    n_rows = _n_rows(adapter, widths, encoded)
    weights = {site: adapter.weight(site) for site in sites}
    outs = {name: sum(some) for name, some in _outputs(weights).items()}
    # Beside all rows, those of one input are held in float32 as they are, whitened, solved for, and times each matrix.
    of_one = max(n_rows[name] * (3 * widths[name] + some) for name, some in outs.items())
    needed = _row_bytes(adapter, sites, encoded) + of_one * 4
    n_members = sum(map(len, sets)) / len(sets)
    m, work = 1, 0.0
    for name, some in outs.items():
        d, m = widths[name], max(1, round(n_rows[name] * n_members / n_examples))
        work += len(sets) * _work(m, d, some) + n_rows[name] * d * (some + 2 * d)
    rate = _multiply_adds_a_second(m, max(widths.values()), next(iter(weights.values())).device)
    seconds = 2 * work / rate  # everything else takes about as long again
    is_much = needed > LARGE or seconds > LONG
    logger.log(
        logging.WARNING if is_much and not quietly else logging.INFO,
        "the %s null takes %.0f MB for rows of inputs, and about %.0f s beside the forward pass: %d null sets and %d "
        "resamplings of the target, of %.0f examples each",
        null, needed / 1e6, seconds, len(sets) - N_BOOTSTRAPS - 1, N_BOOTSTRAPS, n_members,
    )  # fmt: skip


def _outputs(weights: Mapping[Site, Tensor]) -> dict[Input, list[int]]:
    """The outputs of every input's matrices; a matrix without heads is made no taller than wide."""
    found: dict[Input, list[int]] = {}
    for site, weight in weights.items():
        out, d = weight.shape
        found.setdefault(site.input, []).append(out if site.layout.has_heads else min(out, d))
    return found


def _work(m: int, d: int, outs: int) -> int:
    """Multiply-adds of a set of `m` rows; see `few_rows`."""
    return 2 * m * m * (d + outs) if few_rows(m, d, outs) else d * d * (m + 2 * outs)


def _multiply_adds_a_second(n: int, d: int, device: torch.device) -> float:
    """Measured on a few sets of `n` rows: the fastest of five, since the first warms up and others are disturbed."""
    # So many that starting a product takes little beside it.
    n_sets = max(16, 2**21 // (n * d))
    A = torch.randn(n_sets, n, d, generator=torch.Generator().manual_seed(0)).to(device)
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        (A @ A.mT).sum().item()
        seconds.append(time.perf_counter() - began)
    return n_sets * n * n * d / min(seconds)
