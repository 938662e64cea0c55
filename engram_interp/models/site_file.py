"""Where do an engram's matrices lie in a plain module? What a file says of it, and whether that can be.

A language model's keys say it themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engram_interp.common.storage import Content
from engram_interp.models.layouts import Layout
from engram_interp.models.sites import Input, Site

_LARGEST = 2**31
"""No index or number of units is larger."""
_AXES = {"head", "d_head", "d_out", "d_in", "x", "y", "z"}
"""The names of axes."""


def fields_of(site: Site) -> dict[str, Any]:
    """What a file holds of a matrix."""
    return {
        "component": site.component,
        "layer": site.layer,
        "bias": site.bias,
        "expert": site.expert,
        "path": site.path,
        "axes": [site.layout.parameter_axes, site.layout.matrix_axes],
        "heads": site.layout.n_heads,
        "block": list(site.block),
        "label": site.label,
        "bias_block": None if site.bias_block is None else list(site.bias_block),
    }


def sites_in(content: Content, keys: Sequence[str]) -> tuple[Site, ...]:
    """The matrices that a file lists.

    Args:
        content: the file.
        keys: its weights and biases: each must be some matrix's.

    Raises:
        ValueError: if the list is no list of matrices, or does not fit the keys.
    """
    found = tuple(_site(one, content) for one in content.field("sites", list))
    weights = {site.path for site in found}
    named = weights | {site.bias for site in found}
    if not found or not weights <= set(keys) or not set(keys) <= named:
        raise content.error(f"its matrices {sorted(weights)[:3]} are not those of its keys {list(keys)[:3]}")
    if len({site.key for site in found}) < len(found) or len({(site.path, site.block) for site in found}) < len(found):
        raise content.error("it lists a matrix twice")
    return found


def _site(one: Any, content: Content) -> Site:
    try:
        axes, (place, n), heads = one["axes"], one["block"], one["heads"]
        texts = [
            one["component"],
            one["path"],
            one["label"],
            *axes,
            *([one["bias"]] if one["bias"] is not None else []),
        ]
        bias_place, bias_n = one["bias_block"] or (place, n)
        numbers = [
            place,
            n,
            bias_place,
            bias_n,
            *(number for number in (one["layer"], one["expert"], heads) if number is not None),
        ]
        fits = (
            all(isinstance(text, str) for text in texts)
            and all(isinstance(number, int) and 0 <= number < _LARGEST for number in numbers)
            and len(axes) == 2
            and all(set(_words(text)) <= _AXES for text in axes)
            and sorted(_words(axes[0])) == sorted(_words(axes[1]))
            and place < n
            and bias_place < bias_n
            and heads != 0
        )
    except (TypeError, KeyError, ValueError) as error:
        raise content.error(f"it lists a matrix as {one!r}") from error
    if not fits:
        raise content.error(f"it lists a matrix as {one!r}")
    layout = Layout(axes[0], axes[1], heads)
    return Site(
        one["component"], one["layer"], Input(""), one["bias"], one["expert"], one["path"], layout, (place, n),
        one["label"], None if one["bias_block"] is None else (bias_place, bias_n),
    )  # fmt: skip


def _words(axes: str) -> list[str]:
    return axes.replace("(", " ").replace(")", " ").split()
