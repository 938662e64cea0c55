"""One weight matrix: where it is, what it reads, and `parameter shape <-> the matrix [out in] of the formulas`.

TransformerLens writes `x @ W` with heads apart; the paper writes `W x`. The patterns below go from one to the other.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import einops
from jaxtyping import Float
from torch import Tensor

from engram_interp.common.arguments import Layers, indices

COMPONENTS = ("W_Q", "W_K", "W_V", "W_O", "W_gate", "W_in", "W_out", "W_U")
ATTENTION = ("W_Q", "W_K", "W_V", "W_O")
MLP = ("W_gate", "W_in", "W_out")
UNEMBED = "W_U"

_PARAMETER_AXES = {
    "W_Q": "head d_model d_head",
    "W_K": "head d_model d_head",
    "W_V": "head d_model d_head",
    "W_O": "head d_head d_model",
    "W_gate": "d_model d_mlp",
    "W_in": "d_model d_mlp",
    "W_out": "d_mlp d_model",
    "W_U": "d_model d_vocab",
}
_MATRIX_AXES = {
    "W_Q": "(head d_head) d_model",
    "W_K": "(head d_head) d_model",
    "W_V": "(head d_head) d_model",
    "W_O": "d_model (head d_head)",
    "W_gate": "d_mlp d_model",
    "W_in": "d_mlp d_model",
    "W_out": "d_model d_mlp",
    "W_U": "d_vocab d_model",
}


@dataclass(frozen=True)
class Site:
    """One weight matrix of one model.

    Attributes:
        component: TransformerLens's parameter name, `W_Q` to `W_U`.
        layer: the block's index; None for the unembedding.
        input: the name of the activation that the matrix multiplies; matrices that share it share its statistics.
        bias: the key of the bias that is added to the product, or None where there is none.
        expert: the index among the experts of a mixture, each of which reads the tokens routed to it; None elsewhere.
    """

    component: str
    layer: int | None
    input: str
    bias: str | None = None
    expert: int | None = None

    @property
    def key(self) -> str:
        """TransformerLens's parameter path, `blocks.3.attn.W_Q`, `blocks.3.mlp.experts.5.W_in`."""
        if self.layer is None:
            return f"unembed.{self.component}"
        place = "attn" if self.component in ATTENTION else "mlp"
        expert = "" if self.expert is None else f".experts.{self.expert}"
        return f"blocks.{self.layer}.{place}{expert}.{self.component}"


def by_input(sites: Iterable[Site]) -> dict[str, list[Site]]:
    """The sites that read each input, by the input's name."""
    readers: dict[str, list[Site]] = {}
    for site in sites:
        readers.setdefault(site.input, []).append(site)
    return readers


def component_of(key: str) -> str:
    """The component of a parameter path, of a bias its weight's: `blocks.3.attn.b_Q` is part of `W_Q`.

    Example:
        >>> component_of("blocks.3.attn.b_Q")
        'W_Q'
    """
    return "W_" + key.rpartition(".")[2].removeprefix("W_").removeprefix("b_")


def layer_of(key: str) -> int | None:
    """The block's index in a parameter path; None for the unembedding.

    Example:
        >>> layer_of("blocks.3.attn.W_Q"), layer_of("unembed.W_U")
        (3, None)
    """
    parts = key.split(".")
    return int(parts[1]) if parts[0] == "blocks" else None


def expert_of(key: str) -> int | None:
    """The expert's index in a parameter path; None outside a mixture of experts.

    Example:
        >>> expert_of("blocks.3.mlp.experts.5.W_in"), expert_of("blocks.3.mlp.W_in")
        (5, None)
    """
    parts = key.split(".")
    return int(parts[4]) if parts[3:4] == ["experts"] else None


_PATH = re.compile(r"blocks\.[0-9]{1,9}\.(attn|mlp)(\.experts\.[0-9]{1,9})?\.[Wb]_\w+|unembed\.[Wb]_U")


def is_key(key: str) -> bool:
    """Whether this is the path of a weight or bias that an engram can have.

    Example:
        >>> is_key("blocks.3.attn.b_Q"), is_key("blocks.3.mlp.W_Q"), is_key("blocks.03.attn.W_Q")
        (True, False, False)
    """
    if not _PATH.fullmatch(key) or component_of(key) not in COMPONENTS:
        return False
    site = Site(component_of(key), layer_of(key), "", expert=expert_of(key))
    return site.key == weight_key(key) and (site.expert is None or site.component in MLP)


