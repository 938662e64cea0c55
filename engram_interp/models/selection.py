"""Which of a model's matrices are meant, and can the inputs of all of them be read exactly?"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from engram_interp.common.arguments import Layers, indices
from engram_interp.models.components import COMPONENTS
from engram_interp.models.sites import Site, named_components, select_sites

MOST_NAMED = 12
"""So many components are named to choose from, at most."""
Unreadable = Mapping[tuple[str, int], str]
"""Why a component of a layer cannot be read exactly."""


def readable_sites(
    name: str, sites: Sequence[Site], unreadable: Unreadable, components: str | Collection[str] | None, layers: Layers
) -> list[Site]:
    """The matrices of the named components and layers.

    Args:
        name: what errors call the model.
        sites: all matrices of the model.
        unreadable: the components of layers that cannot be read.
        components: which components; None means all.
        layers: which layers; None means all.

    Raises:
        ValueError: if the model lacks one of the components or layers.
        NotImplementedError: if a component cannot be read exactly, also one that was not named but is meant by default.
    """
    every = dict.fromkeys([*(site.component for site in sites), *(component for component, _ in unreadable)])
    wanted, among = named_components(list(every), components), indices(layers, "layers")
    refused = {
        place: why for place, why in unreadable.items() if place[0] in wanted and (among is None or place[1] in among)
    }
    if refused:
        raise NotImplementedError(_refusal(name, sites, unreadable, refused))
    return select_sites(sites, components, among)


def _refusal(name: str, sites: Sequence[Site], unreadable: Unreadable, refused: Unreadable) -> str:
    names = {component for component, _ in refused}
    every = sorted(dict.fromkeys([*(site.component for site in sites), *names]), key=_place)
    readable = {site.component for site in sites} - {component for component, _ in unreadable}
    first, *others = dict.fromkeys(refused.values())
    return (
        f"cannot read {', '.join(one for one in every if one in names)} of {name!r}: {first}"
        f"{f' (and {len(others)} more)' if others else ''}. Pass components="
        f"{[one for one in every if one in readable][:MOST_NAMED]}, or layers without them"
    )


def _place(component: str) -> int:
    """Where a component stands in the standard order."""
    return COMPONENTS.index(component) if component in COMPONENTS else len(COMPONENTS)
