"""What does an edit cost on data that its projector has not seen? Part of the reference is held out of a second fit.

`P+_f = S+ (S+ + (N / N_f) S-_f)^pinv`: the moments of the part that is left are scaled up to the whole reference, so
that a strength means for the second engram what it means for the first.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from engram_interp.concepts.batches import Examples, n_counted
from engram_interp.concepts.concept import REFERENCE, TARGET, Concept, TokenExample
from engram_interp.concepts.data import DataExample
from engram_interp.engrams.engram import Engram
from engram_interp.engrams.extract import extract
from engram_interp.linalg.filters import named
from engram_interp.models import Adapter
from engram_interp.models.sites import Site
from engram_interp.options import Run
from engram_interp.statistics.collect import moments_of
from engram_interp.statistics.statistics import Statistics

N_FOLDS = 3
FEWEST = 10
"""Fewer examples cannot tell what an edit costs."""
SAME = 1e-2
"""How far, as a share of its norm, a matrix that is fitted again may be from the engram's own."""


@dataclass(frozen=True)
class Check:
    """Examples to measure what an edit costs on.

    Attributes:
        examples: as they were given.
        encoded: as the model reads them.
        engrams: the engrams that have not seen some of them.
        unseen_by: for each example, the number of the engram that has not seen it.
    """

    examples: Sequence[Any]
    encoded: Sequence[Any]
    engrams: list[Engram]
    unseen_by: list[int]


def n_scored(example: Any) -> int:
    """How many tokens of an example are scored; an example that is no text counts as one."""
    return int(example.scored.sum()) if isinstance(example, TokenExample) else 1


def is_labelled(example: Any) -> bool:
    """Whether an example says what is right: all texts do."""
    return not isinstance(example, DataExample) or example.data.labelled


def require_enough(n: int, what: str) -> None:
    """Check that there are enough examples to measure a cost on.

    Raises:
        ValueError: if there are fewer than ten.
    """
    if n < FEWEST:
        raise ValueError(f"{what} must hold {FEWEST} examples or more, to tell what a strength costs; it holds {n}")


def held_out(
    adapter: Adapter,
    engram: Engram,
    concept: Concept,
    encoded: Mapping[str, Examples],
    n_folds: int,
    run: Run,
) -> Check:
    """The reference, or a third of it, with engrams that have not seen it.

    Args:
        adapter: the model.
        engram: what is fitted again without a part of the reference.
        concept: what the engram was made from.
        encoded: its examples as tokens.
        n_folds: how many of the three parts of the reference are held out in turn. Each costs a pass and a solve.
        run: how examples go through the model.

    Raises:
        ValueError: if the reference has fewer than ten examples, or the engram cannot be fitted again.
    """
    reference = encoded[REFERENCE]
    require_enough(len(reference), "the reference")
    _require_origin(engram, encoded)
    mine = {site.key for site in engram.sites}
    sites = [site for site in adapter.all_sites() if site.key in mine]
    first = [site for site in sites if site.path == sites[0].path]
    _require_fits_again(adapter, engram, first, encoded, run)
    folds = folds_of(len(reference))[:n_folds]
    engrams = []
    for fold in folds:
        held = set(fold)
        kept = [one for i, one in enumerate(reference) if i not in held]
        engrams.append(fitted_again(adapter, engram, sites, {**encoded, REFERENCE: kept}, run))
    order = [(i, number) for number, fold in enumerate(folds) for i in fold]
    return Check(
        [concept.reference[i] for i, _ in order], [reference[i] for i, _ in order], engrams, [n for _, n in order]
    )


def folds_of(n: int) -> list[list[int]]:
    """Three random parts of `n` examples, the same ones each time.

    Example:
        >>> sorted(i for fold in folds_of(8) for i in fold)
        [0, 1, 2, 3, 4, 5, 6, 7]
    """
    order = list(range(n))
    random.Random(0).shuffle(order)
    return [sorted(order[fold::N_FOLDS]) for fold in range(N_FOLDS)]


def fitted_again(
    adapter: Adapter,
    engram: Engram,
    sites: list[Site],
    encoded: Mapping[str, Examples],
    run: Run,
) -> Engram:
    """The engram of the same matrices and options from these examples, whose reference stands for the whole.

    Where the engram is zero, as in heads that it leaves out, so is this.
    """
    moments = moments_of(adapter, sites, encoded, replace(run, progress=False))
    mine = moments[REFERENCE]
    factor = float(engram.options[f"{REFERENCE} tokens"] or 0) / next(iter(mine.values())).offered
    moments[REFERENCE] = {name: mine.pop(name) * factor for name in list(mine)}  # one at a time: moments are large
    statistics = Statistics(adapter.info, tuple(site.key for site in sites), moments, engram.name, keep_bytes=0)
    options = {name: engram.options[name] for name in ("rtol", "outliers", "ridge", "absorb_bias")}
    found = extract(adapter.model, statistics, filter=named(str(engram.options["filter"])), progress=False, **options)
    tensors = {
        key: found.tensors[key].to(own).masked_fill_(own == 0, 0)  # in place: an engram is as large as its matrices
        for key, own in engram.tensors.items()
        if key in found.tensors
    }
    return replace(engram, tensors=tensors, weight_norms=found.weight_norms)


def _require_origin(engram: Engram, encoded: Mapping[str, Examples]) -> None:
    """Check that the engram comes from these examples, as far as it says."""
    counts = {f"{side} tokens": n_counted(encoded[side]) for side in (TARGET, REFERENCE)}
    recorded = {name: engram.options.get(name) for name in counts}
    if None not in counts.values() and recorded != counts:
        raise ValueError(
            f"the engram was made from {recorded}, and the concept has {counts}: give the examples that must be kept "
            f"as check=[...]"
        )
    if engram.options.get("delta_from") is not None:
        raise ValueError(
            f"an engram of a difference (delta_from = {engram.options['delta_from']!r}) cannot be fitted again: give "
            f"the examples that must be kept, and that it was not made from, as check=[...]"
        )
    try:
        named(str(engram.options.get("filter")))
    except ValueError as error:
        raise ValueError(
            f"{error}, to fit the engram again: or give the examples that must be kept as check=[...]"
        ) from None


def _require_fits_again(
    adapter: Adapter,
    engram: Engram,
    sites: list[Site],
    encoded: Mapping[str, Examples],
    run: Run,
) -> None:
    """Check, on one matrix, that the engram is what `extract` makes of these examples."""
    key = sites[0].path
    again = fitted_again(adapter, engram, sites, encoded, run).tensors[key]
    own = engram.tensors[key]
    if float((again - own).norm()) > SAME * float(own.norm()):
        raise ValueError(
            f"the engram is not the one that extract makes of this concept ({key} differs): give the examples that "
            f"must be kept, and that it was not made from, as check=[...]"
        )
