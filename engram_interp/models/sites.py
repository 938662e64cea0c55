"""Where is one weight matrix, and what does it read?

A site is a matrix of a model. Its path is TransformerLens's parameter path, or that of a plain module's parameter, and
its input is the activation that it multiplies. Matrices that read the same input share its statistics.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from jaxtyping import Float
from torch import Tensor

from engram_interp.common.arguments import Layers, indices
from engram_interp.models.components import ATTENTION, COMPONENT, COMPONENTS, MLP, component_names
from engram_interp.models.layouts import Layout


class Input(str):
    """An activation that matrices multiply. As a string, it is its name, as tables and files have it.

    Args:
        reads: what it is: `attn.in`, `attn.v_in`, `attn.z`, `mlp.in`, `mlp.post` or `unembed.in`; the whole name in a
            plain module.
        layer: the block's index; None for the unembedding, and in a plain module.
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
        component: TransformerLens's parameter name, `W_Q` to `W_U`, or the path of a plain module.
        layer: the block's index, or the depth of a plain module in the order of calls; None for the unembedding.
        input: the activation that the matrix multiplies.
        bias: the path of the bias that is added to the product; None if there is none.
        expert: the index among the experts of a mixture, each of which reads the tokens sent to it, or among the groups
            of a grouped convolution; None elsewhere.
        path: the parameter that holds the matrix: `blocks.3.attn.W_Q`, `layer1.0.conv1.weight`.
        layout: how it holds it.
        block: the matrix's place in the parameter and its bias: block `i` of `n` equal ones along the first axis.
        label: what tells the matrices of one parameter apart.
        bias_block: the matrix's place in its bias, where that is another one.
    """

    component: str
    layer: int | None
    input: Input
    bias: str | None
    expert: int | None
    path: str
    layout: Layout
    block: tuple[int, int] = (0, 1)
    label: str = ""
    bias_block: tuple[int, int] | None = None

    @property
    def key(self) -> str:
        """The matrix's own name: the path of its parameter, `conv.weight[2]` if that holds several."""
        return f"{self.path}[{self.label}]" if self.label else self.path

    def of(self, parameter: Tensor) -> Tensor:
        """The matrix's part of its parameter: a view."""
        return _block(parameter, self.block)

    def of_bias(self, bias: Tensor) -> Tensor:
        """The matrix's part of its bias: a view."""
        return _block(bias, self.bias_block or self.block)

    def matrix(self, parameter: Tensor) -> Float[Tensor, "out in"]:
        """The matrix that a parameter holds."""
        return self.layout.to_matrix(self.of(parameter))


def _block(tensor: Tensor, block: tuple[int, int]) -> Tensor:
    i, n = block
    return tensor if n == 1 else tensor.unflatten(0, (n, -1))[i]


def lens_site(
    component: str, layer: int | None, read: Input, *, has_bias: bool = True, expert: int | None = None
) -> Site:
    """A matrix where TransformerLens has it.

    Args:
        component: `W_Q` to `W_U`.
        layer: the block's index; None for the unembedding.
        read: the activation that it multiplies.
        has_bias: whether it has a bias.
        expert: the index among the experts of a mixture.
    """
    path = _key(component, layer, expert)
    bias = bias_key(path) if has_bias else None
    return Site(component, layer, read, bias, expert, path, COMPONENT[component])


def lens_sites(keys: Iterable[str]) -> tuple[Site, ...]:
    """The matrices of a language model that these paths name, wherever their inputs are."""
    weights = dict.fromkeys(weight_key(key) for key in keys)
    places = ((component_of(key), layer_of(key), expert_of(key)) for key in weights)
    return tuple(lens_site(name, layer, Input(""), expert=expert) for name, layer, expert in places)


def parameter_paths(sites: Iterable[Site]) -> list[str]:
    """The parameters that hold these matrices and their biases, each once."""
    return list(dict.fromkeys(path for site in sites for path in (site.path, site.bias) if path is not None))


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
    names = named_components([site.component for site in sites], components)
    chosen = [site for site in sites if site.component in names]
    if layers is None:
        return chosen
    wanted = set(indices(layers, "layers") or ())
    known = {site.layer for site in sites if site.layer is not None}
    if not wanted or not wanted <= known:
        raise ValueError(f"unknown layer in {sorted(wanted)}; the layers here are {sorted(known)}")
    return [site for site in chosen if site.layer in wanted or (site.layer is None and components is not None)]


def named_components(present: Sequence[str], components: str | Iterable[str] | None) -> list[str]:
    """The components that are named, in the order in which they come. None names all of them.

    Args:
        present: the components that there are.
        components: names. Those of a language model may be short; those of a plain module are paths of its modules, or
            patterns of such paths, and a module names all modules inside it too.

    Raises:
        ValueError: if one of the names names nothing.
        TypeError: if `components` holds anything but names.

    Example:
        >>> named_components(["conv1", "layer1.0.conv1", "layer1.0.conv2", "fc"], ["layer1", "f*"])
        ['layer1.0.conv1', 'layer1.0.conv2', 'fc']
    """
    known = list(dict.fromkeys(present))
    if components is None:
        return known
    if set(known) <= set(COMPONENTS):
        names = component_names(components)
        if missing := [name for name in names if name not in known]:
            raise ValueError(f"there is no {', '.join(missing)} here; the components are {_listed(known)}")
        return [name for name in known if name in names]
    patterns = [components] if isinstance(components, str) else list(components)
    if wrong := [name for name in patterns if not isinstance(name, str)]:
        raise TypeError(f"components must be names or patterns of modules; got {wrong[0]!r}")
    found = {pattern: {name for name in known if _is_named(name, pattern)} for pattern in patterns}
    missing = [pattern for pattern, names in found.items() if not names]
    if not found or missing:
        raise ValueError(f"no module is called {', '.join(missing) or 'nothing'}; there are {_listed(known)}")
    return [name for name in known if any(name in names for names in found.values())]


def _is_named(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or name.startswith(f"{pattern}.")


def _listed(names: Sequence[str], at_most: int = 12) -> str:
    return ", ".join(names[:at_most]) + (f", ... ({len(names)})" if len(names) > at_most else "")


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


def bias_key(key: str) -> str:
    """The bias's path for a weight: `blocks.3.attn.b_Q` for `blocks.3.attn.W_Q`."""
    path, _, name = key.rpartition(".")
    return f"{path}.b_{name.removeprefix('W_')}"


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
