"""Which matrices do the experts of a mixture have, and what do they read?"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from engram_interp.models.components import MLP
from engram_interp.models.sites import Input, Site, lens_site


def expert_sites(layer: int, n_experts: int) -> Iterator[Site]:
    """The matrices of a mixture's experts. Each expert has inputs of its own."""
    for expert in range(n_experts):
        for component in MLP:
            read = Input("mlp.post" if component == "W_out" else "mlp.in", layer, expert)
            yield lens_site(component, layer, read, has_bias=False, expert=expert)


def refuse_experts(inputs: Collection[Input]) -> None:
    """Check that no input is an expert's: no cached activation holds these in the order of their tokens.

    Raises:
        NotImplementedError: if one is; it names the first.
    """
    if experts := [one for one in inputs if one.expert is not None]:
        raise NotImplementedError(f"a cache does not hold {experts[0]}: collect it, or leave the MLP out")