def is_bias(key: str) -> bool:
    """Whether a parameter path names a bias."""
    return key.rpartition(".")[2].startswith("b_")


def weight_key(key: str) -> str:
    """The weight's path for a weight or its bias: `blocks.3.attn.b_Q` belongs to `blocks.3.attn.W_Q`."""
    return f"{key.rpartition('.')[0]}.{component_of(key)}"


def component_names(components: str | Iterable[str] | None) -> tuple[str, ...]:
    """Components in their standard order, short forms spelled out; None means all of them.

    Raises:
        ValueError: a name that no component has, or none at all.
        TypeError: something else than names.

    Example:
        >>> component_names(["gate", "K", "W_Q"])
        ('W_Q', 'W_K', 'W_gate')
    """
    if components is None:
        return COMPONENTS
    if not isinstance(components, Iterable) or isinstance(components, Mapping):
        raise TypeError(f"components are names, as W_Q or [W_Q, gate]; got {components!r}")
    given = (components,) if isinstance(components, str) else tuple(components)
    if wrong := [name for name in given if not isinstance(name, str)]:
        raise TypeError(f"components are names, as W_Q or gate; got {wrong[0]!r}")
    named = {name if name.startswith("W_") else f"W_{name}" for name in given}
    if not named or not named <= set(COMPONENTS):
        raise ValueError(
            f"unknown component in {list(given)}; the choices are {', '.join(COMPONENTS)} or, short, "
            f"{', '.join(name.removeprefix('W_') for name in COMPONENTS)}"
        )
    return tuple(name for name in COMPONENTS if name in named)


def select_sites(sites: Sequence[Site], components: str | Iterable[str] | None, layers: Layers) -> list[Site]:
    """The sites of the named components and layers.

    The unembedding lies in no layer: `layers` leaves it out, unless `components` names it.

    Raises:
        ValueError: a component or layer that the model lacks.
        TypeError: layers that are not whole numbers.
    """
    names = component_names(components)
    if components is not None:
        present = {site.component for site in sites}
        if missing := [name for name in names if name not in present]:
            has = ", ".join(name for name in COMPONENTS if name in present)
            raise ValueError(f"there is no {', '.join(missing)} here; the components are {has}")
    chosen = [site for site in sites if site.component in names]
    if layers is None:
        return chosen
    wanted = set(indices(layers, "layers") or ())
    known = {site.layer for site in sites if site.layer is not None}
    if not wanted or not wanted <= known:
        raise ValueError(f"unknown layer in {sorted(wanted)}; the layers here are {sorted(known)}")
    return [site for site in chosen if site.layer in wanted or (site.layer is None and components is not None)]


def to_matrix(component: str, parameter: Float[Tensor, "..."]) -> Float[Tensor, "out in"]:
    """A weight as the paper writes it, `[out in]`."""
    return einops.rearrange(parameter, f"{_PARAMETER_AXES[component]} -> {_MATRIX_AXES[component]}")


def to_parameter(component: str, matrix: Float[Tensor, "out in"], like: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """A matrix `[out in]` in the shape of the parameter `like`."""
    heads = {"head": like.shape[0]} if component in ATTENTION else {}
    return einops.rearrange(matrix, f"{_MATRIX_AXES[component]} -> {_PARAMETER_AXES[component]}", **heads)


def share(part: Float[Tensor, "..."], whole: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """`part / whole` of norms; 0 of a weight that is zero throughout, which owns nothing that could be shared out.

    Example:
        >>> import torch
        >>> share(torch.tensor([1.0, 0.0]), torch.tensor([4.0, 0.0])).tolist()
        [0.25, 0.0]
    """
    return (part / whole).where(whole > 0, 0.0)


def head_norms(component: str, parameter: Float[Tensor, "..."]) -> Float[Tensor, "head"]:
    """Frobenius norm of every head of a weight, in float64; a matrix without heads is one."""
    rows = parameter.double().flatten(1) if component in ATTENTION else parameter.double().flatten()[None]
    return rows.norm(dim=1)
