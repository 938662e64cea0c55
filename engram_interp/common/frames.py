"""How is a table kept on disk to the bit? Its numbers as float64 tensors, everything else as JSON."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from engram_interp.common.storage import Content


def frame_parts(frame: pd.DataFrame, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A table as tensors, and what JSON holds of it.

    Args:
        frame: its columns are floats, integers (with gaps or without), booleans and strings.
        name: what the tensors' names begin with.
    """
    tensors, fields = {}, {"columns": list(frame.columns), "rows": len(frame), "others": {}}
    for column in frame.columns:
        values = frame[column]
        if pd.api.types.is_float_dtype(values.dtype) and not pd.api.types.is_extension_array_dtype(values.dtype):
            tensors[f"{name}/{column}"] = torch.from_numpy(values.to_numpy(dtype=np.float64, copy=True))
        else:
            kind = str(values.dtype)
            listed = [None if one is pd.NA or one is None else one for one in values.tolist()]
            fields["others"][column] = {"kind": kind, "values": listed}
    return tensors, fields


def frame_of(content: Content, name: str, fields: Any) -> pd.DataFrame:
    """The table that `frame_parts` took apart.

    Raises:
        ValueError: if the file holds no such table.
    """
    try:
        columns, n, others = list(fields["columns"]), int(fields["rows"]), dict(fields["others"])
        found: dict[str, Any] = {}
        for column in columns:
            if column in others:
                found[column] = pd.Series(others[column]["values"], dtype=others[column]["kind"])
            else:
                found[column] = content.tensor(f"{name}/{column}").numpy()
        if any(len(values) != n for values in found.values()):
            raise ValueError("its columns have different lengths")
        return pd.DataFrame(found, columns=columns)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise content.error(f"the table {name!r} is broken ({error})") from None
