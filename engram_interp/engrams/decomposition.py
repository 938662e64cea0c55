"""`W_i+ = W S_i (sum_j S_j)^pinv`: many concepts from one pass (paper, Eq. 6), and any subset of them edited (Eq. 7).

The engrams of all concepts add up to `W Pi`, the whole weight in the directions that the data has. A concept is kept as
the second moments of its inputs, or as the inputs themselves where these are fewer numbers; engrams are made on demand.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial, reduce
from itertools import chain

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from engram_interp.common.arguments import Layers
from engram_interp.common.progress import bar
from engram_interp.concepts.concept import BATCH_SIZE, REFERENCE, TARGET, Batch, Example, TokenExample, encode_groups
from engram_interp.engrams.engram import Alpha, Engram
from engram_interp.engrams.extract import InputData, Part, absorbing_inputs, base_of, engram_of, options_of, part_of
from engram_interp.linalg.filters import Function, soft
from engram_interp.linalg.spectrum import Spectrum, require_rtol, spectrum
from engram_interp.maps.diagnosis import CUTS, Diagnosis, diagnosis_of
from engram_interp.maps.localization import LocalizationMap, map_of
from engram_interp.models import Adapter, Record, adapt
from engram_interp.models.exclusive import exclusive
from engram_interp.models.sites import Site, by_input
from engram_interp.statistics.collect import finite_rows, one_pass, warn_of_few
from engram_interp.statistics.statistics import Moment, MomentSum, moment_dtype, with_ones


@dataclass(frozen=True)
class Factor:
    """A concept's inputs, `[n d]`: `S_i = X^T X`."""

    X: Float[Tensor, "n d"]
    absorbed: bool

    @property
    def matrix(self) -> Float[Tensor, "D D"]:
        """`S_i`, with a row of ones where a bias is absorbed."""
        total = MomentSum(self.X)
        total.add(self.X)
        return total.result().matrix(self.absorbed)

    @property
    def resolution(self) -> float:
        """The relative rounding of `matrix`."""
        return torch.finfo(moment_dtype(self.X.shape[1], self.X.dtype)).eps

    @property
    def root(self) -> Float[Tensor, "n D"]:
        """Rows whose second moment is `S_i`, in float64: the inputs themselves."""
        return with_ones(self.X, self.absorbed)

    @property
    def n_rows(self) -> int:
        """Positions."""
        return len(self.X)

    @property
    def n_floats(self) -> int:
        """Numbers kept."""
        return self.X.numel()


@dataclass(frozen=True)
class Packed:
    """The upper triangle of `S_i`, row by row."""

    triangle: Float[Tensor, "half"]
    size: int
    n_rows: int

    @classmethod
    def of(cls, moment: Moment, absorbed: bool) -> Packed:
        """Of a moment, in its own precision; with a row of ones, where a bias is absorbed."""
        S = moment.matrix(absorbed)
        return cls(S[_upper(S)].to(moment.second.dtype), len(S), moment.count)

    @property
    def matrix(self) -> Float[Tensor, "D D"]:
        """`S_i`."""
        S = torch.zeros(self.size, self.size, dtype=torch.float64, device=self.triangle.device)
        S[_upper(S)] = self.triangle.double()
        return S + S.triu(1).T

    @property
    def resolution(self) -> float:
        """The relative rounding of `matrix`."""
        return torch.finfo(self.triangle.dtype).eps

    @property
    def root(self) -> Float[Tensor, "D D"]:
        """Rows whose second moment is `S_i`, in float64: its eigenvectors times the roots of their eigenvalues."""
        lam, U = torch.linalg.eigh(self.matrix)
        return (U * lam.clamp(min=0).sqrt()).T

    @property
    def n_floats(self) -> int:
        """Numbers kept."""
        return self.triangle.numel()


def _upper(S: Float[Tensor, "D D"]) -> Bool[Tensor, "D D"]:
    """Where the upper triangle is, with the diagonal."""
    return torch.ones_like(S, dtype=torch.bool).triu()


