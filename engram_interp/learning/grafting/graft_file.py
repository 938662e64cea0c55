"""A graft in a safetensors file: the places and values of what is grafted, and no more of each parameter."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from engram_interp.common import storage
from engram_interp.engrams.editing import is_finite
from engram_interp.engrams.engram_file import lens_sites_in
from engram_interp.models import ModelInfo
from engram_interp.models.site_file import fields_of, sites_in

if TYPE_CHECKING:
    from engram_interp.learning.grafting.graft import Graft

LARGEST = 2**40
"""No parameter has more entries."""


def write_graft(path: str | Path, graft: Graft) -> None:
    """Write the fields of a `Graft`, but for its curve."""
    tensors: dict[str, Tensor] = {f"weight_norms/{key}": norms for key, norms in graft.weight_norms.items()}
    for key, one in graft.tensors.items():
        tensors |= _parts(key, one.detach().cpu().flatten())
    fields = {
        "model": graft.info.to_dict(),
        "trained": None if graft.trained is None else graft.trained.to_dict(),
        "keys": [key for key in graft.tensors if key not in graft.others],
        "others": graft.others,
        "shapes": {key: list(one.shape) for key, one in graft.tensors.items()},
        "sites": [fields_of(site) for site in graft.sites] if graft.info.is_plain else None,
        "name": graft.name,
        "options": dict(graft.options),
        "share": graft.share,
        "by": graft.by,
    }
    storage.write(path, "graft", tensors, fields)


def _parts(key: str, flat: Tensor) -> dict[str, Tensor]:
    """What is grafted of a parameter: places and values, or values alone where most entries are."""
    places = flat.nonzero().flatten()
    if 2 * len(places) > len(flat):
        return {f"values/{key}": flat}
    places = places.to(torch.int32) if len(flat) < 2**31 else places
    return {f"places/{key}": places, f"values/{key}": flat[places.long()]}


def read_graft(path: str | Path) -> dict[str, Any]:
    """The fields of a `Graft`, checked.

    Raises:
        ValueError: if the file is foreign, of another version, cut short or altered, or its tensors are no graft.
    """
    content = storage.read(path, "graft")
    info, keys = ModelInfo.read(content), content.strings("keys")
    others = content.strings("others") if content.field("others", list) else []
    shapes = content.field("shapes", dict)
    sites = sites_in(content, keys) if info.is_plain else lens_sites_in(content, keys)
    norms = {path: content.tensor(f"weight_norms/{path}") for path in dict.fromkeys(site.path for site in sites)}
    trained = None if content.fields.get("trained") is None else _info(content)
    share = content.field("share", float)
    if not 0 <= share <= 1 or not all(is_finite(one) for one in norms.values()):
        raise content.error(f"its share is {share!r}, or its norms are not finite")
    return {
        "tensors": {key: _dense(content, key, shapes.get(key)) for key in [*keys, *others]},
        "weight_norms": norms,
        "info": info,
        "name": content.name(),
        "options": content.field("options", dict),
        "sites": sites,
        "trained": trained,
        "share": share,
        "by": content.field("by", str),
    }


def _info(content: storage.Content) -> ModelInfo:
    return ModelInfo(**content.strings_by_name("trained", ("name", "fingerprint", "processing")))


def _dense(content: storage.Content, key: str, shape: Any) -> Tensor:
    """A parameter's graft, with zeros where nothing is grafted."""
    values = content.tensor(f"values/{key}")
    is_shape = isinstance(shape, list) and shape and all(isinstance(n, int) and 0 < n < LARGEST for n in shape)
    if not is_shape or math.prod(shape) >= LARGEST:
        raise content.error(f"{key} has the shape {shape!r}")
    n = math.prod(shape)
    places = content.tensors.get(f"places/{key}", torch.arange(n) if len(values) == n else torch.zeros(0).long())
    fits = places.dtype in (torch.int32, torch.long) and places.dim() == 1 and places.shape == values.shape
    if not fits or not values.is_floating_point() or not is_finite(values):
        raise content.error(f"what is grafted of {key} is {values.dtype} {list(values.shape)}, or holds nan or inf")
    if len(places) and (int(places.min()) < 0 or int(places.max()) >= n):
        raise content.error(f"{key} has {n} entries; the graft has one at {int(places.max())}")
    dense = torch.zeros(n, dtype=values.dtype)
    dense[places.long()] = values
    return dense.view(shape)
