"""`LocalizationMap`: where does the memory sit? Sizes of an engram by matrix, head and expert, and their null."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from engram_interp.common.mappings import IdentityMapping
from engram_interp.figures.scale import Scale
from engram_interp.maps.compared_with import NULLS, SIBLINGS
from engram_interp.maps.grids import component_grid, in_order, largest, one_component, unit_grid
from engram_interp.maps.map_file import OTHERS, read_map, write_map
from engram_interp.maps.quantities import FISHER, MAP_QUANTITIES, RELATIVE, RELIANCE, SCORE, STANDARDISED, WNORM
from engram_interp.models.components import COMPONENTS, UNEMBED
from engram_interp.sharing.card import Content
from engram_interp.sharing.shared import Shared

if TYPE_CHECKING:
    import plotly.graph_objects as go

PLACE = ["key", "component", "layer", "expert"]
N_ON_CARD = 5
"""How many matrices a card names."""
SIGNIFICANT = 0.05
"""Figures mark a p-value of at most this."""
DRAWN = ("wnorm", "fisher", "excess", "fisher_excess", "gain", "gain_excess", "oblique_gain", "score", "reliance")
"""The quantities that a map draws, if it holds them."""


@dataclass(frozen=True, eq=False)
class LocalizationMap(IdentityMapping[str, float], Shared):
    """Sizes of an engram by matrix and by head, and what they would be for a target that owns nothing of its own.

    As a mapping, it is the W-Norm by key. Both metrics have the same columns in `to_frame()`, and the same names for
    `quantity` in `grid`, `heads`, `experts` and `plot`:

    ============== ====================== ==========================================================================
    W-Norm         Fisher
    ============== ====================== ==========================================================================
    `wnorm`        `fisher`               `|W+| / |W|` in the Frobenius norm, and `|W+ S^1/2| / |W S^1/2|`
    `expected`     `fisher_expected`      what the null gives: `(n/N) W Pi`, or the mean of random sets
    `null_low`     `fisher_null_low`      where the middle 95 % of random sets begin
    `null_high`    `fisher_null_high`     where they end
    `excess`       `fisher_excess`        their ratio; 1 means nothing of its own
    `p_value`      `fisher_p_value`       against random sets of equal size, corrected for all matrices (or heads)
    `low`, `high`  `fisher_low`, `..high` a 95 % interval of the excess, over resamplings of the target's examples
    ============== ====================== ==========================================================================

    A map that is compared with sets of examples (`null="siblings"` or `"resampled"`) has the band of the null and the
    last three, and as many columns for three more quantities, whose other columns begin with their name
    (`gain_p_value`):

    ============== ================================================================================================
    `gain`         `|W U M| / |M|`: how much of the soft projector a matrix lets through, over what it would let
                   through of an even one. 1 means no more of the target's directions than of others.
    `oblique_gain` the same of the oblique projector: `(|W P+| / |W|) / |P+|`
    `score`        how unusual the gain and the place are, in standard deviations of the sets: see `maps/scores`.
                   `score_excess` is how far it is above the other matrices, which its p-value asks for too.
    `reliance`     with `gradient=True`: how much more the target's answers rely on the matrix than others' do, in
                   standard deviations of the sets: see `maps/reliance`. Its p-value is corrected for all matrices
                   (or heads). It has no excess and no interval.
    ============== ================================================================================================

    With `null="siblings"`, the score is what `top` and `plot` show by default. It found planted memories best
    (`benchmarks.localization`). In other maps it is the W-Norm, as in the paper.

    Attributes:
        table: a row for each matrix (without a `head`) and for each head, with the matrix's own `weight_norm`, `|W|_F`,
            and `output_norm`, `|W S^1/2|_F`.
        n_layers: number of blocks of the model.
        null: what sizes are compared with, `analytic`, `resampled` or `siblings`.
        name: the concept's name.
        model: the model's name.
        counts: how many positions count, by side.
        positions: which positions of a pair count, as `Concept` names them. None if masks said so.
        memories: how many memories sizes are compared with, and what said which examples make up one; if it is memories
            that they are compared with.
    """

    table: pd.DataFrame
    n_layers: int
    null: str = "analytic"
    name: str | None = None
    model: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)
    positions: str | None = None
    memories: str | None = None

    _KINDS: ClassVar[tuple[str, ...]] = ("map",)

    def __getitem__(self, key: str) -> float:
        found = self._matrices.loc[self._matrices["key"] == key, "wnorm"].tolist()
        if groups := self._of_groups(key):
            return groups
        if not found:
            raise KeyError(f"the map has no {key!r}; it has {', '.join(list(self)[:3])}, ...")
        return float(found[0])

    def _of_groups(self, key: str) -> float:
        """The W-Norm of a parameter that holds several matrices, all together; 0 if it holds one."""
        rows = self._matrices[self._matrices["key"].str.startswith(f"{key}[")]
        whole = math.hypot(*rows["weight_norm"])
        return math.hypot(*(rows["wnorm"] * rows["weight_norm"])) / whole if whole else 0.0

    def __iter__(self) -> Iterator[str]:
        return iter(self._matrices["key"])

    def __len__(self) -> int:
        return len(self._matrices)

    def __repr__(self) -> str:
        return f"LocalizationMap({self.name!r}, {len(self)} matrices of {self.model!r}, {self.null} null)"

    def _repr_html_(self) -> str:
        return _html(self)

    @property
    def _matrices(self) -> pd.DataFrame:
        return self.table[self.table["head"].isna()]

    @property
    def components(self) -> tuple[str, ...]:
        """The components in the map, in their standard order or that of calls: the columns of `wnorm`."""
        return in_order(self.table["component"])

    @property
    def is_plain(self) -> bool:
        """Whether it is of a plain module, whose components are its modules, in the order of calls."""
        return not set(self.components) <= set(COMPONENTS)

    @property
    def quantities(self) -> tuple[str, ...]:
        """What the map holds of every matrix and head."""
        return tuple(name for name in MAP_QUANTITIES if name in self.table)

    @property
    def wnorm(self) -> Float[Tensor, "layer component"]:
        """W-Norms; see `grid`."""
        return self.grid("wnorm")

    @property
    def excess(self) -> Float[Tensor, "layer component"]:
        """W-Norms over those of a target that owns nothing of its own; see `grid`."""
        return self.grid("excess")

    @property
    def p_values(self) -> Float[Tensor, "layer component"]:
        """p-values of W-Norms, corrected for all matrices; see `grid`. For the Fisher metric: `fisher_p_value`."""
        return self.grid("p_value")

    def grid(self, quantity: str) -> Float[Tensor, "layer component"]:
        """A quantity by layer and component. It is NaN where there is no matrix; `W_U` stands in the last layer's row.

        The experts of a mixture are one matrix here: its size is that of all their engrams together, its p-value the
        smallest of theirs, and it has no interval.

        Raises:
            ValueError: if the map does not hold the quantity.
        """
        require_quantity(self, quantity)
        return component_grid(self._matrices, quantity, self.n_layers, self.components)

    def heads(self, component: str, quantity: str = "wnorm") -> Float[Tensor, "layer head"]:
        """A quantity of single heads, NaN in layers that the map leaves out; K and V by key/value head.

        Raises:
            ValueError: if the component has no heads or is not in the map, or the map does not hold the quantity.
        """
        return _units(self, component, quantity, "head", _with_heads(self))

    def experts(self, component: str, quantity: str = "wnorm") -> Float[Tensor, "layer expert"]:
        """A quantity of single experts, NaN in layers without a mixture.

        Raises:
            ValueError: if no expert in the map has the component, or the map does not hold the quantity.
        """
        return _units(self, component, quantity, "expert", _with_experts(self))

    def to_frame(self) -> pd.DataFrame:
        """A row for each matrix: `key`, `component`, `layer`, `expert` (missing outside a mixture), quantities."""
        return self._matrices[[*PLACE, *self.quantities]].reset_index(drop=True)

    @property
    def main(self) -> str:
        """What ranks the map by default: `score` if it is compared with sibling memories, and else `wnorm`."""
        return SCORE.name if self.null == SIBLINGS else WNORM.name

    @property
    def over_null(self) -> str:
        """What says most of a place beyond the null: `score` against sibling memories, and else `fisher_excess`."""
        return SCORE.name if self.null == SIBLINGS else FISHER.column("excess")

    def top(self, k: int = 10, by: str | None = None) -> pd.DataFrame:
        """The `k` matrices that are largest in a quantity, largest first. For p-values, the smallest come first.

        Args:
            k: how many.
            by: the quantity. None takes `main`.

        Raises:
            ValueError: if the map does not hold the quantity, or `k` is below 1.
        """
        by = self.main if by is None else by
        require_quantity(self, by)
        return largest(self.to_frame(), k, by)

    def save(self, path: str | Path) -> None:
        """Write a safetensors file that `LocalizationMap.load` reads back, to the bit."""
        write_map(path, self.table, self.others)

    @classmethod
    def load(cls, path: str | Path) -> LocalizationMap:
        """A map that `save` wrote.

        Raises:
            ValueError: if the file is foreign, of another version, cut short or altered, or holds no map.
        """
        return cls(**read_map(path))

    @property
    def others(self) -> dict[str, Any]:
        """What the map has beside its table, as JSON holds it."""
        return {name: dict(self.counts) if name == "counts" else getattr(self, name) for name in OTHERS}

    def _card(self) -> Content:
        by = self.over_null if self.over_null in self.quantities else WNORM.name
        columns = [
            name for name in dict.fromkeys((by, MAP_QUANTITIES[by].beside("p_value"), "wnorm")) if name in self.table
        ]
        facts = {"model": self.model, "matrices": len(self), "compared with": _compared_with(self)}
        return Content(
            kind=self._KINDS[0],
            concept=self.name,
            model=self.model,
            facts=facts | {f"{side} tokens": n for side, n in self.counts.items()} | {"positions": self.positions},
            does=f"The first matrices by {by}:",
            rows=self.top(N_ON_CARD, by)[["key", *columns]].to_dict("records"),
            code="import engram_interp as ei\n\nwmap = ei.LocalizationMap.from_pretrained({place!r})\nwmap.plot()",
        )

    def plot(self, quantity: str | None = None) -> go.Figure:
        """Heat map, components by layers, with the unembedding in a row of its own. A star marks what is significant.

        Of a plain module it is a bar for each matrix, in the order of calls.

        Args:
            quantity: `wnorm`, `excess`, `fisher`, `fisher_excess`, and with sets of examples `gain`, `gain_excess`,
                `oblique_gain`, `score` or `reliance`. None takes `main`.

        Raises:
            ValueError: if `quantity` is another one.
        """
        from engram_interp.figures.maps import component_map, module_bars

        quantity = self.main if quantity is None else quantity
        if self.is_plain:
            title, frame = _title(self, quantity), self.to_frame()
            names, values = frame["key"].tolist(), frame[quantity].tolist()
            return module_bars(names, values, _stars(self, frame, quantity), map_scale(quantity), title)
        title, scale, components = _title(self, quantity), map_scale(quantity), self.components
        grid, significant = self.grid(quantity), significant_in(self, quantity, self.grid)
        if UNEMBED not in components:
            return component_map(grid, significant, components, None, scale, title)
        unembed = float(grid[-1, -1]), bool(significant[-1, -1])
        return component_map(grid[:, :-1], significant[:, :-1], components[:-1], unembed, scale, title)

    def plot_heads(self, quantity: str | None = None) -> go.Figure:
        """A heat map for every attention component, layers by heads; see `plot`."""
        return _plot_units(self, "head", _with_heads(self), self.heads, quantity)

    def plot_experts(self, quantity: str | None = None) -> go.Figure:
        """A heat map for every MLP component, layers by experts; see `plot`."""
        return _plot_units(self, "expert", _with_experts(self), self.experts, quantity)


def _html(wmap: LocalizationMap) -> str:
    """What a notebook shows: the first matrices."""
    from engram_interp.common.html import table_html
    from engram_interp.figures.small import bars, cells

    by = wmap.over_null if wmap.over_null in wmap.quantities else WNORM.name
    shown = (
        ("score", "score_p_value", "reliance", "reliance_p_value", "gain")
        if wmap.null == SIBLINGS
        else ("excess", "fisher_excess", "fisher_p_value")
    )
    columns = [one for one in (*shown, "wnorm", "fisher") if one in wmap.quantities]
    lead = f"{len(wmap)} matrices of {wmap.model}, compared with {_compared_with(wmap)}; the first by {by}:"
    first = wmap.top(N_ON_CARD, by).set_index("key")
    if wmap.is_plain:
        picture = bars(first[by].astype(float).to_dict(), f"{by} of the first matrices")
    else:
        layers = [f"layer {layer}" for layer in range(wmap.n_layers)]
        picture = cells(
            wmap.grid(by).T.tolist(), wmap.components, layers, map_scale(by), f"{by} by component and layer"
        )
    return table_html("Localization map", wmap.name, lead, first[columns], picture)


def _compared_with(wmap: LocalizationMap) -> str:
    return NULLS[wmap.null] if wmap.memories is None else wmap.memories


def require_quantity(wmap: LocalizationMap, quantity: str) -> None:
    """Check that a map holds a quantity.

    Raises:
        ValueError: if it does not; the message says what it holds.
    """
    if quantity in wmap.quantities:
        return
    if quantity in MAP_QUANTITIES and MAP_QUANTITIES[quantity].metric is RELIANCE:
        raise ValueError(f'the map has no {quantity}: it comes with localize(..., null="siblings", gradient=True)')
    if quantity in MAP_QUANTITIES:
        raise ValueError(f'the map has no {quantity}: it comes with localize(..., null="siblings") or "resampled"')
    raise ValueError(f"the map has no {quantity!r}; it has {', '.join(wmap.quantities)}")


def _with_heads(wmap: LocalizationMap) -> list[str]:
    having = set(wmap.table.loc[wmap.table["head"].notna(), "component"])
    return [name for name in wmap.components if name in having]


def _with_experts(wmap: LocalizationMap) -> list[str]:
    names = set(wmap.table.loc[wmap.table["expert"].notna(), "component"])
    return [name for name in wmap.components if name in names]


def _units(
    wmap: LocalizationMap, component: str, quantity: str, unit: str, having: Sequence[str]
) -> Float[Tensor, "layer unit"]:
    name = one_component(component, wmap.components)
    if name not in having:
        raise ValueError(f"the map has no {unit}s of {name}; it has those of {', '.join(having) or 'no component'}")
    require_quantity(wmap, quantity)
    rows = _of_unit(wmap, name, unit)
    return unit_grid(rows, unit, quantity, wmap.n_layers)


def _of_unit(wmap: LocalizationMap, component: str, unit: str) -> pd.DataFrame:
    """The rows of a component's heads, or of its experts without their heads."""
    whole = wmap.table["head"].isna() if unit == "expert" else wmap.table["head"].notna()
    return wmap.table[(wmap.table["component"] == component) & wmap.table[unit].notna() & whole]


