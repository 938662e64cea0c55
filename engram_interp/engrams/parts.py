"""Statistics + weights -> every matrix with what it reads: `S` is factorised once an input, `W+ = W S+ S^pinv` follows.

(Paper, Eq. 3 to 5.) Extracting, mapping and diagnosing all begin here: `prepare`, then `parts`.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor, nn

from engram_interp.common.heap import give_back_freed
from engram_interp.common.progress import bar
from engram_interp.concepts.concept import TARGET, Concept
from engram_interp.engrams.weights import absorbing_inputs, base_of, matrix_of, without_bias
from engram_interp.linalg.engram import engram_matrix
from engram_interp.linalg.filters import Function, soft, values_of
from engram_interp.linalg.norms import Heads
from engram_interp.linalg.ownership import Ownership, Shares, ownership
from engram_interp.linalg.second_moment import SecondMoment
from engram_interp.linalg.solution import Solution
from engram_interp.linalg.spectrum import Spectrum
from engram_interp.linalg.total import Total
from engram_interp.models import Adapter, adapt
from engram_interp.models.components import UNEMBED
from engram_interp.models.sites import Site, by_input
from engram_interp.options import Keep, Run, Solve, Which
from engram_interp.statistics.collect import collect
from engram_interp.statistics.sharing.ranks import Ranks, owners
from engram_interp.statistics.statistics import Statistics

logger = logging.getLogger("engram_interp")

HIDDEN = 0.05
"""If one direction puts more than this share of all others below the cut, a warning says so."""


@dataclass(frozen=True)
class Prepared:
    """What a model and a concept give.

    Attributes:
        adapter: the model.
        statistics: the concept's.
        sites: the matrices that are asked for, in the model's order.
    """

    adapter: Adapter
    statistics: Statistics
    sites: list[Site]


@dataclass(frozen=True)
class InputData:
    """What the data say about one input. It is the same for all matrices that read the input.

    Attributes:
        absorbed: whether the input has a row of ones, as the last of its `d` dimensions.
        target: second moment of the target.
        total: second moment of target and reference together, and its factorisations.
        solve: how the engram is solved for.
        shares: the eigenvalues and eigenvectors of `M`, by cut, as far as they are known.
    """

    absorbed: bool
    target: SecondMoment
    total: Total
    solve: Solve = field(default_factory=Solve)
    shares: dict[float | int | None, Shares] = field(default_factory=dict, repr=False)

    @property
    def S_plus(self) -> Float[Tensor, "d d"]:
        """Second moment of the target."""
        return self.target.S

    @property
    def S(self) -> Float[Tensor, "d d"]:
        """Second moment of target and reference together."""
        return self.total.S

    @property
    def width(self) -> int:
        """The size of the input, with the row of ones."""
        return self.total.moment.width

    @property
    def cut(self) -> float | int | None:
        """The cut, relative to the largest eigenvalue; None means the default."""
        return self.total.cut(self.solve.cut, self.solve.outliers)

    @property
    def solution(self) -> Solution:
        """How to apply `S^pinv`."""
        return self.total.solution(self.cut)

    @cached_property
    def kept(self) -> Spectrum:
        """The directions of `S` above the cut."""
        return self.total.kept(self.solve.cut, self.solve.outliers)

    @property
    def n_hidden(self) -> int:
        """How many directions the largest eigenvalue alone puts below the cut.

        Where the cut dropped nothing, or a few, the eigenvalues were not needed and there is nothing to say.
        """
        known = self.total.known
        return 0 if known is None or self.solve.outliers else known.hidden(self.solve.cut)

    @property
    def is_soft(self) -> bool:
        """Whether the filter is the paper's."""
        return self.solve.filter == soft

    @property
    def is_paper(self) -> bool:
        """Whether the engram is the paper's, with neither a filter nor a ridge: it needs no directions."""
        return self.is_soft and not self.solve.ridge

    @cached_property
    def P_plus(self) -> Float[Tensor, "d d"]:
        """The soft projector `P+` (paper, Eq. 5), or `g(P+)` with another filter."""
        return self.solution.solve(self.S_plus) if self.is_soft else self.owned.projector(self.solve.filter)

    def engram(self, W: Float[Tensor, "out d"]) -> Float[Tensor, "out d"]:
        """`W P+`, or `W g(P+)` with another filter (paper, Eq. 3)."""
        return engram_matrix(W, self.target, self.solution) if self.is_soft else W @ self.P_plus

    @cached_property
    def present(self) -> Float[Tensor, "k"]:
        """`lambda / (lambda + ridge)` of every kept direction: what a target that owns all of it would own."""
        return 1 - self.solve.ridge / self.kept.lam

    def null(self, W: Float[Tensor, "out d"], target_share: float, filter: Function) -> Float[Tensor, "out d"]:
        """The engram of a target that owns nothing of its own, `S+ = (n/N) S`: `(n/N) W Pi` without a filter.

        Args:
            W: a matrix.
            target_share: `n/N`, the target's share of the positions that count.
            filter: how much of a direction is taken.
        """
        if filter == soft and not self.solve.ridge:
            return target_share * self.solution.project(W)
        taken = values_of(filter, target_share * self.present)
        return (W @ self.kept.U * taken) @ self.kept.U.T

    @cached_property
    def owned(self) -> Ownership:
        """The target's share of every kept direction."""
        if self.cut not in self.shares:
            found = ownership(self.S_plus, self.kept)
            self.shares[self.cut] = found.share, found.V
        return Ownership(self.kept, self.S_plus, *self.shares[self.cut])


