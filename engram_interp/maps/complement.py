"""`Q = I - sum_i P_i`: what no concept owns, how much of the weights lies there, and whether it may change for free.

Three kinds of direction make up `tr Q` (paper, Section 6.3). Along those that the data do not have at all, no change of
the weights has an effect: there `Q` is exact. Along those that the spectral cut drops the data have something, if
little. And what is kept but owned by concepts that were left out of the sum, `Q` holds in part: there it is soft.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float
from torch import Tensor, nn

from engram_interp.common.arguments import Layers, Number, number
from engram_interp.common.progress import bar
from engram_interp.concepts.concept import BATCH_SIZE, Example, TokenExample, batches, encode_groups
from engram_interp.engrams.decomposition import Decomposition, Factor
from engram_interp.engrams.engram import Engram
from engram_interp.engrams.extract import matrix_of
from engram_interp.figures import plots
from engram_interp.linalg.spectrum import Spectrum, spectrum
from engram_interp.models import Adapter, adapt
from engram_interp.models.exclusive import exclusive
from engram_interp.models.sites import Site, by_input, head_norms, share, to_parameter
from engram_interp.statistics.rows import Rows, collect_rows

SHARES = {
    "weight_share": "|WQ|² / |W|²: weight energy in the complement",
    "null_share": "|WN|² / |W|²: weight energy that the data never meet",
}
THROUGH_NULL, ELSEWHERE = "through the null of the data", "elsewhere"


@dataclass(frozen=True, eq=False)
class Complement:
    """What none of the named concepts owns.

    ================== ===========================================================================================
    `d`                dimensions of the input (one more with an absorbed bias)
    `complement`       `tr Q`, in dimensions; the sum of the next three
    `null`             directions that the data do not have: `Q` is exact there. Of wide inputs (from 768 dimensions
                       on) that are kept as float32 sums, these sums cannot tell less than `d * 2**-23` from nothing.
    `below_cut`        directions that they have, but less of than the cut asks for
    `unowned`          of the kept directions, what the named concepts leave: `Q` is soft there. 0 if all are named.
    `weight_share`     `|W Q|_F^2 / |W|_F^2` of the model's matrix, without its bias. `Q` is oblique where it is soft,
                       and this may exceed 1 there.
    `null_share`       the same of the projector onto the null alone
    ================== ===========================================================================================

    Attributes:
        inputs: a row an input.
        matrices: a row a matrix, with the numbers of its input beside its own.
        names: of the concepts whose projectors are taken from the identity.
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

    def to_frame(self) -> pd.DataFrame:
        """A row a matrix."""
        return self.matrices.copy()

    def plot(self, quantity: str = "weight_share") -> go.Figure:
        """Heat map of the share of weight energy, components by layers, the unembedding in a row of its own.

        Raises:
            ValueError: another quantity than `weight_share` or `null_share`.
        """
        if quantity not in SHARES:
            raise ValueError(f"a complement is drawn of {', '.join(SHARES)}; got {quantity!r}")
        title = f"{SHARES[quantity]} ({len(self.names)} concepts in {self.model})"
        return plots.matrix_map(self.matrices, quantity, self.n_layers, plots.Scale(quantity), title)