def _plot_units(
    wmap: LocalizationMap, unit: str, names: Sequence[str], units: Callable[[str, str], Tensor], quantity: str | None
) -> go.Figure:
    from engram_interp.figures.maps import layer_maps

    if not names:
        raise ValueError(f"the map has no component with {unit}s, so there are no {unit}s to plot")
    quantity = wmap.main if quantity is None else quantity
    if wmap.is_plain:
        return _plot_rows(wmap, unit, names, quantity)
    title = _title(wmap, quantity, f" by {unit}")
    grids = {name: units(name, quantity) for name in names}
    significant = {name: significant_in(wmap, quantity, partial(units, name)) for name in names}
    return layer_maps(grids, significant, unit, map_scale(quantity), title)


def _plot_rows(wmap: LocalizationMap, unit: str, names: Sequence[str], quantity: str) -> go.Figure:
    """A heat map with a row for each module and a column for each of its units."""
    from engram_interp.figures.maps import unit_rows

    what = "channel or head" if unit == "head" else "group"
    title = _title(wmap, quantity, f" by {what}")
    rows = {name: _of_unit(wmap, name, unit) for name in names}
    values = {name: frame.sort_values(unit)[quantity].tolist() for name, frame in rows.items()}
    stars = {name: _stars(wmap, frame.sort_values(unit), quantity) for name, frame in rows.items()}
    return unit_rows(values, stars, what, map_scale(quantity), title)