class ConceptSum:
    """One input of one concept being collected: its rows, until their moments are fewer numbers.

    Args:
        absorbed: whether the input has a row of ones.
    """

    def __init__(self, absorbed: bool) -> None:
        self._absorbed = absorbed
        self._waiting: list[Tensor] = []
        self._moments: MomentSum | None = None

    def add(self, rows: Float[Tensor, "n d"]) -> None:
        """Take rows in."""
        self._waiting.append(rows)
        size = rows.shape[1] + self._absorbed
        if sum(len(waiting) for waiting in self._waiting) * rows.shape[1] > size * (size + 1) // 2:
            self._moments = self._moments or MomentSum(rows)
            self._moments.add(torch.cat(self._waiting))
            self._waiting = []

    def result(self, none: Float[Tensor, "0 d"]) -> Factor | Packed:
        """Whichever is smaller, and the end of the sum; `none` is what a concept has that no position reached."""
        rows, self._waiting = torch.cat([none, *self._waiting]), []
        if self._moments is None:
            return Factor(rows, self._absorbed)
        self._moments.add(rows)
        return Packed.of(self._moments.result(), self._absorbed)


@dataclass(frozen=True, eq=False)
class Decomposition(Mapping):  # of str to Engram; checking items' types at run time would make engrams
    """The engrams of many concepts, each made when it is asked for: `parts["A"]`, `parts.engram({"A", "B"})`.

    Attributes:
        model: the model, which must not change as long as engrams are asked for.
        kept: by concept and input, what its second moments follow from.
        counts: positions that counted, by concept.
        sites: the matrices.
        rtol: the spectral cut; see `extract`.
        absorb_bias: whether a bias is one more column of its weight.
        delta_from: the model of whose weights `W` is the difference, or None.
        absorbing: the inputs that have a row of ones.
        progress: whether making engrams shows a bar; see `decompose`.
    """

    model: nn.Module
    kept: dict[str, dict[str, Factor | Packed]]
    counts: dict[str, int]
    sites: list[Site]
    rtol: float | int | None
    absorb_bias: bool
    delta_from: nn.Module | None
    absorbing: set[str]
    progress: bool | None = field(default=None, kw_only=True)
    _checks: list[Tensor] = field(repr=False)
    _totals: dict[str, tuple[Tensor, Spectrum]] = field(default_factory=dict, repr=False)

    def __getitem__(self, name: str) -> Engram:
        if name not in self.kept:
            raise KeyError(f"the decomposition has no {name!r}; it has {_listed(self.kept)}")
        return self.engram(name)

    def __contains__(self, name: object) -> bool:
        return name in self.kept

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    def __iter__(self) -> Iterator[str]:
        return iter(self.kept)

    def __len__(self) -> int:
        return len(self.kept)

    def __repr__(self) -> str:
        return f"Decomposition({_listed(self.kept)}; {len(self.sites)} matrices of {adapt(self.model).info.name!r})"

    @property
    def n_floats(self) -> dict[str, int]:
        """Numbers kept of all concepts together, by input.

        The first engram adds the sum of all moments and its eigenvectors, `2 D^2` numbers an input, which every other
        engram then shares.
        """
        return {name: sum(concept[name].n_floats for concept in self.kept.values()) for name in by_input(self.sites)}

    def engram(self, names: str | Collection[str], filter: Function = soft) -> Engram:
        """The engram of one concept, or of several together, which is the sum of theirs unless a filter bends it.

        Args:
            names: of the concepts.
            filter: how much of a direction is taken; see `extract`.

        Raises:
            ValueError: a name that the decomposition does not have, or none at all; a filter that is none.
            RuntimeError: the model's weights are no longer what they were: ask for engrams outside of any edit.
        """
        chosen = self.chosen(names)
        adapter = adapt(self.model)
        return engram_of(
            adapter,
            self.sites,
            (part.change for part in self._parts(chosen, adapter, filter)),
            " + ".join(chosen),
            options_of(self.rtol, self.absorb_bias, self.delta_from, self._counts_of(chosen), filter=filter),
        )

    def ablate(self, names: str | Collection[str], alpha: Alpha = 1.0) -> nn.Module:
        """A copy of the model without the engrams of these concepts; see `Engram.ablate`."""
        return self.engram(names).ablate(self.model, alpha)

    def localize(self, names: str | Collection[str]) -> LocalizationMap:
        """The map of one concept, or of several together, against all others and the analytic null.

        Random sets of examples need the examples apart: `engram_interp.localize` with a `Concept` draws them.
        """
        chosen = self.chosen(names)
        adapter = adapt(self.model)
        made = self._parts(chosen, adapter)
        return map_of(adapter, self.sites, made, self._counts_of(chosen), " + ".join(chosen))

    def diagnose(self, names: str | Collection[str], rtols: Collection[float | int] = CUTS) -> Diagnosis:
        """The spectra and soft projectors of one concept, or of several together, against all others.

        Args:
            names: of the concepts.
            rtols: the cuts to compare, beside the decomposition's own.

        Raises:
            ValueError: a name that the decomposition does not have, or none at all.
            RuntimeError: the model's weights are no longer what they were.
        """
        chosen = self.chosen(names)
        adapter = adapt(self.model)
        made = self._parts(chosen, adapter)
        return diagnosis_of(adapter, self.sites, made, rtols, self.token_share(chosen), " + ".join(chosen))

    def chosen(self, names: str | Collection[str]) -> list[str]:
        """These concepts, in the decomposition's order.

        Raises:
            ValueError: a name that the decomposition does not have, or none at all.
        """
        asked = {names} if isinstance(names, str) else set(names)
        if not asked or not asked <= self.kept.keys():
            raise ValueError(
                f"the concepts are {_listed(self.kept)}; got {', '.join(sorted(map(repr, asked))) or 'none'}"
            )
        return [name for name in self.kept if name in asked]

    def token_share(self, names: str | Collection[str]) -> float:
        """`n/N`: the share of these concepts in the positions that count; what `filters.over` takes away."""
        counts = self._counts_of(self.chosen(names))
        return counts[TARGET] / sum(counts.values())

    def _counts_of(self, chosen: Sequence[str]) -> dict[str, int]:
        target = sum(self.counts[name] for name in chosen)
        return {TARGET: target, REFERENCE: sum(self.counts.values()) - target}

    def _parts(self, chosen: Sequence[str], adapter: Adapter, filter: Function = soft) -> Iterator[Part]:
        base = self.unchanged(adapter)
        for name, readers in bar(by_input(self.sites).items(), self.progress, "solving", "input"):
            S, every = self.total(name)
            S_plus = self.moment(name, chosen)
            data = InputData(name in self.absorbing, S_plus, S, every, self.rtol, filter)
            for site in readers:
                yield part_of(site, data, adapter, base)

    def unchanged(self, adapter: Adapter) -> Adapter | None:
        """The model of whose weights `W` is the difference, if there is one.

        Raises:
            RuntimeError: the weights of either are no longer what they were.
        """
        base = base_of(adapter, self.delta_from, self.sites)
        if not all(map(torch.equal, self._checks, checks_of(self.sites, adapter, base))):
            raise RuntimeError(
                "the weights are not those that were decomposed: take engrams before the model is edited, or outside "
                "of the block in which it is"
            )
        return base

    def total(self, name: str) -> tuple[Float[Tensor, "D D"], Spectrum]:
        """The second moment of one input over all concepts, and the directions that it has; factorised once."""
        if name not in self._totals:
            S = self.moment(name, list(self.kept))
            self._totals[name] = S, spectrum(S, 0.0)
        return self._totals[name]

    def moment(self, name: str, concepts: Sequence[str]) -> Float[Tensor, "D D"]:
        """The second moment of one input over some of the concepts."""
        kept = [self.kept[concept][name] for concept in concepts]
        # One matrix at a time: of many concepts, all of them side by side would be what packing avoids.
        matrices = (one.matrix for one in kept if isinstance(one, Packed))
        if factors := [one for one in kept if isinstance(one, Factor)]:
            joined = Factor(torch.cat([factor.X for factor in factors]), factors[0].absorbed)
            matrices = chain([joined.matrix], matrices)
        return reduce(torch.add, matrices)


