"""`W <- W_before + (W - W_before)(I - g(P+))`: a step of training without what it does to the inputs that are kept.

If `g(P+)` maps the kept inputs onto themselves, as a hard filter below their shares does, `W x` stays for each of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from engram_interp.concepts.concept import TARGET
from engram_interp.engrams.parts import HIDDEN, input_data, warn_of_hidden
from engram_interp.engrams.weights import matrix_in, write_matrix
from engram_interp.linalg.filters import Filter
from engram_interp.linalg.norms import output_norm, share
from engram_interp.linalg.second_moment import SecondMoment
from engram_interp.models import Adapter
from engram_interp.models.gradients import holders
from engram_interp.models.sites import Site, by_input, parameter_paths
from engram_interp.options import Solve
from engram_interp.statistics.statistics import Statistics
from engram_interp.statistics.sums import EXACT_BELOW

CUT = 1e-12
"""The default cut of inputs whose moments are summed in float64. A direction below an engram's cut would be free, and
kept inputs may have small parts there. Where sums are in float32, such small directions are noise."""


@dataclass(frozen=True)
class Projection:
    """What is kept of one input, and the matrices that read it.

    Attributes:
        P: `g(P+)`, in float64.
        target: the second moment of what is kept.
        readers: the matrices.
        absorbed: whether the last dimension is the bias's row of ones.
    """

    P: Float[Tensor, "d d"]
    target: SecondMoment
    readers: tuple[Site, ...]
    absorbed: bool

    def step(
        self, site: Site, before: Mapping[str, Tensor], now: Mapping[str, Tensor], exact: Mapping[str, Tensor]
    ) -> None:
        """Take out of a matrix's last step what it does to the kept inputs.

        Args:
            site: the matrix.
            before: the parameters before the step, by path.
            now: those after it, which are written into.
            exact: those in half precision as they were before they were rounded. They are written into too.
        """
        update = self.matrix(site, now) - self.matrix(site, before)
        whole = self.matrix(site, {**before, **exact}) + update - update @ self.P
        write_matrix(now, site, whole, self.absorbed)
        if site.path in exact:
            write_matrix(exact, site, whole, self.absorbed)

    def moved(self, site: Site, before: Mapping[str, Tensor], now: Mapping[str, Tensor]) -> tuple[float, float]:
        """`|(W - W_before) X+| / |W_before X+|` over all kept inputs, and the same of the one that moved most.

        The second is NaN where only the moments of inputs are known.
        """
        start = self.matrix(site, before)
        change = self.matrix(site, now) - start
        over_all = share(output_norm(change, self.target), output_norm(start, self.target)).item()
        if self.target.rows is None:
            return over_all, float("nan")
        of_rows = [(W @ self.target.rows.T.to(W)).norm(dim=0) for W in (change, start)]
        return over_all, share(*of_rows).max().item()

    def matrix(self, site: Site, parameters: Mapping[str, Tensor]) -> Float[Tensor, "out d"]:
        """A matrix in float64, with its bias as the last column if that is absorbed."""
        return matrix_in(parameters, site, self.absorbed).to(self.P.device)


def projections_of(adapter: Adapter, statistics: Statistics, sites: list[Site], solve: Solve) -> dict[str, Projection]:
    """The projection of every input.

    Args:
        adapter: the model.
        statistics: whose target is kept.
        sites: the matrices that are protected. Those that do not train are left out, and those that are multiplied
            outside of their layers too, whose inputs are not all known.
        solve: how shares are found, and the filter that says how much of each is kept.
    """
    found: dict[str, Projection] = {}
    hidden: dict[str, tuple[int, int, int]] = {}
    trains = _trained(adapter, sites)
    learning = [site for site in sites if site.path in trains and site.path not in adapter.elsewhere]
    for name, readers in by_input(learning).items():
        absorbed = solve.absorb_bias and any(_learns_bias(adapter, site, trains) for site in readers)
        narrow = solve.rtol is None and statistics.groups[TARGET][name].width < EXACT_BELOW
        data = input_data(statistics, name, absorbed, replace(solve, rtol=CUT) if narrow else solve)
        if (n := data.n_hidden) > HIDDEN * data.width:
            hidden[str(name)] = n, data.solution.rank, data.width
        found[str(name)] = Projection(_upright(data.P_plus, solve), data.target, tuple(readers), absorbed)
    warn_of_hidden(hidden)
    return found


def _learns_bias(adapter: Adapter, site: Site, trains: set[str]) -> bool:
    """Whether training moves a matrix's bias: TransformerLens has zeros where a model has none, which stay zeros."""
    return site.bias is not None and site.bias in trains and bool(adapter.parameter(site.bias).any())


def _trained(adapter: Adapter, sites: list[Site]) -> set[str]:
    """The weights and biases that training may move."""
    held = holders(adapter, parameter_paths(sites))
    return {path for path, some in held.items() if any(one.requires_grad for one in some)}


def _upright(P: Float[Tensor, "d d"], solve: Solve) -> Float[Tensor, "d d"]:
    """The orthogonal projector onto what a hard filter keeps; `P` itself of any other.

    It keeps the same inputs. An oblique one lengthens steps in other directions, and training then diverges.
    """
    if not (isinstance(solve.filter, Filter) and solve.filter.kind == "hard"):
        return P
    _, U = torch.linalg.eigh(P @ P.T)
    kept = U[:, len(U) - round(float(P.trace())) :]
    return kept @ kept.T