def _stars(wmap: LocalizationMap, frame: pd.DataFrame, quantity: str) -> list[bool]:
    """Which rows are significant in the quantity's metric: none in a map without p-values."""
    p_value = MAP_QUANTITIES[quantity].beside("p_value")
    return (frame[p_value] <= SIGNIFICANT).tolist() if p_value in wmap.quantities else [False] * len(frame)


def significant_in(wmap: LocalizationMap, quantity: str, grid: Callable[[str], Tensor]) -> Bool[Tensor, "..."]:
    """Where the quantity's metric is significant: nowhere in a map without p-values."""
    p_value = MAP_QUANTITIES[quantity].beside("p_value")
    if p_value not in wmap.quantities:
        return torch.zeros_like(grid(quantity)).bool()
    return grid(p_value) <= SIGNIFICANT


def map_scale(quantity: str) -> Scale:
    """What the colours of a quantity mean."""
    found = MAP_QUANTITIES[quantity]
    if found.metric in STANDARDISED:
        return Scale(f"{found.metric.title}, in standard deviations over its null", signed=True)
    over_null = found.kind == "excess"
    title = f"{found.metric.title} over its null" if over_null else found.metric.title
    return Scale(title, ratio=over_null or found.metric in RELATIVE)


def _title(wmap: LocalizationMap, quantity: str, by: str = "") -> str:
    if quantity not in DRAWN:
        raise ValueError(f"a map draws {', '.join(DRAWN)}; got {quantity!r}")
    concept = f" of {wmap.name!r}" if wmap.name else ""
    metric = MAP_QUANTITIES[quantity].metric
    family = "" if metric is SCORE else ", family-wise"
    stars = f" (* p ≤ {SIGNIFICANT:g}{family})" if "p_value" in wmap.quantities else ""
    if metric in STANDARDISED:
        return f"{metric.title}{by}{concept} in {wmap.model}, in standard deviations of {_compared_with(wmap)}{stars}"
    what = map_scale(quantity).title.replace("its null", _compared_with(wmap))
    return f"{what}{by}{concept} in {wmap.model}{stars}"
