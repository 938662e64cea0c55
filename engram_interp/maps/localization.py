"""Where does the memory sit, and would a map of any other examples show the same?

`|W+|_F / |W|_F` of every matrix and every head (W-Norm; paper, Section 7 and Fig. 9), and its ratio to what examples
that own nothing of their own would give: with `S+ = (n/N) S`, that is `W+ = (n/N) W Pi`, `Pi` the kept directions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from engram_interp.common.arguments import Layers
from engram_interp.concepts.concept import BATCH_SIZE, TARGET, Concept
from engram_interp.engrams.extract import Part, base_of, parts, sites_of, statistics_of
from engram_interp.figures import plots
from engram_interp.linalg.spectrum import require_rtol
from engram_interp.maps import nulls
from engram_interp.maps.quantities import sizes_of
from engram_interp.models import Adapter, adapt
from engram_interp.models.exclusive import exclusive
from engram_interp.models.sites import ATTENTION, COMPONENTS, UNEMBED, Site, component_names
from engram_interp.statistics.statistics import Statistics

NULLS = {"analytic": "its analytic null", "resampled": "random sets of examples"}
"""What sizes are compared with, and how figures call it."""
PLACE = ["key", "component", "layer", "expert"]
ALPHA = 0.05
"""A p-value of at most this is marked in figures."""

SCALES = {
    "wnorm": plots.Scale("W-Norm"),
    "fisher": plots.Scale("Fisher share"),
    "excess": plots.Scale("W-Norm over its null", ratio=True),
    "fisher_excess": plots.Scale("Fisher share over its null", ratio=True),
}
OF_EITHER_METRIC = ("expected", "excess", "p_value", "low", "high")
QUANTITIES = ("wnorm", *OF_EITHER_METRIC, "fisher", *(f"fisher_{name}" for name in OF_EITHER_METRIC))


@dataclass(frozen=True, eq=False)
class LocalizationMap(Mapping[str, float]):
    """Sizes of an engram, by matrix and by head, and what they would be of a concept that owns nothing of its own.

    As a mapping, W-Norm by key. The same in either metric, as columns of `to_frame()` and as `quantity` of `grid`,
    `heads`, `experts` and `plot`:

    ============== ====================== ==========================================================================
    W-Norm         Fisher
    ============== ====================== ==========================================================================
    `wnorm`        `fisher`               `|W+| / |W|`, in the Frobenius norm, and as `|W+ S^1/2| / |W S^1/2|`
    `expected`     `fisher_expected`      what the null gives: that of `(n/N) W Pi`, or the mean of random sets
    `excess`       `fisher_excess`        the ratio of the two; 1 is nothing of its own
    `p_value`      `fisher_p_value`       of random sets of as many examples, corrected for all matrices (or heads)
    `low`, `high`  `fisher_low`, `..high` a 95 % interval of the excess, over resamplings of the target's examples
    ============== ====================== ==========================================================================

    The last three come with `null="resampled"` alone.

    Attributes:
        table: a row a matrix (`head` is missing) and a row a head, with their `weight_norm`, `|W|_F`, and
            `output_norm`, `|W S^1/2|_F`.
        n_layers: number of blocks of the model.
        null: what sizes are compared with, `analytic` or `resampled`.
        name: the concept's name.
        model: the model's name.
        counts: how many positions count, by side.
    """

    table: pd.DataFrame
    n_layers: int
    null: str = "analytic"
    name: str | None = None
    model: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)

    def __getitem__(self, key: str) -> float:
        found = self._matrices.loc[self._matrices["key"] == key, "wnorm"].tolist()
        if not found:
            raise KeyError(f"the map has no {key!r}; it has {', '.join(list(self)[:3])}, ...")
        return float(found[0])

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    def __iter__(self) -> Iterator[str]:
        return iter(self._matrices["key"])

    def __len__(self) -> int:
        return len(self._matrices)

    def __repr__(self) -> str:
        return f"LocalizationMap({self.name!r}, {len(self)} matrices of {self.model!r}, {self.null} null)"

    def _repr_html_(self) -> str:
        from engram_interp.common.notebook import table_html

        by = "fisher_excess" if "fisher_excess" in self.quantities else "wnorm"
        columns = [one for one in ("wnorm", "excess", "fisher", by, "fisher_p_value") if one in self.quantities]
        lead = f"{len(self)} matrices of {self.model}, compared with {NULLS[self.null]}; the first by {by}:"
        return table_html("Localization map", self.name, lead, self.top(5, by).set_index("key")[columns])

    @property
    def _matrices(self) -> pd.DataFrame:
        return self.table[self.table["head"].isna()]

    @property
    def components(self) -> tuple[str, ...]:
        """The components in the map, in their standard order: the columns of `wnorm`."""
        present = set(self.table["component"])
        return tuple(name for name in COMPONENTS if name in present)

    @property
    def quantities(self) -> tuple[str, ...]:
        """What the map holds of every matrix and head."""
        return tuple(name for name in QUANTITIES if name in self.table)

    @property
    def wnorm(self) -> Float[Tensor, "layer component"]:
        """W-Norms; see `grid`."""
        return self.grid("wnorm")

    @property
    def excess(self) -> Float[Tensor, "layer component"]:
        """W-Norms over those of a concept that owns nothing of its own; see `grid`."""
        return self.grid("excess")

    @property
    def p_values(self) -> Float[Tensor, "layer component"]:
        """Of W-Norms, corrected for all matrices; see `grid`. In the Fisher metric: `grid("fisher_p_value")`."""
        return self.grid("p_value")

    def grid(self, quantity: str) -> Float[Tensor, "layer component"]:
        """A quantity by layer and component, NaN where there is no such matrix; `W_U` stands in the last layer's row.

        The experts of a mixture are one matrix here: sizes are of all their engrams together, the p-value is the least
        of theirs, and there is no interval.

        Raises:
            ValueError: a quantity that the map does not hold.
        """
        self._require(quantity)
        grid = torch.full((self.n_layers, len(self.components)), torch.nan)
        matrices = self._matrices
        rows = matrices["layer"].fillna(self.n_layers - 1)
        for (row, component), cell in matrices.groupby([rows, "component"]):
            grid[int(str(row)), self.components.index(str(component))] = _of_cell(cell, quantity)
        return grid

    def heads(self, component: str, quantity: str = "wnorm") -> Float[Tensor, "layer head"]:
        """A quantity of single heads, NaN in layers that the map leaves out; K and V by key/value head.

        Raises:
            ValueError: a component without heads, or one that the map does not have; a quantity that it does not hold.
        """
        name = _one_component(component)
        if name not in ATTENTION or name not in self.components:
            having = [known for known in self.components if known in ATTENTION]
            raise ValueError(f"the map has no heads of {name}; it has those of {', '.join(having) or 'no component'}")
        return self._places(
            self.table[(self.table["component"] == name) & self.table["head"].notna()], "head", quantity
        )

    def experts(self, component: str, quantity: str = "wnorm") -> Float[Tensor, "layer expert"]:
        """A quantity of the experts of mixtures, NaN in layers without one.

        Raises:
            ValueError: a component that no expert in the map has; a quantity that the map does not hold.
        """
        name = _one_component(component)
        if name not in self._of_experts:
            has = ", ".join(self._of_experts) or "no component"
            raise ValueError(f"the map has no experts of {name}; it has those of {has}")
        return self._places(
            self.table[(self.table["component"] == name) & self.table["expert"].notna()], "expert", quantity
        )

    def _places(self, rows: pd.DataFrame, unit: str, quantity: str) -> Float[Tensor, "layer unit"]:
        self._require(quantity)
        grid = torch.full((self.n_layers, int(rows[unit].max()) + 1), torch.nan)
        for layer, index, value in zip(rows["layer"], rows[unit], rows[quantity], strict=True):
            grid[int(layer), int(index)] = value
        return grid

    def _require(self, quantity: str) -> None:
        if quantity in self.quantities:
            return
        if quantity in QUANTITIES:
            raise ValueError(f'the map has no {quantity}: it comes with localize(..., null="resampled")')
        raise ValueError(f"the map has no {quantity!r}; it has {', '.join(self.quantities)}")

    @property
    def _of_experts(self) -> list[str]:
        names = set(self.table.loc[self.table["expert"].notna(), "component"])
        return [name for name in COMPONENTS if name in names]

    def to_frame(self) -> pd.DataFrame:
        """A row a matrix: `key`, `component`, `layer`, `expert` (missing where there is none) and every quantity."""
        return self._matrices[[*PLACE, *self.quantities]].reset_index(drop=True)

    def top(self, k: int = 10, by: str = "wnorm") -> pd.DataFrame:
        """The `k` matrices that are largest in a quantity, largest first; of p-values, the smallest.

        Raises:
            ValueError: a quantity that the map does not hold, or a `k` below 1.
        """
        self._require(by)
        if k < 1:
            raise ValueError(f"k is the number of matrices to show, 1 or more; got {k}")
        frame = self.to_frame()
        if not by.endswith("p_value"):
            return frame.sort_values(by, ascending=False, ignore_index=True).head(k)
        # Many p-values are the smallest there can be.
        return frame.sort_values(
            [by, by.replace("p_value", "excess")], ascending=[True, False], ignore_index=True
        ).head(k)

    def plot(self, quantity: str = "wnorm") -> go.Figure:
        """Heat map, components by layers, the unembedding in a row of its own; a star marks what is significant.

        Args:
            quantity: `wnorm`, `excess`, `fisher` or `fisher_excess`.

        Raises:
            ValueError: another quantity.
        """
        grid, significant, components = self.grid(quantity), self._significant(quantity, self.grid), self.components
        title, scale = self._title(quantity), SCALES[quantity]
        if UNEMBED not in components:
            return plots.component_map(grid, significant, components, None, scale, title)
        unembed = float(grid[-1, -1]), bool(significant[-1, -1])
        return plots.component_map(grid[:, :-1], significant[:, :-1], components[:-1], unembed, scale, title)

    def plot_heads(self, quantity: str = "wnorm") -> go.Figure:
        """A heat map of every attention component, layers by heads; see `plot`."""
        names = [name for name in self.components if name in ATTENTION]
        if not names:
            raise ValueError("the map has no attention component, so there are no heads to plot")
        return self._plot_units("head", names, self.heads, quantity)

    def plot_experts(self, quantity: str = "wnorm") -> go.Figure:
        """A heat map of every MLP component, layers by experts; see `plot`."""
        if not self._of_experts:
            raise ValueError("the map has no mixture of experts, so there are no experts to plot")
        return self._plot_units("expert", self._of_experts, self.experts, quantity)

    def _plot_units(
        self, unit: str, names: Sequence[str], units: Callable[[str, str], Tensor], quantity: str
    ) -> go.Figure:
        title = self._title(quantity, f" by {unit}")
        grids = {name: units(name, quantity) for name in names}
        significant = {name: self._significant(quantity, partial(units, name)) for name in names}
        return plots.layer_maps(grids, significant, unit, SCALES[quantity], title)

    def _significant(self, quantity: str, grid: Callable[[str], Tensor]) -> Bool[Tensor, "..."]:
        """Where the quantity's metric is significant; nowhere, where the map has no p-values."""
        p_value = "fisher_p_value" if quantity.startswith("fisher") else "p_value"
        return grid(p_value) <= ALPHA if p_value in self.quantities else torch.zeros_like(grid(quantity)).bool()

    def _title(self, quantity: str, by: str = "") -> str:
        if quantity not in SCALES:
            raise ValueError(f"a map is drawn of {', '.join(SCALES)}; got {quantity!r}")
        concept = f" of {self.name!r}" if self.name else ""
        stars = f" (* p ≤ {ALPHA:g}, family-wise)" if "p_value" in self.quantities else ""
        what = SCALES[quantity].title.replace("its null", NULLS[self.null])
        return f"{what}{by}{concept} in {self.model}{stars}"