@exclusive
def decompose(
    model: nn.Module,
    concepts: Mapping[str, Sequence[Example]],
    *,
    components: str | Collection[str] | None = None,
    layers: Layers = None,
    batch_size: int = BATCH_SIZE,
    rtol: float | int | None = None,
    absorb_bias: bool = True,
    delta_from: nn.Module | None = None,
    progress: bool | None = None,
) -> Decomposition:
    """Many concepts from one pass, each told apart from all others (paper, Eq. 6).

    Args:
        model: a `HookedTransformer` or `TransformerBridge`, whatever weight processing it was loaded with.
        concepts: examples by name, each as `Concept` takes them; what should only be told apart from goes in too, as a
            concept of its own.
        components: which matrices; every one that the model has by default.
        layers: which layers; all by default. The unembedding is in none: `layers` leaves it out, unless `components`
            names it.
        batch_size: examples in a batch.
        rtol: the spectral cut; see `extract`.
        absorb_bias: treat a bias as one more column of its weight, and extract its engram too.
        delta_from: take engrams of `W - W_0`, with `W_0` the weights of this model of the same shape.
        progress: True or False shows or hides the bar; None shows it in a terminal and in a notebook.

    Raises:
        ValueError: see `extract`.
        TypeError: something else than examples by name.

    Example:
        >>> from engram_interp import testbed
        >>> model, corpus = testbed.load("full"), testbed.authors()
        >>> people = {author.name: author.examples for author in corpus.forget10}
        >>> parts = decompose(model, {**people, "world": corpus.world_examples}, components="gate", layers=[0])
        >>> first, second, *_ = parts
        >>> edited = parts.ablate({first, second}, alpha=2.0)
    """
    if not isinstance(concepts, Mapping) or not all(isinstance(name, str) for name in concepts):
        raise TypeError(f'concepts are examples by name, as {{"A": [...], "rest": [...]}}; got {_shown(concepts)}')
    require_rtol(rtol)
    adapter = adapt(model)
    sites = adapter.sites(components, layers)
    base = base_of(adapter, delta_from, sites)
    absorbing = absorbing_inputs(adapter, base) if absorb_bias else set()
    encoded = encode_groups(concepts, adapter.encoder)
    if not encoded:
        raise ValueError("there is no concept to decompose: give examples by name")
    kept = _collect(adapter, sites, absorbing, encoded, batch_size, progress)
    counts = {name: sum(int(one.counts.sum()) for one in examples) for name, examples in encoded.items()}
    inputs = by_input(sites)
    n_rows = {name: sum(concept[name].n_rows for concept in kept.values()) for name in inputs}
    warn_of_few(n_rows, adapter.widths(inputs), sum(counts.values()))
    return Decomposition(
        model=model,
        kept=kept,
        counts=counts,
        sites=sites,
        rtol=rtol,
        absorb_bias=absorb_bias,
        delta_from=delta_from,
        absorbing=absorbing,
        progress=progress,
        _checks=checks_of(sites, adapter, base),
    )


