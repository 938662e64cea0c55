"""Where does the memory sit? `|W+|_F / |W|_F` of every matrix and every head (W-Norm; paper, Section 7 and Fig. 9)."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float
from torch import Tensor, nn

from engram_interp import plots
from engram_interp.concept import BATCH_SIZE, Concept
from engram_interp.extraction import parts, sites_of, statistics_of
from engram_interp.models import adapt
from engram_interp.sites import (
    ATTENTION,
    COMPONENTS,
    UNEMBED,
    component_names,
    component_of,
    expert_of,
    head_norms,
    layer_of,
    share,
)
from engram_interp.statistics import Statistics


@dataclass(frozen=True, eq=False)
class LocalizationMap(Mapping[str, float]):
    """W-Norm of every matrix and every head.

    Attributes:
        engram_norms: by key, the Frobenius norms of `W+`, `[head]`; a matrix without heads has one.
        weight_norms: by key, those of `W`.
        n_layers: number of blocks of the model.
        name: the concept's name.
        model: the model's name.
    """

    engram_norms: dict[str, Float[Tensor, "head"]]
    weight_norms: dict[str, Float[Tensor, "head"]]
    n_layers: int
    name: str | None = None
    model: str = ""

    def __getitem__(self, key: str) -> float:
        if key not in self.engram_norms:
            raise KeyError(f"the map has no {key!r}; it has {', '.join(list(self.engram_norms)[:3])}, ...")
        return share(self.engram_norms[key].norm(), self.weight_norms[key].norm()).item()

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    def __iter__(self) -> Iterator[str]:
        return iter(self.engram_norms)

    def __len__(self) -> int:
        return len(self.engram_norms)

    def __repr__(self) -> str:
        return f"LocalizationMap({self.name!r}, {len(self)} matrices of {self.model!r})"

    @property
    def components(self) -> tuple[str, ...]:
        """The components in the map, in their standard order: the columns of `wnorm`."""
        present = {component_of(key) for key in self.engram_norms}
        return tuple(name for name in COMPONENTS if name in present)

    @property
    def wnorm(self) -> Float[Tensor, "layer component"]:
        """W-Norms, `[layer component]`, NaN where there is no such matrix; `W_U` stands in the last layer's row.

        The experts of a mixture are one matrix here: the norm of all their engrams over that of all their weights.
        """
        grid = torch.full((self.n_layers, len(self.components)), torch.nan)
        cells: dict[tuple[int, int], list[str]] = {}
        for key in self.engram_norms:
            layer = layer_of(key)
            place = (-1 if layer is None else layer), self.components.index(component_of(key))
            cells.setdefault(place, []).append(key)
        for place, keys in cells.items():
            part, whole = (torch.cat([norms[key] for key in keys]) for norms in (self.engram_norms, self.weight_norms))
            grid[place] = share(part.norm(), whole.norm())
        return grid

    def heads(self, component: str) -> Float[Tensor, "layer head"]:
        """W-Norms of single heads, `[layer head]`, NaN in layers that the map leaves out; K and V by key/value head.

        Raises:
            ValueError: a component without heads, or one that the map does not have.
        """
        (name,) = component_names(component)
        if name not in ATTENTION or name not in self.components:
            having = [known for known in self.components if known in ATTENTION]
            raise ValueError(f"the map has no heads of {name}; it has those of {', '.join(having) or 'no component'}")
        keys = {layer_of(key): key for key in self.engram_norms if component_of(key) == name}
        n_heads = len(self.engram_norms[next(iter(keys.values()))])
        grid = torch.full((self.n_layers, n_heads), torch.nan)
        for layer, key in keys.items():
            assert layer is not None
            grid[layer] = share(self.engram_norms[key], self.weight_norms[key])
        return grid

    def experts(self, component: str) -> Float[Tensor, "layer expert"]:
        """W-Norms of the experts of mixtures, `[layer expert]`, NaN in layers without one.

        Raises:
            ValueError: a component that no expert in the map has.
        """
        (name,) = component_names(component)
        if name not in self._of_experts:
            has = ", ".join(self._of_experts) or "no component"
            raise ValueError(f"the map has no experts of {name}; it has those of {has}")
        keys = [key for key in self.engram_norms if component_of(key) == name and expert_of(key) is not None]
        places = {key: (layer_of(key), expert_of(key)) for key in keys}
        n_experts = 1 + max(expert_of(key) or 0 for key in keys)
        grid = torch.full((self.n_layers, n_experts), torch.nan)
        for key, place in places.items():
            grid[place] = self[key]
        return grid

    @property
    def _of_experts(self) -> list[str]:
        names = {component_of(key) for key in self.engram_norms if expert_of(key) is not None}
        return [name for name in COMPONENTS if name in names]

    def to_frame(self) -> pd.DataFrame:
        """A row a matrix: `key`, `component`, `layer`, `expert` (missing where there is none) and `wnorm`."""
        rows = [(key, component_of(key), layer_of(key), expert_of(key), self[key]) for key in self.engram_norms]
        frame = pd.DataFrame(rows, columns=["key", "component", "layer", "expert", "wnorm"])
        return frame.astype({"layer": "Int64", "expert": "Int64"})

    def top(self, k: int = 10) -> pd.DataFrame:
        """The `k` matrices with the largest W-Norm, largest first."""
        return self.to_frame().sort_values("wnorm", ascending=False, ignore_index=True).head(k)

    def plot(self) -> go.Figure:
        """Heat map, components by layers, the unembedding in a row of its own."""
        grid, unembed = self.wnorm, None
        components = self.components
        if UNEMBED in components:
            grid, components, unembed = grid[:, :-1], components[:-1], self[f"unembed.{UNEMBED}"]
        return plots.wnorm_map(grid, components, unembed, self._title("W-Norm"))

    def plot_heads(self) -> go.Figure:
        """A heat map of every attention component, layers by heads."""
        grids = {name: self.heads(name) for name in self.components if name in ATTENTION}
        if not grids:
            raise ValueError("the map has no attention component, so there are no heads to plot")
        return plots.layer_maps(grids, "head", self._title("W-Norm by head"))

    def plot_experts(self) -> go.Figure:
        """A heat map of every MLP component, layers by experts."""
        grids = {name: self.experts(name) for name in self._of_experts}
        if not grids:
            raise ValueError("the map has no mixture of experts, so there are no experts to plot")
        return plots.layer_maps(grids, "expert", self._title("W-Norm by expert"))

    def _title(self, what: str) -> str:
        concept = f" of {self.name!r}" if self.name else ""
        return f"{what}{concept} in {self.model}"


def localize(
    model: nn.Module,
    concept: Concept | Statistics,
    *,
    components: str | Collection[str] | None = None,
    layers: int | Collection[int] | None = None,
    batch_size: int = BATCH_SIZE,
    rtol: float | int | None = None,
    absorb_bias: bool = True,
    delta_from: nn.Module | None = None,
    progress: bool | None = None,
) -> LocalizationMap:
    """W-Norm of every matrix and head: the norm of its engram over that of its weight.

    It is not bounded by 1: where tokens are hardly more than an input has dimensions, `P+` is far from a projection.

    Args:
        model: a `HookedTransformer` or `TransformerBridge`, whatever weight processing it was loaded with.
        concept: what to look for, or its statistics.
        components: which matrices; every one that the model has by default.
        layers: which layers; all by default. The unembedding is in none: `layers` leaves it out, unless `components`
            names it.
        batch_size: examples in a batch.
        rtol: the spectral cut; see `extract`.
        absorb_bias: whether a bias is one more column of its weight. W-Norm is over the weight alone all the same.
        delta_from: map the engram of `W - W_0`; the W-Norm stays a share of `|W|_F`, so an unmoved matrix has zero.
        progress: True or False shows or hides the bar; None shows it in a terminal only.

    Raises:
        ValueError: see `extract`.

    Example:
        >>> from engram_interp import testbed
        >>> wmap = localize(testbed.load("full"), testbed.authors().concept("Petra Dorlund"))
        >>> wmap.top(2)["component"].tolist()
        ['W_gate', 'W_in']
    """
    adapter = adapt(model)
    statistics = statistics_of(model, concept, components, layers, batch_size, progress)
    sites = sites_of(adapter, statistics, components, layers)
    engram_norms, weight_norms = {}, {}
    for part in parts(adapter, statistics, sites, rtol, absorb_bias, delta_from):
        engram_norms[part.site.key] = head_norms(part.site.component, part.W_plus).cpu()
        weight_norms[part.site.key] = part.weight_norms
    order = [site.key for site in sites]
    return LocalizationMap(
        engram_norms={key: engram_norms[key] for key in order},
        weight_norms={key: weight_norms[key] for key in order},
        n_layers=adapter.n_layers,
        name=statistics.name,
        model=adapter.info.name,
    )