def complement(
    parts: Decomposition, names: Collection[str] | None = None, *, progress: bool | None = None
) -> Complement:
    """What is left of every input when the soft projectors of concepts are taken away.

    Args:
        parts: the decomposition.
        names: of which of its concepts; all by default, which leaves nothing that the cut keeps.
        progress: True or False shows or hides the bar; None shows it in a terminal and in a notebook.

    Raises:
        ValueError: a name that the decomposition does not have, or none at all.
        RuntimeError: the model's weights are no longer what they were.

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
    for name, readers in bar(by_input(parts.sites).items(), progress, "projecting", "input"):
        S, every = parts.total(name)
        kept, present = every.above(parts.rtol), _present(parts, name)
        P = kept.Pi if len(chosen) == len(parts) else kept.soft_projector(parts.moment(name, chosen))
        identity = torch.eye(len(S), dtype=P.dtype, device=P.device)
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
    """The directions that the data have: those that stand out of rounding, in float64 wherever rows are at hand."""
    _, every = parts.total(name)
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


@exclusive
@torch.no_grad()
def null_check(
    model: nn.Module,
    examples: Sequence[Example],
    *,
    size: Number = 1.0,
    seed: int = 0,
    components: str | Collection[str] | None = None,
    layers: Layers = None,
    batch_size: int = BATCH_SIZE,
    progress: bool | None = None,
) -> pd.DataFrame:
    """Whether weights may be changed at will through the null of the data, as the logits on these data have it.

    Every matrix is perturbed at once by a random matrix through the directions that its inputs never have, at any
    position of the examples (what is answered also hangs on prompts and BOS), and then by one of the same size through
    those that they have. An expert that no position reaches is left as it is. Inputs need fewer positions than
    dimensions for there to be a null.

    Args:
        model: a `HookedTransformer` or `TransformerBridge`; it is left as it was.
        examples: as `Concept` takes them.
        size: of a perturbation, as a share of its matrix's norm.
        seed: of the random matrices.
        components: which matrices; every one that the model has by default.
        layers: which layers; all by default.
        batch_size: examples in a batch.
        progress: True or False shows or hides the bars; None shows them in a terminal and in a notebook.

    Returns:
        A row a perturbation: `matrices` and `directions` perturbed (mean over matrices), `largest_change` and
        `mean_change` of a logit, `answers_changed`, the share of positions with another argmax, and `largest_logit`, of
        the unperturbed model, to judge rounding by.

    Raises:
        ValueError: the examples leave no direction without data; weights in half precision, whose rounding alone is
            no longer in the null; a size that is not above 0.

    Example:
        >>> from engram_interp import testbed
        >>> found = null_check(testbed.load("full"), ["Where was Petra Dorlund born?"])
        >>> bool(found.at["through the null of the data", "largest_change"] < 1e-3)
        True
    """
    if not (size := number(size, "size")) > 0:
        raise ValueError(f"size is a share of each matrix's norm, above 0; got {size}")
    adapter = adapt(model)
    sites = adapter.sites(components, layers)
    if coarse := [
        site.key for site in sites if adapter.parameter(site.key).dtype not in (torch.float32, torch.float64)
    ]:
        raise ValueError(f"{coarse[0]} is in half precision, which rounds a perturbation out of the null: use float32")
    encoded = encode_groups({"examples": examples}, adapter.encoder)
    everywhere = {group: [_everywhere(one) for one in found] for group, found in encoded.items()}
    rows = collect_rows(adapter, sites, everywhere, batch_size, progress)
    bases = {name: _row_space(found) for name, found in rows.items()}
    reached = [site for site in sites if 0 < bases[site.input].shape[1] < bases[site.input].shape[0]]
    if not reached:
        n_rows = sum(int(one.counts.sum()) for found in everywhere.values() for one in found)
        raise ValueError(
            f"{n_rows} positions leave no direction without data at any input: give fewer than an input has dimensions"
        )
    before = _logits(adapter, everywhere, batch_size, progress)
    table = {}
    for name, through in ((THROUGH_NULL, True), (ELSEWHERE, False)):
        noise = _noise(adapter, reached, bases, through, size, seed)
        with noise.injected(model):
            after = _logits(adapter, everywhere, batch_size, progress)
        ranks = [bases[site.input].shape for site in reached]
        table[name] = {
            "matrices": len(reached),
            "directions": sum(d - rank if through else rank for d, rank in ranks) / len(ranks),
            "largest_change": (after - before).abs().max().item(),
            "mean_change": (after - before).abs().mean().item(),
            "answers_changed": (after.argmax(-1) != before.argmax(-1)).double().mean().item(),
            "largest_logit": before.abs().max().item(),
        }
    return pd.DataFrame.from_dict(table, orient="index")


def _everywhere(example: TokenExample) -> TokenExample:
    return replace(example, counts=torch.ones_like(example.counts))


def _row_space(rows: Rows) -> Float[Tensor, "d rank"]:
    """An orthonormal basis of what an input is made of, in float64."""
    _, singular, directions = torch.linalg.svd(rows.X.double(), full_matrices=False)
    floor = max(rows.X.shape) * torch.finfo(torch.float64).eps * singular[:1].sum()
    return directions[singular > floor].T


def _logits(
    adapter: Adapter, encoded: dict[str, list[TokenExample]], batch_size: int, progress: bool | None
) -> Float[Tensor, "n d_vocab"]:
    found = [
        adapter.unembed(adapter.final(batch, at=batch.counts)).double().cpu()
        for batch in batches(encoded, batch_size, progress, "logits")
    ]
    return torch.cat(found)


def _noise(
    adapter: Adapter,
    sites: Sequence[Site],
    bases: dict[str, Float[Tensor, "d rank"]],
    through_null: bool,
    size: float | int,
    seed: int,
) -> Engram:
    """Random matrices through what inputs never are, or through what they are, each of its matrix's size."""
    generator = torch.Generator().manual_seed(seed)
    tensors, norms = {}, {}
    for site in sites:
        parameter, V = adapter.parameter(site.key), bases[site.input]
        norms[site.key] = head_norms(site.component, parameter).cpu()
        R = torch.randn(parameter.numel() // len(V), len(V), generator=generator, dtype=torch.float64).to(V.device)
        inside = R @ V @ V.T
        chosen = R - inside if through_null else inside
        scaled = chosen * (size * norms[site.key].norm().to(V.device) / chosen.norm())
        tensors[site.key] = to_parameter(site.component, scaled, like=parameter).to(parameter)
    return Engram(tensors, norms, adapter.info, name="noise")