@dataclass(frozen=True)
class Change:
    """What can be subtracted from a matrix or added to it.

    Attributes:
        site: which matrix.
        matrix: `[out d]`, as the formulas have it.
        absorbed: whether the last column belongs to the bias.
    """

    site: Site
    matrix: Float[Tensor, "out d"]
    absorbed: bool


@dataclass(frozen=True)
class Part:
    """One matrix as the formulas have it, in float64. If its input has a row of ones, the bias is the last column.

    Attributes:
        site: which matrix.
        data: what it reads.
        W: the model's own.
        dW: what the engram is part of: `W`, or its difference from another model's.
        heads: where its heads lie; None for a matrix without heads.
    """

    site: Site
    data: InputData
    W: Float[Tensor, "out d"]
    dW: Float[Tensor, "out d"]
    heads: Heads | None

    @cached_property
    def W_plus(self) -> Float[Tensor, "out d"]:
        """The engram, `W+ = dW P+` (paper, Eq. 3)."""
        return self.data.engram(self.dW)

    @property
    def change(self) -> Change:
        """The engram, as what can be subtracted from the matrix."""
        return Change(self.site, self.W_plus, self.data.absorbed)

    def weight(self, matrix: Float[Tensor, "out d"]) -> Float[Tensor, "out in"]:
        """A matrix of this shape without its bias."""
        return without_bias(matrix, self.data.absorbed)


def prepare(
    model: nn.Module,
    concept: Concept | Statistics,
    which: Which,
    solve: Solve,
    run: Run,
    keep: Keep | None = None,
) -> Prepared:
    """The model, the concept's statistics, and the matrices that both give.

    Raises:
        ValueError: see `collect`; also if the statistics are of another model or lack an input that is asked for, or
            `delta_from` has other shapes.
        TypeError: if statistics are given that are there already, and options that say how to collect them.
    """
    keep = keep or Keep()
    if isinstance(concept, Statistics) and keep != Keep():
        given = ", ".join(name for name, value in vars(keep).items() if value != getattr(Keep(), name))
        raise TypeError(f"these statistics are collected already: {given} must be given to collect")
    adapter = adapt(model)
    if not isinstance(concept, Statistics):
        # A `delta_from` of other shapes is refused before the pass.
        base_of(adapter, solve.delta_from, adapter.sites(which.components, which.layers))
        # Nobody can ask these statistics again, so they need not keep what is factorised.
        concept = replace(collect(model, concept, **vars(which), **vars(run), **vars(keep)), keep_bytes=0)
    adapter.learn(concept.reads)
    return Prepared(adapter, concept, sites_of(adapter, concept, which))


def inputs_here(prepared: Prepared) -> list[str]:
    """The inputs that this process factorises: all of them, or its share in a process group."""
    ranks = Ranks.here()
    work = {name: d**3 for name, d in prepared.adapter.widths(by_input(prepared.sites)).items()}
    owned = owners(work, ranks.size)
    return [name for name in by_input(prepared.sites) if owned[name] == ranks.rank]


