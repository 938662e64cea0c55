"""Where does the memory sit, and would a map of any other examples show the same?

`|W+|_F / |W|_F` of every matrix and head (W-Norm; paper, Section 7 and Fig. 9), and its ratio to a null: prepare the
model and the concept, take every part, measure it, and put the sizes into a table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby

import pandas as pd
import torch
from torch import nn

from engram_interp.concepts.concept import TARGET, Concept
from engram_interp.concepts.memories import Groups
from engram_interp.engrams.parts import Part, parts, prepare
from engram_interp.maps.localization_map import ANALYTIC, NULLS, LocalizationMap
from engram_interp.maps.null_sets import NullSets
from engram_interp.maps.nulls import of_sets, significance, with_null
from engram_interp.maps.quantities import Sizes, sizes_of
from engram_interp.models import Adapter
from engram_interp.models.exclusive import exclusive
from engram_interp.models.sites import Site
from engram_interp.options import Run, Solve, Which, takes
from engram_interp.statistics.statistics import Statistics


@exclusive
@takes(Which, Solve, Run)
def localize(
    model: nn.Module,
    concept: Concept | Statistics,
    *,
    null: str = "analytic",
    groups: Groups | None = None,
    draws: int = 499,
    seed: int = 0,
    which: Which,
    solve: Solve,
    run: Run,
) -> LocalizationMap:
    """How much of every matrix and head the concept owns, and how much that is over a target with nothing of its own.

    W-Norm may exceed 1: with hardly more tokens than an input has dimensions, `P+` is far from a projection. W-Norm is
    over the weight alone, without the bias; the Fisher share is over both.

    Args:
        model: a `HookedTransformer` or `TransformerBridge`, with whatever weight processing it was loaded with.
        concept: what to look for, or its statistics.
        null: what sizes are compared with. `"analytic"` costs nothing: a target with the second moments of all
            examples. A small target exceeds it by noise alone. `"resampled"` draws random sets of equal size from
            target and reference together, which have that noise too, and gives p-values and intervals. It keeps the
            rows of every input; the memory and time that this takes are logged before it starts, as a warning, or as
            information with `progress=False`.
        draws: how many random sets; p-values are multiples of `1 / (draws + 1)`.
        seed: of the sets.

    Raises:
        ValueError: if `null` is another word, `draws` is below 19 (too few for a p-value of 0.05), or a null of sets
            meets a filter that takes something of a direction that the target does not own; see also `extract`.
        TypeError: if a resampled null is asked of statistics, which hold no single examples.

    Example:
        >>> from engram_interp import testbed
        >>> wmap = localize(testbed.load("full"), testbed.authors().concept("Petra Dorlund"))
        >>> wmap.top(2)["component"].tolist()
        ['W_gate', 'W_in']
    """
    if null not in NULLS:
        raise ValueError(f"null must be {' or '.join(map(repr, NULLS))}; got {null!r}")
    if null == ANALYTIC:
        prepared, sets = prepare(model, concept, which, solve, run), None
    else:
        prepared, sets = with_null(model, concept, null, groups, draws, seed, which, solve, run)
    made = parts(prepared, solve, run.progress)
    statistics = prepared.statistics
    wmap = map_of(prepared.adapter, prepared.sites, made, statistics.counts, statistics.name, null, sets)
    return replace(wmap, positions=statistics.positions)


def map_of(
    adapter: Adapter,
    sites: Sequence[Site],
    made: Iterable[Part],
    counts: Mapping[str, int],
    name: str | None,
    null: str = ANALYTIC,
    sets: NullSets | None = None,
) -> LocalizationMap:
    """The map of matrices whose engrams are at hand.

    Args:
        adapter: the model.
        sites: the matrices, in the order of the map.
        made: the matrices and what they read. Matrices that share an input come together.
        counts: how many positions count, by side.
        name: the concept's name.
        null: what is compared with.
        sets: sets of examples to compare with, if there are any.
    """
    target_share = counts[TARGET] / sum(counts.values())
    sizes: dict[str, Sizes] = {}
    drawn = {}
    for _, readers in groupby(made, key=lambda part: part.site.input):
        some = list(readers)
        sizes |= {part.site.key: sizes_of(part, target_share) for part in some}
        if sets is not None:
            drawn |= of_sets(some, sizes, target_share, sets)
    if sets is not None:
        sizes = significance(sizes, drawn, sets.n_target)
    return LocalizationMap(
        _table(sites, sizes), adapter.n_layers, null, name, adapter.info.name, dict(counts),
        memories=None if sets is None or sets.memories is None else sets.memories.in_words,
    )  # fmt: skip


def _table(sites: Sequence[Site], sizes: Mapping[str, Sizes]) -> pd.DataFrame:
    """For every matrix, a row of its own and one for each of its heads."""
    units = [(site, head) for site in sites for head in (None, *range(len(sizes[site.key]["wnorm"]) - 1))]
    table: dict[str, object] = {"head": [head for _, head in units]}
    for name in sizes[sites[0].key]:
        table[name] = torch.cat([sizes[site.key][name] for site in sites]).double().numpy()
    for name in ("key", "component", "layer", "expert"):
        table[name] = [getattr(site, name) for site, _ in units]
    return pd.DataFrame(table).astype({"layer": "Int64", "expert": "Int64", "head": "Int64"})
