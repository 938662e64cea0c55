"""`W <- W_before + (W - W_before)(I - g(P+))`: a step of training without what it does to the inputs that are kept.

If `g(P+)` maps the kept inputs onto themselves, as a hard filter below their shares does, `W x` stays for each of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from engram_interp.engrams.parts import input_data
from engram_interp.linalg.norms import output_norm, share
from engram_interp.linalg.second_moment import SecondMoment
from engram_interp.models import Adapter
from engram_interp.models.gradients import holders
from engram_interp.models.sites import Site, by_input
from engram_interp.options import Solve
from engram_interp.statistics.statistics import Statistics


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

    def step(self, site: Site, before: Mapping[str, Tensor], now: Mapping[str, Tensor]) -> None:
        """Take out of a matrix's last step what it does to the kept inputs. Both mappings are of parameters by path."""
        start = self.matrix(site, before)
        update = self.matrix(site, now) - start
        self._write(site, now, start + update - update @ self.P)

    def moved(self, site: Site, before: Mapping[str, Tensor], now: Mapping[str, Tensor]) -> float:
        """`|(W - W_before) X+| / |W_before X+|`: how much the matrix's outputs have moved for the kept inputs."""
        start = self.matrix(site, before)
        change = self.matrix(site, now) - start
        return share(output_norm(change, self.target), output_norm(start, self.target)).item()

    def matrix(self, site: Site, parameters: Mapping[str, Tensor]) -> Float[Tensor, "out d"]:
        """A matrix in float64, with its bias as the last column if that is absorbed."""
        weight = site.matrix(parameters[site.path]).detach().double().to(self.P.device)
        if not self.absorbed:
            return weight
        bias = weight.new_zeros(len(weight))
        if site.bias is not None:
            bias = site.of_bias(parameters[site.bias]).detach().flatten().to(weight)
        return torch.cat([weight, bias[:, None]], dim=1)

    def _write(self, site: Site, parameters: Mapping[str, Tensor], matrix: Float[Tensor, "out d"]) -> None:
        part = site.of(parameters[site.path])
        weight = matrix[:, :-1] if self.absorbed else matrix
        part.copy_(site.layout.to_parameter(weight, like=part))
        if self.absorbed and site.bias is not None:
            bias = site.of_bias(parameters[site.bias])
            bias.copy_(matrix[:, -1].reshape(bias.shape))


def projections_of(adapter: Adapter, statistics: Statistics, sites: list[Site], solve: Solve) -> dict[str, Projection]:
    """The projection of every input.

    Args:
        adapter: the model.
        statistics: whose target is kept.
        sites: the matrices that are protected.
        solve: how shares are found, and the filter that says how much of each is kept.
    """
    found = {}
    for name, readers in by_input(sites).items():
        absorbed = any(_learns_bias(adapter, site) for site in adapter.all_sites() if site.input == name)
        data = input_data(statistics, name, absorbed, solve)
        found[str(name)] = Projection(data.P_plus, data.target, tuple(readers), absorbed)
    return found


def _learns_bias(adapter: Adapter, site: Site) -> bool:
    """Whether training moves a matrix's bias: TransformerLens has zeros where a model has none, which stay zeros."""
    if site.bias is None or not adapter.parameter(site.bias).any():
        return False
    return any(one.requires_grad for one in holders(adapter, [site.bias])[site.bias])
