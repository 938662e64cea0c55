"""What is a component, and how does its parameter become the matrix `[out in]` of the formulas?

TransformerLens writes `x @ W` and keeps heads apart; the paper writes `W x`. Each component has the axes of both, and
they say where its heads lie: in blocks of rows (Q, K and V) or in blocks of columns (O).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import einops
from jaxtyping import Float
from torch import Tensor

from engram_interp.linalg.norms import Heads


@dataclass(frozen=True)
class Component:
    """One kind of weight matrix.

    Attributes:
        name: TransformerLens's parameter name.
        place: the part of the model that it lies in: `attn`, `mlp` or `unembed`.
        parameter_axes: the axes of TransformerLens's parameter.
        matrix_axes: the axes of the matrix `[out in]`.
    """

    name: str
    place: str
    parameter_axes: str
    matrix_axes: str

    @property
    def has_heads(self) -> bool:
        """Whether the matrix falls into heads."""
        return "head" in self.parameter_axes.split()

    @property
    def bias_has_heads(self) -> bool:
        """Whether the bias, a number for each output, falls into heads too."""
        return self.matrix_axes.startswith("(head")

    def heads(self, n: int) -> Heads | None:
        """Where `n` heads lie in the matrix; None for a component without heads."""
        if not self.has_heads:
            return None
        return Heads(n, "rows" if self.matrix_axes.startswith("(head") else "columns")


_QKV = "(head d_head) d_model"
COMPONENT: Mapping[str, Component] = {
    one.name: one
    for one in (
        Component("W_Q", "attn", "head d_model d_head", _QKV),
        Component("W_K", "attn", "head d_model d_head", _QKV),
        Component("W_V", "attn", "head d_model d_head", _QKV),
        Component("W_O", "attn", "head d_head d_model", "d_model (head d_head)"),
        Component("W_gate", "mlp", "d_model d_mlp", "d_mlp d_model"),
        Component("W_in", "mlp", "d_model d_mlp", "d_mlp d_model"),
        Component("W_out", "mlp", "d_mlp d_model", "d_model d_mlp"),
        Component("W_U", "unembed", "d_model d_vocab", "d_vocab d_model"),
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


def to_matrix(component: str, parameter: Float[Tensor, "..."]) -> Float[Tensor, "out in"]:
    """A parameter as the paper writes it, `[out in]`."""
    axes = COMPONENT[component]
    return einops.rearrange(parameter, f"{axes.parameter_axes} -> {axes.matrix_axes}")


def to_parameter(component: str, matrix: Float[Tensor, "out in"], like: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """A matrix `[out in]` in the shape of the parameter `like`."""
    axes = COMPONENT[component]
    heads = {"head": like.shape[0]} if axes.has_heads else {}
    return einops.rearrange(matrix, f"{axes.matrix_axes} -> {axes.parameter_axes}", **heads)


def head_norms(component: str, parameter: Float[Tensor, "..."]) -> Float[Tensor, "head"]:
    """Frobenius norm of every head of a parameter, in float64; a matrix without heads counts as one."""
    wide = parameter.double()
    return (wide.flatten(1) if COMPONENT[component].has_heads else wide.flatten()[None]).norm(dim=1)
