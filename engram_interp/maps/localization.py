"""Where does the memory sit, and would a map of any other examples show the same?

`|W+|_F / |W|_F` of every matrix and head (W-Norm; paper, Section 7 and Fig. 9), and its ratio to a null: prepare the
model and the concept, take every part, measure it, and put the sizes into a table.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice

import pandas as pd
import torch
from torch import nn

from engram_interp.concepts.concept import TARGET, Concept
from engram_interp.concepts.memories import has_siblings
from engram_interp.engrams.parts import Part, inputs_here, parts, prepare
from engram_interp.maps.compared_with import ANALYTIC, NULLS, SIBLINGS
from engram_interp.maps.localization_map import LocalizationMap
from engram_interp.maps.null_pass import is_too_large, takes_of_nothing, with_null
from engram_interp.maps.null_sets import MIN_DRAWS, NullSets
from engram_interp.maps.nulls import of_sets, significance
from engram_interp.maps.quantities import Sizes, sizes_of
from engram_interp.models import Adapter
from engram_interp.models.exclusive import exclusive
from engram_interp.models.sites import Site, by_input
from engram_interp.options import Compare, Keep, Run, Solve, Which, takes
from engram_interp.statistics.sharing.ranks import Ranks
from engram_interp.statistics.statistics import Statistics


@exclusive
@takes(Which, Solve, Run, Keep, Compare)
def localize(
    model: nn.Module,
    concept: Concept | Statistics,
    *,
    which: Which,
    solve: Solve,
    run: Run,
    keep: Keep,
    compare: Compare,
) -> LocalizationMap:
    """How much of every matrix and head the concept owns, and how much that is over a target with nothing of its own.

    W-Norm may exceed 1: with hardly more tokens than an input has dimensions, `P+` is far from a projection. W-Norm is
    over the weight alone, without the bias; the Fisher share is over both.

    The score presumes that the model knows the target as it knows the siblings: text that is new to it stands out too,
    without a place in the weights. A warning says if clearly fewer of the target's answer tokens are right. In the
    first layer a memory is hard to find: inputs there are single tokens, which all memories share. A star needs other
    matrices to stand out from, so map all of them, and not only those of a layer.

    Args:
        model: a `HookedTransformer` or `TransformerBridge`, however its weights were processed, or a plain module.
        concept: what to look for, or its statistics.

    Raises:
        ValueError: if `null` is another word, the reference has fewer than two memories to compare with, `draws` is
            below 19 (too few for a p-value of 0.05), or a null of sets meets a filter that takes something of a
            direction that the target does not own, or `gradient` or `groups` another null than siblings; see also
            `extract`.
        TypeError: if sets of examples are asked of statistics, which hold no single examples.

    Example:
        >>> from engram_interp import testbed
        >>> wmap = localize(testbed.load("full"), testbed.authors().concept("Petra Dorlund"), null="analytic")
        >>> wmap.top(2)["component"].tolist()
        ['W_gate', 'W_in']
    """
    return located(model, concept, which, solve, run, keep, compare, lambda part: None)


def located(
    model: nn.Module,
    concept: Concept | Statistics,
    which: Which,
    solve: Solve,
    run: Run,
    keep: Keep,
    compare: Compare,
    look: Callable[[Part], None],
) -> LocalizationMap:
    """The map of `localize`. `look` gets every matrix with its engram before it is measured."""
    null, groups = _null(concept, compare, solve, keep), compare.groups
    if compare.null is None and null == SIBLINGS and groups is None and is_too_large(model, concept, which):
        null = ANALYTIC
    if compare.gradient and null != SIBLINGS:
        raise ValueError(f'gradient=True takes a gradient for each memory: it needs null="siblings"; null is {null!r}')
    if groups is not None and null != SIBLINGS:
        raise ValueError(f'groups say which examples are one memory: they need null="siblings"; null is {null!r}')
    if null == ANALYTIC:
        prepared, sets = prepare(model, concept, which, solve, run, keep), None
    else:
        prepared, sets = with_null(model, concept, replace(compare, null=null), which, solve, run)
    mine = inputs_here(prepared)
    made = _looked_at(parts(prepared, solve, run.progress, mine), look)
    statistics = prepared.statistics
    wmap = map_of(prepared.adapter, prepared.sites, made, statistics.counts, statistics.name, null, sets, mine)
    return replace(wmap, positions=statistics.positions)


def _looked_at(made: Iterable[Part], look: Callable[[Part], None]) -> Iterator[Part]:
    for part in made:
        look(part)
        yield part


def _null(concept: Concept | Statistics, compare: Compare, solve: Solve, keep: Keep) -> str:
    """What is compared with, if nobody says it."""
    null, groups = compare.null, compare.groups
    if null is not None and null not in NULLS:
        raise ValueError(f"null must be {' or '.join(map(repr, NULLS))}; got {null!r}")
    if keep != Keep():
        if groups is not None or null not in (None, ANALYTIC):
            raise ValueError(
                f"a null of sets keeps the rows of every example in memory, which store, budget and their like do not "
                f"allow: null must be {ANALYTIC!r} with them; got {null or SIBLINGS!r}"
            )
        return ANALYTIC
    if null is not None:
        return null
    if groups is not None:
        return SIBLINGS
    if not isinstance(concept, Concept) or concept.is_stream or takes_of_nothing(solve.filter):
        return ANALYTIC
    return SIBLINGS if has_siblings(concept, MIN_DRAWS) else ANALYTIC


def map_of(
    adapter: Adapter,
    sites: Sequence[Site],
    made: Iterable[Part],
    counts: Mapping[str, int],
    name: str | None,
    null: str = ANALYTIC,
    sets: NullSets | None = None,
    inputs: Collection[str] | None = None,
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
        inputs: what the matrices read that are at hand here. The other processes of a group have the others. None says
            that all are here.
    """
    target_share = counts[TARGET] / sum(counts.values())
    sizes: dict[str, Sizes] = {}
    drawn = {}
    rest = iter(made)
    for name_of_input, readers in by_input(sites).items():
        if inputs is not None and name_of_input not in inputs:
            continue
        if sets is None:
            sizes |= {part.site.key: sizes_of(part, target_share) for part in islice(rest, len(readers))}
            continue
        some = list(islice(rest, len(readers)))
        sizes |= {part.site.key: sizes_of(part, target_share) for part in some}
        drawn |= of_sets(some, sizes, target_share, sets)
        del some  # the next input should not share the memory with this one
    if inputs is not None:
        sizes, drawn = (Ranks.here().merged(found) for found in (sizes, drawn))
    if sets is not None:
        sizes = significance(sizes, drawn, sets.n_target, sets.products)
    return LocalizationMap(
        _table(sites, sizes), adapter.n_layers, null, name, adapter.info.name, dict(counts),
        memories=None if sets is None or sets.memories is None else sets.memories.in_words,
    )  # fmt: skip


def _heads(site: Site, n: int) -> range:
    """The numbers of a matrix's heads or channels: those of a grouped convolution go on from group to group."""
    group, n_groups = site.block
    start = group * n if site.expert is not None and n_groups > 1 else 0
    return range(start, start + n)


def _table(sites: Sequence[Site], sizes: Mapping[str, Sizes]) -> pd.DataFrame:
    """For every matrix, a row of its own and one for each of its heads."""
    units = [(site, head) for site in sites for head in (None, *_heads(site, len(sizes[site.key]["wnorm"]) - 1))]
    table: dict[str, object] = {"head": [head for _, head in units]}
    for name in sizes[sites[0].key]:
        table[name] = torch.cat([sizes[site.key][name] for site in sites]).double().numpy()
    for name in ("key", "component", "layer", "expert"):
        table[name] = [getattr(site, name) for site, _ in units]
    return pd.DataFrame(table).astype({"layer": "Int64", "expert": "Int64", "head": "Int64"})
