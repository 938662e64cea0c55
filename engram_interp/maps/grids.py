"""A map's table -> numbers by layer and component, head or expert."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from engram_interp.maps.quantities import MAP_QUANTITIES, RELATIVE, Quantity
from engram_interp.models.components import COMPONENTS, component_names


def component_grid(
    matrices: pd.DataFrame, quantity: str, n_layers: int, components: Sequence[str]
) -> Float[Tensor, "layer component"]:
    """A quantity by layer and component. It is NaN where there is no matrix; `W_U` stands in the last layer's row."""
    grid = torch.full((n_layers, len(components)), torch.nan)
    rows = matrices["layer"].fillna(n_layers - 1)
    for (row, component), cell in matrices.groupby([rows, "component"]):
        grid[int(str(row)), components.index(str(component))] = _of_cell(cell, MAP_QUANTITIES[quantity])
    return grid


def unit_grid(rows: pd.DataFrame, unit: str, quantity: str, n_layers: int) -> Float[Tensor, "layer unit"]:
    """A quantity by layer and head or expert (the column `unit`); NaN in layers without a row."""
    grid = torch.full((n_layers, int(rows[unit].max()) + 1), torch.nan)
    for layer, index, value in zip(rows["layer"], rows[unit], rows[quantity], strict=True):
        grid[int(layer), int(index)] = value
    return grid


def largest(frame: pd.DataFrame, k: int, by: str) -> pd.DataFrame:
    """The `k` rows that are largest in a quantity, largest first. For p-values, the smallest come first.

    Raises:
        ValueError: if `k` is below 1.
    """
    if k < 1:
        raise ValueError(f"k must be 1 or more; got {k}")
    quantity = MAP_QUANTITIES[by]
    if quantity.kind != "p_value":
        return frame.sort_values(by, ascending=False, ignore_index=True).head(k)
    # Many p-values are the smallest that there can be.
    columns = [by, quantity.beside("excess")]
    return frame.sort_values(columns, ascending=[True, False], ignore_index=True).head(k)


def one_component(component: str, present: Sequence[str]) -> str:
    """The component's full name.

    Args:
        component: its name, which may be short in a language model.
        present: the components that there are.

    Raises:
        TypeError: if this is not one name.
        ValueError: if no component has the name.
    """
    if not isinstance(component, str):
        raise TypeError(f"component must be one name, such as 'W_Q'; got {component!r}")
    if set(present) <= set(COMPONENTS):
        return component_names(component)[0]
    if component not in present:
        raise ValueError(f"there is no {component!r} here; there are {', '.join(present)}")
    return component


def in_order(present: Iterable[str]) -> tuple[str, ...]:
    """Components once each: in the standard order in a language model, and else as they come."""
    names = dict.fromkeys(present)
    return tuple(name for name in COMPONENTS if name in names) if set(names) <= set(COMPONENTS) else tuple(names)


def _of_cell(cell: pd.DataFrame, quantity: Quantity) -> float:
    """A quantity of one matrix, or of all experts of a layer together."""
    if len(cell) == 1:
        return float(cell[quantity.column].iloc[0])
    if quantity.kind == "p_value":
        return float(cell[quantity.column].min())
    if quantity.metric in RELATIVE:
        return float(cell[quantity.column].max()) if quantity.kind in ("size", "excess") else math.nan
    whole = cell[quantity.metric.whole]

    def together(kind: str) -> float:
        return math.hypot(*(cell[quantity.beside(kind)] * whole))

    match quantity.kind:
        case "size" | "expected":
            return _over(together(quantity.kind), math.hypot(*whole))
        case "excess":
            return _over(together("size"), together("expected"))
    return math.nan


def _over(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
