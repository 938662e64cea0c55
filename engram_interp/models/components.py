"""What is a component of a language model? One of TransformerLens's kinds of weight matrix, and how it is laid out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from engram_interp.models.layouts import Layout


@dataclass(frozen=True)
class Component(Layout):
    """One kind of weight matrix of TransformerLens's.

    Attributes:
        name: TransformerLens's parameter name.
        place: the part of the model that it lies in: `attn`, `mlp` or `unembed`.
    """

    name: str = ""
    place: str = ""


_QKV = "(head d_head) d_model"
COMPONENT: Mapping[str, Component] = {
    one.name: one
    for one in (
        Component("head d_model d_head", _QKV, name="W_Q", place="attn"),
        Component("head d_model d_head", _QKV, name="W_K", place="attn"),
        Component("head d_model d_head", _QKV, name="W_V", place="attn"),
        Component("head d_head d_model", "d_model (head d_head)", name="W_O", place="attn"),
        Component("d_model d_mlp", "d_mlp d_model", name="W_gate", place="mlp"),
        Component("d_model d_mlp", "d_mlp d_model", name="W_in", place="mlp"),
        Component("d_mlp d_model", "d_model d_mlp", name="W_out", place="mlp"),
        Component("d_model d_vocab", "d_vocab d_model", name="W_U", place="unembed"),
    )
}
"""Every component by its name."""
COMPONENTS = tuple(COMPONENT)
"""The components in their standard order."""
ATTENTION = tuple(name for name, one in COMPONENT.items() if one.place == "attn")
MLP = tuple(name for name, one in COMPONENT.items() if one.place == "mlp")
UNEMBED = "W_U"


def component_names(components: str | Iterable[str] | None) -> tuple[str, ...]:
    """Components in their standard order, short forms spelled out; None means all of them.

    Raises:
        ValueError: if a name is no component's, or there is no name.
        TypeError: if `components` holds anything but names.

    Example:
        >>> component_names(["gate", "K", "W_Q"])
        ('W_Q', 'W_K', 'W_gate')
    """
    if components is None:
        return COMPONENTS
    if not isinstance(components, Iterable) or isinstance(components, Mapping):
        raise TypeError(f"components must be names such as W_Q or [W_Q, gate]; got {components!r}")
    given = (components,) if isinstance(components, str) else tuple(components)
    if wrong := [name for name in given if not isinstance(name, str)]:
        raise TypeError(f"components must be names such as W_Q or gate; got {wrong[0]!r}")
    named = {name if name.startswith("W_") else f"W_{name}" for name in given}
    if not named or not named <= set(COMPONENTS):
        raise ValueError(
            f"unknown component in {list(given)}; the choices are {', '.join(COMPONENTS)} or, short, "
            f"{', '.join(name.removeprefix('W_') for name in COMPONENTS)}"
        )
    return tuple(name for name in COMPONENTS if name in named)
