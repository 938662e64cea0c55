"""A localization map in a safetensors file, with its numbers to the bit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor

from engram_interp.common import storage
from engram_interp.common.frames import frame_of, frame_parts

KIND = "map"
OTHERS = ("n_layers", "null", "name", "model", "counts", "positions", "memories")
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
    return {"table": table, **{one: fields[one] for one in OTHERS}}


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