def parts(
    prepared: Prepared, solve: Solve, progress: bool | None, inputs: Collection[str] | None = None
) -> Iterator[Part]:
    """Every matrix with its engram. Matrices that share an input come together, and share its soft projector.

    Args:
        prepared: the model, the statistics and the matrices.
        solve: how engrams are solved for.
        progress: whether a bar is shown.
        inputs: what the matrices read. None takes all.
    """
    adapter, statistics = prepared.adapter, prepared.statistics
    base = base_of(adapter, solve.delta_from, prepared.sites)
    absorbing = absorbing_inputs(adapter, base) if solve.absorb_bias else set()
    hidden: dict[str, tuple[int, int, int]] = {}
    readers_of = {name: some for name, some in by_input(prepared.sites).items() if inputs is None or name in inputs}
    for name, readers in bar(readers_of.items(), progress, "solving", "input"):
        absorbed = name in absorbing
        data = input_data(statistics, name, absorbed, solve)
        for site in readers:
            yield part_of(site, data, adapter, base)
        if (n := data.n_hidden) > HIDDEN * data.width:
            hidden[name] = n, data.solution.rank, data.width
        del data  # the next input should not share the memory with this one
    warn_of_hidden(hidden)
    give_back_freed()


def input_data(statistics: Statistics, name: str, absorbed: bool, solve: Solve, group: str = TARGET) -> InputData:
    """What statistics say about one input. What is factorised of it, the statistics keep.

    Args:
        statistics: moments by group.
        name: the input.
        absorbed: whether it gets a row of ones.
        solve: how the engram is solved for.
        group: the target.
    """
    total = statistics.factorised(name, absorbed, solve.ridge)
    target = statistics.groups[group][name].of_inputs(absorbed).to(total.moment.device)
    return InputData(absorbed, target, total, solve, statistics.shares(name, absorbed, solve.ridge, group))


def warn_of_hidden(hidden: Mapping[str, tuple[int, int, int]]) -> None:
    """Warn of inputs of which one direction sets the cut.

    Args:
        hidden: by input, how many directions are dropped because of it, how many are kept, and how many there are.
    """
    if hidden:
        worst = sorted(hidden.items(), key=lambda item: -item[1][0])[:3]
        said = ", ".join(f"{name} (keeps {kept} of {d}, and would keep {n} more)" for name, (n, kept, d) in worst)
        logger.warning(
            "one direction, as of a massive activation, sets the cut of %d inputs: %s%s. outliers=0.01 sets such "
            "directions aside; diagnose shows what that changes", len(hidden), said, ", ..." if len(hidden) > 3 else "",
        )  # fmt: skip


@torch.no_grad()
def part_of(site: Site, data: InputData, adapter: Adapter, base: Adapter | None) -> Part:
    """One matrix with what it reads. With `base`, the engram is of the difference from that model."""
    W = matrix_of(adapter, site, data.absorbed).to(data.S.device)
    dW = W if base is None else W - matrix_of(base, site, data.absorbed).to(W)
    return Part(site, data, W, dW, adapter.heads(site))


def sites_of(adapter: Adapter, statistics: Statistics, which: Which) -> list[Site]:
    """The matrices that these statistics serve; by default those that they were collected for.

    Raises:
        ValueError: if the statistics are of another model, or lack the target or an input that is asked for.
    """
    statistics.info.require(adapter.info, "the statistics")
    if TARGET not in statistics.groups:
        raise ValueError(f"the statistics have no group {TARGET!r}, only {', '.join(statistics.groups)}")
    return served_sites(adapter, statistics, which)


def served_sites(adapter: Adapter, statistics: Statistics, which: Which) -> list[Site]:
    """The matrices that these statistics serve, whatever their groups.

    Raises:
        ValueError: if the statistics are of another model, or lack an input that is asked for.
    """
    statistics.info.require(adapter.info, "the statistics")
    sites = _chosen(adapter, statistics, which)
    if not sites:
        raise ValueError(
            f"nothing that the statistics were collected for ({', '.join(statistics.keys)}) lies in "
            f"components={which.components}, layers={which.layers}"
        )
    if missing := [site.key for site in sites if site.input not in statistics.inputs]:
        raise ValueError(f"the statistics lack the inputs of {', '.join(missing)}: collect them for these matrices")
    return sites


def _chosen(adapter: Adapter, statistics: Statistics, which: Which) -> list[Site]:
    """The matrices that are asked for; what is not said follows from what the statistics were collected for."""
    served = [site for site in adapter.all_sites() if site.key in set(statistics.keys)]
    if which.components is None:
        sites = adapter.sites({site.component for site in served}, which.layers)
        return [site for site in sites if site in served and (which.layers is None or site.layer is not None)]
    sites = adapter.sites(which.components, which.layers)
    if which.layers is not None:
        return sites
    layers = {site.layer for site in served}
    return [site for site in sites if site.layer in layers or site.component == UNEMBED]