def checks_of(sites: Sequence[Site], adapter: Adapter, base: Adapter | None) -> list[Float[Tensor, "2"]]:
    """Sum and norm of every weight and bias, to tell whether one has changed."""
    models = [one for one in (adapter, base) if one is not None]
    keys = [key for site in sites for key in (site.key, site.bias) if key is not None]
    values = (one.parameter(key).detach().double() for one in models for key in keys)
    return [torch.stack([value.sum(), value.norm()]).cpu() for value in values]


def _collect(
    adapter: Adapter,
    sites: Sequence[Site],
    absorbing: set[str],
    encoded: dict[str, list[TokenExample]],
    batch_size: int,
    progress: bool | None,
) -> dict[str, dict[str, Factor | Packed]]:
    inputs = by_input(sites)
    sums = [{name: ConceptSum(name in absorbing) for name in inputs} for _ in encoded]
    none: dict[str, Tensor] = {}

    def begin(batch: Batch) -> Record:
        concept = batch.groups[:, None].expand_as(batch.counts).flatten()
        return partial(_take_in, sums, none, batch.counts.flatten().nonzero().flatten(), concept)

    one_pass(adapter, sites, encoded, begin, batch_size, progress)
    return {
        concept: {name: total.result(none[name]) for name, total in by_name.items()}
        for concept, by_name in zip(encoded, sums, strict=True)
    }


def _take_in(
    sums: list[dict[str, ConceptSum]],
    none: dict[str, Tensor],
    at: Int[Tensor, "n"],
    concept: Int[Tensor, "batch_pos"],
    name: str,
    activation: Float[Tensor, "*positions d"],
    routed: Int[Tensor, "m"] | None = None,
) -> None:
    """Hand every concept its rows of an input."""
    rows, positions = finite_rows(name, activation, at, routed)
    none.setdefault(name, rows.new_zeros(0, rows.shape[1]))
    owner, order = concept[positions].sort(stable=True)
    owners, counts = owner.unique_consecutive(return_counts=True)
    split = rows[order.to(rows.device)].split(counts.tolist())
    for index, mine in zip(owners.tolist(), split, strict=True):
        sums[index][name].add(mine.clone())  # a view would keep the whole batch


def _shown(concepts: object) -> str:
    return f"the names {list(concepts)}" if isinstance(concepts, Mapping) else f"a {type(concepts).__name__}"


def _listed(names: Collection[str], at_most: int = 8) -> str:
    listed = ", ".join(map(repr, list(names)[:at_most]))
    return listed + (f", ... ({len(names)})" if len(names) > at_most else "")