def _one_component(component: str) -> str:
    if not isinstance(component, str):
        raise TypeError(f"expected one component, as 'W_Q'; got {component!r}")
    return component_names(component)[0]


def _of_cell(cell: pd.DataFrame, quantity: str) -> float:
    """A quantity of a matrix, or of the experts of a layer together."""
    if len(cell) == 1:
        return float(cell[quantity].iloc[0])
    if quantity.endswith("p_value"):
        return float(cell[quantity].min())
    whole = cell["output_norm" if quantity.startswith("fisher") else "weight_norm"]

    def together(share: str) -> float:
        return math.hypot(*(cell[share] * whole))

    match quantity:
        case "wnorm" | "expected" | "fisher" | "fisher_expected":
            return _over(together(quantity), math.hypot(*whole))
        case "excess":
            return _over(together("wnorm"), together("expected"))
        case "fisher_excess":
            return _over(together("fisher"), together("fisher_expected"))
    return math.nan


def _over(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


@exclusive
def localize(
    model: nn.Module,
    concept: Concept | Statistics,
    *,
    null: str = "analytic",
    draws: int = 499,
    seed: int = 0,
    components: str | Collection[str] | None = None,
    layers: Layers = None,
    batch_size: int = BATCH_SIZE,
    rtol: float | int | None = None,
    absorb_bias: bool = True,
    delta_from: nn.Module | None = None,
    progress: bool | None = None,
) -> LocalizationMap:
    """How much of every matrix and head is the concept's, and how much that is over a concept of no memory of its own.

    W-Norm is not bounded by 1: where tokens are hardly more than an input has dimensions, `P+` is no projection.

    Args:
        model: a `HookedTransformer` or `TransformerBridge`, whatever weight processing it was loaded with.
        concept: what to look for, or its statistics.
        null: what sizes are compared with. `"analytic"`, at no cost: a target with the second moments of all examples,
            which the noise of a small one exceeds by itself. `"resampled"`: random sets of as many examples, of target
            and reference together, which have that noise too; it gives p-values and intervals. Every input's rows are
            kept for it, and the memory and time that this takes are logged before it starts.
        draws: how many random sets; p-values are multiples of `1 / (draws + 1)`.
        seed: of the sets.
        components: which matrices; every one that the model has by default.
        layers: which layers; all by default. The unembedding is in none: `layers` leaves it out, unless `components`
            names it.
        batch_size: examples in a batch.
        rtol: the spectral cut; see `extract`.
        absorb_bias: whether a bias is one more column of its weight. W-Norm is over the weight alone all the same, the
            Fisher share over both.
        delta_from: map the engram of `W - W_0`; sizes stay shares of `W`, and an unmoved matrix has zero.
        progress: True or False shows or hides the bar; None shows it in a terminal and in a notebook. What a resampled
            null costs is logged as a warning, which Python shows by default, and with False as information.

    Raises:
        ValueError: see `extract`; another `null`, or fewer than 19 draws, too few for a p-value of 0.05.
        TypeError: statistics, which hold no single examples, for a resampled null.

    Example:
        >>> from engram_interp import testbed
        >>> wmap = localize(testbed.load("full"), testbed.authors().concept("Petra Dorlund"))
        >>> wmap.top(2)["component"].tolist()
        ['W_gate', 'W_in']
    """
    if null not in NULLS:
        raise ValueError(f"null is {' or '.join(map(repr, NULLS))}, got {null!r}")
    adapter = adapt(model)
    resampling = None
    if null == "resampled":
        require_rtol(rtol)
        base_of(adapter, delta_from, adapter.sites(components, layers))
        resampling = nulls.resampling(model, concept, draws, seed, components, layers, batch_size, progress)
        concept = resampling.statistics
    statistics = statistics_of(model, concept, components, layers, batch_size, progress)
    sites = sites_of(adapter, statistics, components, layers)
    made = parts(adapter, statistics, sites, rtol, absorb_bias, delta_from, progress=progress)
    return map_of(adapter, sites, made, statistics.counts, statistics.name, resampling)


def map_of(
    adapter: Adapter,
    sites: Sequence[Site],
    made: Iterable[Part],
    counts: Mapping[str, int],
    name: str | None,
    resampling: nulls.Resampling | None = None,
) -> LocalizationMap:
    """The map of matrices whose engrams are at hand.

    Args:
        adapter: the model.
        sites: the matrices, in the order of the map.
        made: them and their engrams, in any order.
        counts: how many positions count, by side.
        name: of the concept.
        resampling: random sets to compare with, where there are any.
    """
    target_share = counts[TARGET] / sum(counts.values())
    sizes: dict[str, nulls.Sizes] = {}
    drawn: dict[str, nulls.Sizes] = {}
    for part in made:
        sizes[part.site.key] = sizes_of(part, target_share)
        if resampling is not None:
            drawn[part.site.key] = resampling.excess(part, sizes[part.site.key])
    if resampling is not None:
        sizes = nulls.significance(sizes, drawn, n_target=resampling.sets.shape[1])
    table = pd.concat([_table(site, sizes[site.key]) for site in sites], ignore_index=True)
    table = table.astype({"layer": "Int64", "expert": "Int64", "head": "Int64"})
    null = "analytic" if resampling is None else "resampled"
    return LocalizationMap(table, adapter.n_layers, null, name, adapter.info.name, dict(counts))


def _table(site: Site, sizes: nulls.Sizes) -> pd.DataFrame:
    """A row for the matrix and one for every head."""
    numbers = {name: values.tolist() for name, values in sizes.items()}
    heads = [None, *range(len(numbers["wnorm"]) - 1)]
    place = {"key": site.key, "component": site.component, "layer": site.layer, "expert": site.expert}
    return pd.DataFrame({"head": heads, **numbers}, dtype=object).assign(**place).astype(dict.fromkeys(numbers, float))
