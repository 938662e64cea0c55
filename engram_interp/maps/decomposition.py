"""`W_i+ = W S_i (sum_j S_j)^pinv`: many concepts from one pass (paper, Eq. 6), and edits of any subset (Eq. 7).

The engrams of all concepts add up to `W Pi`, the whole weight in the directions that the data have. Engrams, maps and
diagnoses are made when they are asked for.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial, reduce
from itertools import chain
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from engram_interp.common.arguments import Layers
from engram_interp.common.mappings import IdentityMapping
from engram_interp.common.progress import bar
from engram_interp.concepts.batches import AnyBatch, Examples
from engram_interp.concepts.concept import REFERENCE, TARGET
from engram_interp.concepts.data import BATCH_SIZE
from engram_interp.concepts.datasets import by_class
from engram_interp.engrams.engram import Engram
from engram_interp.engrams.extract import engram_of, options_of
from engram_interp.engrams.factors import ConceptSum, Factor, FactorsOf, Packed
from engram_interp.engrams.parts import InputData, Part, part_of, served_sites
from engram_interp.engrams.strengths import Alpha
from engram_interp.engrams.weights import absorbing_inputs, base_of
from engram_interp.linalg.filters import Function
from engram_interp.linalg.second_moment import SecondMoment
from engram_interp.linalg.spectrum import Spectrum
from engram_interp.linalg.total import Total
from engram_interp.maps.diagnosis import CUTS, Diagnosis, diagnosis_of
from engram_interp.maps.localization import map_of
from engram_interp.maps.localization_map import LocalizationMap
from engram_interp.models import Adapter, Record, adapt
from engram_interp.models.exclusive import exclusive
from engram_interp.models.sites import Site, by_input, parameter_paths
from engram_interp.options import Read, Run, Solve, Which, takes
from engram_interp.statistics.passes import batches_of, finite_rows, one_pass, warn_of_few
from engram_interp.statistics.statistics import KEPT_BYTES, Statistics

N_SHOWN = 8
"""Concepts that a notebook shows."""


@dataclass(frozen=True, eq=False)
class Decomposition(IdentityMapping):  # of str to Engram; checking items' types at run time would make engrams
    """The engrams of many concepts, each made when it is asked for: `parts["A"]`, `parts.engram({"A", "B"})`.

    Attributes:
        model: the model. It must not change as long as engrams are asked for.
        kept: by concept and input, the rows or the moment.
        counts: how many positions count, by concept.
        sites: the matrices.
        solve: how engrams are solved for; see `decompose`.
        run: whether making engrams shows a bar.
        absorbing: the inputs that have a row of ones.
        positions: which positions of a pair count, as `Concept` names them.
        keep_bytes: how much memory what is factorised may take that is kept for the next engram; 0 keeps nothing.
    """

    model: nn.Module
    kept: Mapping[str, Mapping[str, Factor | Packed]]
    counts: dict[str, int]
    sites: list[Site]
    solve: Solve
    run: Run
    absorbing: set[str]
    _checks: list[Tensor] = field(repr=False)
    positions: str | None = None
    keep_bytes: int = KEPT_BYTES
    _totals: dict[str, Total] = field(default_factory=dict, repr=False)

    def __getitem__(self, name: str) -> Engram:
        if name not in self.kept:
            raise KeyError(f"the decomposition has no {name!r}; it has {_listed(self.kept)}")
        return self.engram(name)

    def __contains__(self, name: object) -> bool:
        return name in self.kept

    def __iter__(self) -> Iterator[str]:
        return iter(self.kept)

    def __len__(self) -> int:
        return len(self.kept)

    def __repr__(self) -> str:
        return f"Decomposition({_listed(self.kept)}; {len(self.sites)} matrices of {adapt(self.model).info.name!r})"

    def _repr_html_(self) -> str:
        import pandas as pd

        from engram_interp.common.html import table_html
        from engram_interp.figures.small import bars

        some = {name: float(self.counts[name]) for name in list(self.kept)[:N_SHOWN]}
        table = pd.DataFrame({"tokens": some}).rename_axis("concept")
        lead = f"{len(self.kept)} concepts, {len(self.sites)} matrices of {adapt(self.model).info.name}; the first:"
        return table_html("Decomposition", None, lead, table, bars(some, "tokens that count", "{:.0f} tokens"))

    @property
    def n_floats(self) -> dict[str, int]:
        """How many numbers are kept, by input. The first engram adds `2 D^2` an input, which all engrams share."""
        return {name: sum(concept[name].n_floats for concept in self.kept.values()) for name in by_input(self.sites)}

    def engram(self, names: str | Collection[str], filter: Function | None = None) -> Engram:
        """The engram of one concept, or of several together.

        Without a filter, the engram of several is the sum of theirs.

        Args:
            names: the concepts.
            filter: how much of a direction is taken; None is the decomposition's own.

        Raises:
            ValueError: if the decomposition lacks a name, or there is no name.
            RuntimeError: if the model's weights have changed. Ask for engrams outside of any edit.
        """
        chosen, solve = self.chosen(names), self._solve(filter)
        adapter, options = adapt(self.model), options_of(solve, self._counts_of(chosen), self.positions)
        changes = (part.change for part in self._parts(chosen, adapter, solve))
        return engram_of(adapter, self.sites, changes, " + ".join(chosen), options)

    def select(self, components: str | Collection[str] | None = None, layers: Layers = None) -> Decomposition:
        """The same concepts, for some of the matrices only; what is factorised already stays so.

        Raises:
            ValueError: if the decomposition has none of the components and layers.
        """
        adapter = adapt(self.model)
        asked = {site.key for site in adapter.sites(components, layers)}
        sites = [site for site in self.sites if site.key in asked]
        if not sites:
            raise ValueError(f"the decomposition has nothing in components={components}, layers={layers}")
        base = base_of(adapter, self.solve.delta_from, sites)
        return replace(self, sites=sites, _checks=checks_of(sites, adapter, base))

    def ablate(self, names: str | Collection[str], alpha: Alpha = 1.0) -> nn.Module:
        """A copy of the model without the engrams of these concepts; see `Engram.ablate`."""
        return self.engram(names).ablate(self.model, alpha)

    def localize(self, names: str | Collection[str]) -> LocalizationMap:
        """The map of one concept, or of several together, against all others and the analytic null.

        Random sets need single examples: `engram_interp.localize` draws them from a `Concept`.
        """
        chosen, adapter = self.chosen(names), adapt(self.model)
        made = self._parts(chosen, adapter, self.solve)
        wmap = map_of(adapter, self.sites, made, self._counts_of(chosen), " + ".join(chosen))
        return replace(wmap, positions=self.positions)

    def diagnose(self, names: str | Collection[str], rtols: Collection[float | int] = CUTS) -> Diagnosis:
        """The spectra and soft projectors of one concept, or of several together, against all others.

        Args:
            names: the concepts.
            rtols: the cuts to compare, beside the decomposition's own.

        Raises as `engram` does.
        """
        chosen, adapter = self.chosen(names), adapt(self.model)
        made = self._parts(chosen, adapter, self.solve)
        return diagnosis_of(adapter, self.sites, made, rtols, self.token_share(chosen), " + ".join(chosen))

    def chosen(self, names: str | Collection[str]) -> list[str]:
        """These concepts, in the decomposition's order.

        Raises:
            ValueError: if the decomposition lacks a name, or there is no name.
        """
        asked = {names} if isinstance(names, str) else set(names)
        if not asked or not asked <= self.kept.keys():
            got = ", ".join(sorted(map(repr, asked))) or "none"
            raise ValueError(f"the concepts are {_listed(self.kept)}; got {got}")
        return [name for name in self.kept if name in asked]

    def token_share(self, names: str | Collection[str]) -> float:
        """`n/N`: the share of these concepts in the positions that count. `filters.over` subtracts it."""
        return self._counts_of(self.chosen(names))[TARGET] / sum(self.counts.values())

    def _counts_of(self, chosen: Sequence[str]) -> dict[str, int]:
        target = sum(self.counts[name] for name in chosen)
        return {TARGET: target, REFERENCE: sum(self.counts.values()) - target}

    def _solve(self, filter: Function | None) -> Solve:
        return self.solve if filter is None else replace(self.solve, filter=filter)

    def _parts(self, chosen: Sequence[str], adapter: Adapter, solve: Solve) -> Iterator[Part]:
        base = self.unchanged(adapter)
        for name, readers in bar(by_input(self.sites).items(), self.run.progress, "solving", "input"):
            target = SecondMoment(self.moment(name, chosen))
            data = InputData(name in self.absorbing, target, self.total(name), solve)
            for site in readers:
                yield part_of(site, data, adapter, base)

    def unchanged(self, adapter: Adapter) -> Adapter | None:
        """The model whose weights are subtracted, if there is one.

        Raises:
            RuntimeError: if the weights of either model have changed.
        """
        base = base_of(adapter, self.solve.delta_from, self.sites)
        if not all(map(torch.equal, self._checks, checks_of(self.sites, adapter, base))):
            raise RuntimeError(
                "the model's weights have changed since they were decomposed: ask for engrams before the model is "
                "edited, or outside of the block in which it is"
            )
        return base

    def total(self, name: str) -> Total:
        """The second moment of one input over all concepts, and its factorisations. They are computed once."""
        found = self._totals.get(name) or Total(SecondMoment(self.moment(name, list(self.kept))), self.solve.ridge)
        if sum(one.n_bytes for one in self._totals.values()) < self.keep_bytes:
            self._totals[name] = found
        return found

    def kept_of(self, name: str) -> Spectrum:
        """The directions of one input above the cut."""
        return self.total(name).kept(self.solve.cut, self.solve.outliers)

    def moment(self, name: str, concepts: Sequence[str]) -> Float[Tensor, "D D"]:
        """The second moment of one input over some of the concepts."""
        kept = [self.kept[concept][name] for concept in concepts]
        # One at a time, since all of them together would undo what packing saves.
        matrices = (one.matrix for one in kept if isinstance(one, Packed))
        if factors := [one for one in kept if isinstance(one, Factor)]:
            joined = Factor(torch.cat([factor.X for factor in factors]), factors[0].absorbed)
            matrices = chain([joined.matrix], matrices)
        return reduce(torch.add, matrices)


@exclusive
@takes(Which, Read, Solve, Run)
def decompose(
    model: nn.Module,
    concepts: Mapping[str, Any] | Any,
    *,
    which: Which,
    read: Read,
    solve: Solve,
    run: Run,
) -> Decomposition:
    """Many concepts from one pass, each told apart from all others (paper, Eq. 6).

    Args:
        model: a `HookedTransformer` or `TransformerBridge`, however its weights were processed, or a plain module.
        concepts: examples by name, each as `Concept` takes them, or, for a plain module, batches of what it takes. A
            labelled dataset has a concept for each class. What concepts should only be told apart from goes in too, as
            a concept of its own. Statistics have a concept for each group: `collect(model, groups, store=...)` leaves
            them on disk, and one input at a time is read.

    Raises:
        ValueError: see `extract`.
        TypeError: if `concepts` is anything but examples by name.

    Example:
        >>> from engram_interp import testbed
        >>> model, corpus = testbed.load("full"), testbed.authors()
        >>> people = {author.name: author.examples for author in corpus.forget10}
        >>> parts = decompose(model, {**people, "world": corpus.world_examples}, components="gate", layers=[0])
        >>> first, second, *_ = parts
        >>> edited = parts.ablate({first, second}, alpha=2.0)
    """
    if isinstance(concepts, Statistics):
        return _of_statistics(model, concepts, which, solve, run)
    concepts = _by_name(concepts)
    if not concepts:
        raise ValueError("concepts must hold at least one concept, got none")
    adapter = adapt(model)
    adapter.look(next(iter(concepts.values())))
    sites = adapter.sites(which.components, which.layers)
    base = base_of(adapter, solve.delta_from, sites)
    absorbing = absorbing_inputs(adapter, base) if solve.absorb_bias else set()
    encoded = adapter.encode(dict(concepts), read)
    kept, counts = _collect(adapter, sites, absorbing, encoded, run)
    sites = [site for site in adapter.reached(sites, which) if site.input in next(iter(kept.values()))]
    inputs: list[str] = [*by_input(sites)]
    n_rows = {name: sum(concept[name].n_rows for concept in kept.values()) for name in inputs}
    warn_of_few(n_rows, adapter.widths(inputs), sum(counts.values()))
    checks, positions = checks_of(sites, adapter, base), None if adapter.info.is_plain else read.in_words
    return Decomposition(model, kept, counts, sites, solve, run, absorbing, checks, positions)


def _of_statistics(model: nn.Module, statistics: Statistics, which: Which, solve: Solve, run: Run) -> Decomposition:
    """The concepts that statistics have as groups."""
    adapter = adapt(model)
    sites = served_sites(adapter, statistics, which)
    base = base_of(adapter, solve.delta_from, sites)
    absorbing = absorbing_inputs(adapter, base) if solve.absorb_bias else set()
    kept = {group: FactorsOf(moments, absorbing) for group, moments in statistics.groups.items()}
    checks, counts = checks_of(sites, adapter, base), statistics.counts
    return Decomposition(
        model, kept, counts, sites, solve, run, absorbing, checks, statistics.positions, statistics.keep_bytes
    )


def checks_of(sites: Sequence[Site], adapter: Adapter, base: Adapter | None) -> list[Float[Tensor, "2"]]:
    """Sum and norm of every weight and bias, to tell whether one has changed."""
    models = [one for one in (adapter, base) if one is not None]
    values = (one.parameter(path).detach().double() for one in models for path in parameter_paths(sites))
    return [torch.stack([value.sum(), value.norm()]).cpu() for value in values]


def _collect(
    adapter: Adapter,
    sites: Sequence[Site],
    absorbing: set[str],
    encoded: Mapping[str, Examples],
    run: Run,
) -> tuple[dict[str, dict[str, Factor | Packed]], dict[str, int]]:
    """What is kept of every concept and input, and how many positions count by concept."""
    inputs: list[str] = [*by_input(sites)]
    sums = [{name: ConceptSum(name in absorbing) for name in inputs} for _ in encoded]
    none: dict[str, Tensor] = {}
    counts = torch.zeros(len(encoded), dtype=torch.long)

    def begin(batch: AnyBatch) -> Record:
        counts.index_add_(0, batch.groups, batch.counts.sum(1))
        concept = batch.groups[:, None].expand_as(batch.counts).flatten()
        return partial(_add, sums, none, batch.counts.flatten().nonzero().flatten(), concept)

    one_pass(adapter, sites, batches_of(encoded, run), begin)
    for concept, count in zip(encoded, counts.tolist(), strict=True):
        if not count:
            raise ValueError(f"{concept} must have a position that counts; none of its examples has one")
    kept = {
        concept: {name: total.result(none[name]) for name, total in by_name.items() if name in none}
        for concept, by_name in zip(encoded, sums, strict=True)
    }
    return kept, dict(zip(encoded, counts.tolist(), strict=True))


def _add(
    sums: list[dict[str, ConceptSum]],
    none: dict[str, Tensor],
    at: Int[Tensor, "n"],
    concept: Int[Tensor, "batch_pos"],
    name: str,
    activation: Float[Tensor, "*positions d"],
    routed: Int[Tensor, "m"] | None = None,
) -> None:
    """Hand every concept its own rows of an input."""
    rows, positions = finite_rows(name, activation, at, routed)
    none.setdefault(name, rows.new_zeros(0, rows.shape[1]))
    owner = concept[positions]
    if len(owner) and bool((owner == owner[0]).all()) and routed is not None:
        sums[int(owner[0])][name].add(rows)  # all of the batch is one concept's
        return
    owner, order = owner.sort(stable=True)
    owners, counts = owner.unique_consecutive(return_counts=True)
    split = rows[order.to(rows.device)].split(counts.tolist())
    for index, mine in zip(owners.tolist(), split, strict=True):
        sums[index][name].add(mine.clone())  # a view would keep the whole batch


def _by_name(concepts: Any) -> Mapping[str, Any]:
    """Examples by name; those of a labelled dataset by class."""
    if isinstance(concepts, Mapping) and all(isinstance(name, str) for name in concepts):
        return concepts
    if hasattr(concepts, "__getitem__") and not isinstance(concepts, (Mapping, str, list, tuple)):
        return by_class(concepts, BATCH_SIZE)
    raise TypeError(
        f'concepts must be examples by name, such as {{"A": [...], "rest": [...]}}, or a labelled dataset; got '
        f"{_shown(concepts)}"
    )


def _shown(concepts: object) -> str:
    return f"the names {list(concepts)}" if isinstance(concepts, Mapping) else f"a {type(concepts).__name__}"


def _listed(names: Collection[str], at_most: int = 8) -> str:
    listed = ", ".join(map(repr, list(names)[:at_most]))
    return listed + (f", ... ({len(names)})" if len(names) > at_most else "")
