"""Where is one weight matrix, and what does it read?

A site is a matrix of a model. Its key is TransformerLens's parameter path, and its input is the activation that it
multiplies. Matrices that read the same input share its statistics.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from engram_interp.common.arguments import Layers, indices
from engram_interp.models.components import ATTENTION, COMPONENTS, MLP, component_names


class Input(str):
    """An activation that matrices multiply. As a string, it is its name, as tables and files have it.

    Args:
        reads: what it is: `attn.in`, `attn.v_in`, `attn.z`, `mlp.in`, `mlp.post` or `unembed.in`.
        layer: the block's index; None for the unembedding.
        expert: the index of the expert that reads it; None outside a mixture of experts.

    Example:
        >>> Input("mlp.in", 3), Input("mlp.post", 3, expert=5).expert
        ('blocks.3.mlp.in', 5)
    """

    reads: str
    layer: int | None
    expert: int | None

    def __new__(cls, reads: str, layer: int | None = None, expert: int | None = None) -> Input:
        """An input by what it is and where."""
        place, _, kind = reads.partition(".")
        within = place if expert is None else f"{place}.experts.{expert}"
        made = super().__new__(cls, reads if layer is None else f"blocks.{layer}.{within}.{kind}")
        made.reads, made.layer, made.expert = reads, layer, expert
        return made

    def __getnewargs__(self) -> tuple[str, int | None, int | None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self.reads, self.layer, self.expert


@dataclass(frozen=True)
class Site:
    """One weight matrix of one model.

    Attributes:
        component: TransformerLens's parameter name, `W_Q` to `W_U`.
        layer: the block's index; None for the unembedding.
        input: the activation that the matrix multiplies.
        bias: the key of the bias that is added to the product; None if there is none.
        expert: the index among the experts of a mixture, each of which reads the tokens sent to it; None elsewhere.
    """

    component: str
    layer: int | None
    input: Input
    bias: str | None = None
    expert: int | None = None

    @property
    def key(self) -> str:
        """TransformerLens's parameter path, `blocks.3.attn.W_Q`, `blocks.3.mlp.experts.5.W_in`."""
        return _key(self.component, self.layer, self.expert)


def by_input(sites: Iterable[Site]) -> dict[Input, list[Site]]:
    """The sites that read each input, by input."""
    readers: dict[Input, list[Site]] = {}
    for site in sites:
        readers.setdefault(site.input, []).append(site)
    return readers


def select_sites(sites: Sequence[Site], components: str | Iterable[str] | None, layers: Layers) -> list[Site]:
    """The sites of the named components and layers.

    The unembedding lies in no layer. `layers` leaves it out, unless `components` names it.

    Raises:
        ValueError: if the model lacks one of the components or layers.
        TypeError: if layers are anything but whole numbers.
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


def component_of(key: str) -> str:
    """The component of a parameter path. A bias has its weight's: `blocks.3.attn.b_Q` is part of `W_Q`.

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


def is_bias(key: str) -> bool:
    """Whether a parameter path names a bias."""
    return key.rpartition(".")[2].startswith("b_")


def weight_key(key: str) -> str:
    """The weight's path for a weight or its bias: `blocks.3.attn.b_Q` belongs to `blocks.3.attn.W_Q`."""
    return f"{key.rpartition('.')[0]}.{component_of(key)}"


_PATH = re.compile(r"blocks\.[0-9]{1,9}\.(attn|mlp)(\.experts\.[0-9]{1,9})?\.[Wb]_\w+|unembed\.[Wb]_U")


def is_key(key: str) -> bool:
    """Whether this is the path of a weight or bias that an engram can have.

    Example:
        >>> is_key("blocks.3.attn.b_Q"), is_key("blocks.3.mlp.W_Q"), is_key("blocks.03.attn.W_Q")
        (True, False, False)
    """
    component, expert = component_of(key), expert_of(key) if _PATH.fullmatch(key) else None
    if not _PATH.fullmatch(key) or component not in COMPONENTS or (expert is not None and component not in MLP):
        return False
    return weight_key(key) == _key(component, layer_of(key), expert)


def _key(component: str, layer: int | None, expert: int | None) -> str:
    if layer is None:
        return f"unembed.{component}"
    within = "" if expert is None else f".experts.{expert}"
    return f"blocks.{layer}.{'attn' if component in ATTENTION else 'mlp'}{within}.{component}"
