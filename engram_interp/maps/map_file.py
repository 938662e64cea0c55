"""A localization map in a safetensors file, with its numbers to the bit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor

from engram_interp.common import storage
from engram_interp.common.frames import frame_of, frame_parts
from engram_interp.maps.compared_with import NULLS

KIND = "map"
KINDS_OF = {
    "n_layers": int,
    "null": str,
    "name": str | None,
    "model": str,
    "counts": dict,
    "positions": str | None,
    "memories": str | None,
}
OTHERS = tuple(KINDS_OF)
"""What a map has beside its table."""


def map_parts(table: pd.DataFrame, others: Mapping[str, Any], name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A map as tensors, and what JSON holds of it.

    Args:
        table: its table.
        others: what it has beside the table, as `OTHERS` names it.
        name: what the tensors' names begin with.
    """
    tensors, fields = frame_parts(table, name)
    return tensors, {"table": fields, **{one: others[one] for one in OTHERS}}


def map_fields(content: storage.Content, name: str, fields: Any) -> dict[str, Any]:
    """The fields of a `LocalizationMap` that `map_parts` took apart.

    Raises:
        ValueError: if the file holds no such map.
    """
    if not isinstance(fields, dict) or not {"table", *OTHERS} <= set(fields):
        raise content.error(f"the map {name!r} is broken")
    table = frame_of(content, name, fields["table"])
    if missing := {"key", "component", "layer", "expert", "head", "wnorm"} - set(table):
        raise content.error(f"the map {name!r} lacks {', '.join(sorted(missing))}")
    others = {one: fields[one] for one in OTHERS}
    for one, kind in KINDS_OF.items():
        if not isinstance(others[one], kind) or isinstance(others[one], bool):
            raise content.error(f"{one} of the map {name!r} is {others[one]!r}")
    if others["null"] not in NULLS or others["n_layers"] < 1:
        raise content.error(f"the map {name!r} has the null {others['null']!r} and {others['n_layers']} layers")
    if not all(isinstance(n, int) for n in others["counts"].values()):
        raise content.error(f"the counts of the map {name!r} are {others['counts']!r}")
    return {"table": table, **others}


def write_map(path: str | Path, table: pd.DataFrame, others: Mapping[str, Any]) -> None:
    """Write the fields of a `LocalizationMap`."""
    tensors, fields = map_parts(table, others, "table")
    storage.write(path, KIND, tensors, {"map": fields})


def read_map(path: str | Path) -> dict[str, Any]:
    """The fields of a `LocalizationMap`, as `write_map` wrote them.

    Raises:
        ValueError: if the file is foreign, of another version, cut short or altered, or holds no map.
    """
    content = storage.read(path, KIND)
    return map_fields(content, "table", content.field("map", dict))
