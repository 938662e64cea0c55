"""An exploration as one HTML page: its data as JSON, a style, a script, and plotly's."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from typing import Any

import pandas as pd

from engram_interp.common.html import template
from engram_interp.figures.colours import Colours, takes_dark_text
from engram_interp.maps.compared_with import ANALYTIC, NULLS
from engram_interp.maps.localization_map import DRAWN, SIGNIFICANT, LocalizationMap, map_scale, significant_in
from engram_interp.maps.quantities import MAP_QUANTITIES
from engram_interp.report.explorer.exploration import Exploration, Memory
from engram_interp.report.sentences import map_sentence

ROOM = "report.explorer"
BANDS = ("null_low", "expected", "null_high", "excess", "p_value")
"""What is shown of a quantity beside it, where a map has it."""


def page(found: Exploration, is_live: bool = False) -> str:
    """The whole page.

    Args:
        found: what is shown.
        is_live: whether a server behind the page looks into more matrices.
    """
    from plotly.offline import get_plotlyjs

    title = f"{', '.join(found.memories)} in {found.model}"
    return template(ROOM, "explorer").render(
        title=title,
        provenance=found.provenance,
        data=_without_nan(_data(found, is_live and found.look is not None)),
        style=_file("explorer.css"),
        script=_file("explorer.js"),
        plotly=get_plotlyjs(),
    )


def matrix_json(found: Exploration, name: str, key: str) -> str:
    """One matrix, looked into if that was not done before.

    Raises:
        KeyError: if there is no such memory or matrix, or nothing to look with.
    """
    memory = found.memory(name)
    if key not in memory.wmap:
        raise KeyError(f"the map has no matrix {key!r}")
    if key not in memory.matrices and found.look is None:
        raise KeyError(f"{key} was not looked into, and the model is not at hand")
    matrix = memory.matrices[key] if key in memory.matrices else found.look(name, key)  # pyright: ignore[reportOptionalCall]
    return json.dumps(_without_nan(matrix.to_dict()))


def _data(found: Exploration, is_live: bool) -> dict[str, Any]:
    maps = [one.wmap for one in found.memories.values()]
    drawn = [name for name in DRAWN if all(name in one.quantities for one in maps)]
    colours = {name: Colours(map_scale(name), _every(maps, name)) for name in drawn}
    return {
        "live": is_live,
        "significant": SIGNIFICANT,
        "quantities": {
            name: {
                "title": map_scale(name).title,
                "legend": colours[name].legend(),
                "isSize": MAP_QUANTITIES[name].kind == "size",
                "columns": {kind: MAP_QUANTITIES[name].beside(kind) for kind in BANDS},
            }
            for name in drawn
        },
        "memories": [_memory(name, one, colours) for name, one in found.memories.items()],
    }


def _memory(name: str, memory: Memory, colours: Mapping[str, Colours]) -> dict[str, Any]:
    wmap = memory.wmap
    whole = wmap.table[wmap.table["head"].isna()]
    return {
        "name": name,
        "sentence": map_sentence(wmap),
        "main": wmap.main,
        "null": _null_in_words(wmap),
        "isPlain": wmap.is_plain,
        "layers": wmap.n_layers,
        "components": list(wmap.components),
        "cells": _cells(wmap, whole, colours),
        "matrices": {str(row["key"]): _numbers(row, colours) for row in whole.to_dict("records")},
        "heads": _heads(wmap, colours),
        "figures": {one: json.loads(str(wmap.plot(one).to_json())) for one in colours},
        "strengths": None if memory.strengths is None else memory.strengths.to_dict(),
        "inside": {key: one.to_dict() for key, one in memory.matrices.items()},
    }


def _null_in_words(wmap: LocalizationMap) -> str:
    if wmap.null == ANALYTIC:
        return "what a target with nothing of its own is expected to have"
    return f"the middle 95 % of {wmap.memories or NULLS[wmap.null]}"


def _cells(wmap: LocalizationMap, whole: pd.DataFrame, colours: Mapping[str, Colours]) -> list[dict[str, Any]]:
    """The cells of the map: a matrix each, or the experts of a layer together."""
    groups: dict[tuple[str, int | None], list[str]] = {}
    for row in whole.to_dict("records"):
        layer = None if pd.isna(row["layer"]) else int(row["layer"])
        groups.setdefault((str(row["component"]), layer), []).append(str(row["key"]))
    places = [(component, layer, keys) for (component, layer), keys in groups.items()]
    rows = [wmap.n_layers - 1 if layer is None else layer for _, layer, _ in places]
    columns = [wmap.components.index(component) for component, _, _ in places]
    values = {name: wmap.grid(name)[rows, columns].tolist() for name in colours}
    stars = {name: significant_in(wmap, name, wmap.grid)[rows, columns].tolist() for name in colours}
    return [
        {
            "component": component,
            "layer": layer,
            "keys": keys,
            "values": {name: values[name][i] for name in colours},
            **_coloured({name: values[name][i] for name in colours}, colours),
            "stars": [name for name in colours if stars[name][i]],
        }
        for i, (component, layer, keys) in enumerate(places)
    ]


def _numbers(row: Mapping[Any, Any], colours: Mapping[str, Colours]) -> dict[str, Any]:
    """What the map says of a matrix: each quantity and what lies beside it."""
    beside = {name: {kind: MAP_QUANTITIES[name].beside(kind) for kind in BANDS} for name in colours}
    return {
        name: {"value": row[name], **{kind: row[column] for kind, column in columns.items() if column in row}}
        for name, columns in beside.items()
    }


def _heads(wmap: LocalizationMap, colours: Mapping[str, Colours]) -> dict[str, dict[str, Any]]:
    """The heads of each matrix that has some: their values and colours, by quantity."""
    rows = wmap.table[wmap.table["head"].notna()]
    return {
        str(key): {
            "heads": some["head"].astype(int).tolist(),
            **{name: _row_of_heads(some[name].tolist(), one) for name, one in colours.items()},
        }
        for key, some in rows.groupby("key", sort=False)
    }


def _row_of_heads(values: Sequence[float], colours: Colours) -> dict[str, Any]:
    found = colours.of(values)
    return {"values": values, "colours": found, "dark": [bool(one) and takes_dark_text(str(one)) for one in found]}


def _coloured(values: Mapping[str, float], colours: Mapping[str, Colours]) -> dict[str, Any]:
    found = {name: colours[name].of([value])[0] for name, value in values.items()}
    return {"colours": found, "dark": [name for name, one in found.items() if one and takes_dark_text(one)]}


def _every(maps: Iterable[LocalizationMap], quantity: str) -> list[float]:
    """A quantity of all matrices and heads of all maps, so that a colour means the same in each."""
    return [value for one in maps for value in one.table[quantity].tolist()]


def _without_nan(value: Any) -> Any:
    """What JSON holds of it: numbers that are none become null."""
    if isinstance(value, Mapping):
        return {str(name): _without_nan(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(one) for one in value]
    if value is pd.NA or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value


def _file(name: str) -> str:
    return files(f"engram_interp.{ROOM}").joinpath(name).read_text(encoding="utf-8")
