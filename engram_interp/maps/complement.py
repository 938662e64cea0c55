"""`Q = I - sum_i P_i`: what no concept owns, and how much of the weights lies there.

Three kinds of direction make up `tr Q` (paper, Section 6.3). In directions that the data do not have, no change of the
weights has an effect, and `Q` is exact. In directions that the cut drops, the data have a little. In kept directions
that belong to concepts outside the sum, `Q` is soft. Projectors are the paper's here, whatever the filter.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from engram_interp.common.progress import bar
from engram_interp.engrams.factors import Factor
from engram_interp.engrams.weights import matrix_of
from engram_interp.figures.scale import Scale
from engram_interp.linalg.norms import share
from engram_interp.linalg.spectrum import Spectrum, spectrum
from engram_interp.maps.decomposition import Decomposition
from engram_interp.models import adapt
from engram_interp.models.components import COMPONENTS
from engram_interp.models.sites import by_input
from engram_interp.options import Show, takes

if TYPE_CHECKING:
    import plotly.graph_objects as go

SHARES = {
    "weight_share": "|WQ|² / |W|²: weight energy in the complement",
    "null_share": "|WN|² / |W|²: weight energy that the data never meet",
}


@dataclass(frozen=True, eq=False)
class Complement:
    """What none of the named concepts owns.

    ================== ===========================================================================================
    `d`                dimensions of the input (one more with an absorbed bias)
    `complement`       `tr Q`, in dimensions; the sum of the next three
    `null`             directions that the data do not have: `Q` is exact there. Inputs of 768 dimensions or more may
                       be kept as float32 sums, which cannot tell a share below `d * 2**-23` from nothing.
    `below_cut`        directions that the data have, but that the cut drops
    `unowned`          what the named concepts leave of the kept directions: `Q` is soft there. 0 if all are named.
    `weight_share`     `|W Q|_F^2 / |W|_F^2` of the model's matrix, without its bias. `Q` is oblique where it is soft,
                       and this may exceed 1 there.
    `null_share`       the same of the projector onto the null alone
    ================== ===========================================================================================

    Attributes:
        inputs: a row for each input.
        matrices: a row for each matrix, with the numbers of its input beside its own.
        names: the concepts whose projectors are subtracted from the identity.
        n_layers: number of blocks of the model.
        model: the model's name.
    """

    inputs: pd.DataFrame
    matrices: pd.DataFrame
    names: tuple[str, ...]
    n_layers: int
    model: str = ""

    def __repr__(self) -> str:
        return f"Complement(of {len(self.names)} concepts, {len(self.matrices)} matrices of {self.model!r})"

    def _repr_html_(self) -> str:
        from engram_interp.common.html import table_html

        shown = self.matrices.nlargest(5, "weight_share").set_index("key")[list(SHARES)]
        lead = f"Without {len(self.names)} concepts, of {len(self.matrices)} matrices of {self.model}; the largest:"
        return table_html("Complement", None, lead, shown)

    def to_frame(self) -> pd.DataFrame:
        """A row for each matrix."""
        return self.matrices.copy()

    def plot(self, quantity: str = "weight_share") -> go.Figure:
        """Heat map of the share of weight energy, components by layers, with the unembedding in a row of its own.

        Raises:
            ValueError: if `quantity` is not `weight_share` or `null_share`.
        """
        from engram_interp.figures.maps import matrix_map

        if quantity not in SHARES:
            raise ValueError(f"a complement draws {', '.join(SHARES)}; got {quantity!r}")
        title = f"{SHARES[quantity]} ({len(self.names)} concepts in {self.model})"
        return matrix_map(self.matrices, quantity, COMPONENTS, self.n_layers, Scale(quantity), title)


@takes(Show)
def complement(parts: Decomposition, names: Collection[str] | None = None, *, show: Show) -> Complement:
    """What is left of every input when the soft projectors of concepts are subtracted.

    Args:
        parts: the decomposition.
        names: which of its concepts; all by default, which leaves nothing that the cut keeps.

    Raises:
        ValueError: if the decomposition lacks a name, or there is no name.
        RuntimeError: if the model's weights have changed.

    Example:
        >>> from engram_interp import decompose, testbed
        >>> corpus = testbed.authors()
        >>> people = {author.name: author.examples for author in corpus.forget10[:2]}
        >>> found = complement(decompose(testbed.load("full"), people, components="gate", layers=[0]))
        >>> bool(found.inputs.at[0, "null"] + found.inputs.at[0, "below_cut"] == found.inputs.at[0, "complement"])
        True
    """
    chosen = parts.chosen(list(parts) if names is None else names)
    adapter = adapt(parts.model)
    parts.unchanged(adapter)
    inputs: dict[str, dict[str, object]] = {}
    matrices: dict[str, dict[str, object]] = {}
    for name, readers in bar(by_input(parts.sites).items(), show.progress, "projecting", "input"):
        kept, present = parts.kept_of(name), _present(parts, name)
        everyone = len(chosen) == len(parts) and not parts.solve.ridge
        P = kept.Pi if everyone else kept.solve(parts.moment(name, chosen))
        identity = torch.eye(len(P), dtype=P.dtype, device=P.device)
        Q, N = identity - P, identity - present.Pi
        absorbed = name in parts.absorbing
        inputs[name] = {"input": name, **_dimensions(P, kept, present)}
        for site in readers:
            W = matrix_of(adapter, site, absorbed).to(P)
            matrices[site.key] = {
                "key": site.key,
                "component": site.component,
                "layer": site.layer,
                "expert": site.expert,
                "weight_share": _energy(W, Q, absorbed),
                "null_share": _energy(W, N, absorbed),
                **inputs[name],
            }
    frame = pd.DataFrame([matrices[site.key] for site in parts.sites]).astype({"layer": "Int64", "expert": "Int64"})
    return Complement(pd.DataFrame(list(inputs.values())), frame, tuple(chosen), adapter.n_layers, adapter.info.name)


def _present(parts: Decomposition, name: str) -> Spectrum:
    """The directions that the data have, above rounding. Rows that are at hand are summed in float64 for it."""
    every = parts.total(name).every
    d, found = len(every.U), [kept[name] for kept in parts.kept.values()]
    resolution, finest = max(one.resolution for one in found), torch.finfo(torch.float64).eps
    if resolution > finest and all(isinstance(one, Factor) for one in found):
        rows = torch.cat([one.root for one in found])
        return spectrum(rows.T @ rows, d * finest)
    return every.above(d * resolution)


def _dimensions(P: Float[Tensor, "d d"], kept: Spectrum, present: Spectrum) -> dict[str, float | int]:
    d, n_kept = len(P), len(kept.lam)
    n_present = max(len(present.lam), n_kept)
    unowned = max(n_kept - P.trace().item(), 0.0)
    unowned = 0.0 if unowned < d * 1e-9 else unowned
    null, below_cut = d - n_present, n_present - n_kept
    return {"d": d, "complement": null + below_cut + unowned, "null": null, "below_cut": below_cut, "unowned": unowned}


def _energy(W: Float[Tensor, "out d"], Q: Float[Tensor, "d d"], absorbed: bool) -> float:
    """`|W Q|_F^2 / |W|_F^2` without the bias."""
    end = len(Q) - absorbed
    return share((W @ Q)[:, :end].norm(), W[:, :end].norm()).square().item()
