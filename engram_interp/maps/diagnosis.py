"""Can an engram be trusted? The spectrum of `M = S^-1/2 S+ S^-1/2`, what `P+` does, and how both move with the cut.

One eigendecomposition of `S` and one of `M` an input, whatever the number of matrices, cuts and filters looked at.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float
from torch import Tensor, nn

from engram_interp.common.arguments import Layers
from engram_interp.concepts.concept import BATCH_SIZE, TARGET, Concept
from engram_interp.engrams.extract import InputData, Part, parts, sites_of, statistics_of
from engram_interp.figures import plots
from engram_interp.linalg.filters import Function, filter_name, values_of
from engram_interp.linalg.projectors import at_cuts, norms_at_cuts, stretch
from engram_interp.linalg.spectrum import default_rtol, require_rtol, spectrum
from engram_interp.maps.quantities import frobenius_norms, output_norm
from engram_interp.models import Adapter, adapt
from engram_interp.models.exclusive import exclusive
from engram_interp.models.sites import Site, share
from engram_interp.statistics.statistics import Statistics

CUTS = tuple(10 ** (exponent / 2) for exponent in range(-16, -1))
"""The cuts that a diagnosis compares: 1e-8 to 0.1, two a decade."""

OF_MATRICES = {
    "wnorm": "W-Norm",
    "output_target": "share of the target's output that the engram carries",
    "output_reference": "share of the reference's output that the engram carries",
}
QUANTITIES = {
    "rank": "kept dimensions",
    "condition": "condition number of the kept directions",
    "owned": "dimensions owned, tr P",
    "effective_rank": "effective rank",
    "largest_share": "largest share of a direction",
    "idempotence_defect": "idempotence defect |P² - P| / |P|",
    "obliqueness": "obliqueness |P| / |M|",
    "stretch": "stretch |P|₂",
    "target_passes": "share of the target's energy that passes P",
    "reference_passes": "share of the reference's energy that passes P",
    **OF_MATRICES,
}
"""What a diagnosis holds, and how figures call it."""


@dataclass(frozen=True)
class InputSpectra:
    """Two spectra of one input.

    Attributes:
        eigenvalues: `[r]`, of `S`, ascending: all that the data has.
        rank: how many of them are kept.
        shares: `[rank]`, the eigenvalues of `M`, ascending, in [0, 1]: the share of a direction that the target owns.
    """

    eigenvalues: Float[Tensor, "r"]
    rank: int
    shares: Float[Tensor, "rank"]


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """What the soft projectors of a concept do, by input and by matrix.

    ===================== ========================================================================================
    `d`, `rank`           dimensions of the input (one more with an absorbed bias), and how many the cut keeps
    `rtol`, `cut`         the cut, as a share of the largest eigenvalue of `S`, and the eigenvalue it falls at
    `condition`           `lambda_max / lambda_min` of what is kept
    `largest_share`       the largest eigenvalue of `M`
    `owned`, ...          see `engram_interp.linalg.projectors.properties`
    `stretch`             `|P|_2`, which no W-Norm exceeds (of `W` with its bias, where one is absorbed)
    `wnorm`               `|W+|_F / |W|_F` of the matrix
    `output_target`       `|W+ X+|^2 / |W X+|^2`: share of the matrix's output on the target
    `output_reference`    the same on the reference
    ===================== ========================================================================================

    Attributes:
        inputs: a row an input.
        matrices: a row a matrix, with the numbers of its input beside its own. None of statistics without a model.
        cuts: how the numbers of an input move with the cut, a row an input and cut.
        wnorms: how W-Norms do, a row a matrix and cut. None of statistics without a model.
        spectra: by input.
        target_share: `n/N`, the target's share of the positions that count. A target that owns nothing of its own has
            this share of every direction.
        n_layers: number of blocks of the model.
        name: the concept's name.
        model: the model's name.
    """

    inputs: pd.DataFrame
    matrices: pd.DataFrame | None
    cuts: pd.DataFrame
    wnorms: pd.DataFrame | None
    spectra: dict[str, InputSpectra]
    target_share: float
    n_layers: int
    name: str | None = None
    model: str = ""

    def __repr__(self) -> str:
        matrices = "" if self.matrices is None else f"{len(self.matrices)} matrices, "
        return f"Diagnosis({self.name!r}, {matrices}{len(self.inputs)} inputs of {self.model!r})"

    def to_frame(self) -> pd.DataFrame:
        """A row a matrix; a row an input, where there is no model whose matrices read it."""
        return (self.inputs if self.matrices is None else self.matrices).copy()

    def filtered(self, filters: Sequence[Function]) -> pd.DataFrame:
        """What other filters would take, a row an input and filter, from the spectra alone.

        `taken` is `tr g(M)`, in dimensions; `target_passes` and `reference_passes` are shares of the energy that passes
        where the inputs are scaled so that `S = I`, `tr g(M)^2 M / tr M` and `tr g(M)^2 (I - M) / tr (I - M)`.

        Example:
            >>> from engram_interp import filters, testbed
            >>> concept = testbed.authors().concept("Petra Dorlund")
            >>> found = diagnose(testbed.load("full"), concept, components="gate", layers=0)
            >>> found.filtered([filters.soft, filters.power(2)])["filter"].tolist()
            ['soft', 'power(2)']
        """
        rows = []
        for name, found in self.spectra.items():
            x = found.shares
            for g in filters:
                taken = values_of(g, x)
                rows.append(
                    {
                        "input": name,
                        "filter": filter_name(g),
                        "taken": taken.sum().item(),
                        "target_passes": share((taken**2 * x).sum(), x.sum()).item(),
                        "reference_passes": share((taken**2 * (1 - x)).sum(), (1 - x).sum()).item(),
                    }
                )
        return pd.DataFrame(rows)

    def plot(self, quantity: str = "effective_rank") -> go.Figure:
        """Heat map of a number, components by layers, the unembedding in a row of its own.

        Args:
            quantity: a column of `to_frame()`.

        Raises:
            ValueError: another quantity, or no matrices: of statistics alone there are inputs only.
        """
        if self.matrices is None:
            raise ValueError("of statistics alone there are no matrices to draw: diagnose(model, statistics)")
        if quantity not in QUANTITIES:
            raise ValueError(f"a diagnosis is drawn of {', '.join(QUANTITIES)}; got {quantity!r}")
        scale = plots.Scale(quantity)
        title = f"{quantity}: {QUANTITIES[quantity]}{self._of()}"
        return plots.matrix_map(self.matrices, quantity, self.n_layers, scale, title)

    def plot_matrix(self, key: str) -> go.Figure:
        """Spectra of a matrix's input, and how rank, W-Norm and the rest move with the cut.

        Args:
            key: the matrix's path, or the name of an input.

        Raises:
            ValueError: neither.
        """
        row, curve = self._row_of(key), None
        if self.wnorms is not None and key in set(self.wnorms["key"]):
            curve = self.wnorms[self.wnorms["key"] == key]
        cuts = self.cuts[self.cuts["input"] == row["input"]]
        found = self.spectra[str(row["input"])]
        title = f"{key}: what the target owns of its input{self._of()}"
        return plots.diagnosis(
            found.eigenvalues, found.shares, self.target_share, float(row["rtol"]), cuts, curve, title
        )

    def _row_of(self, key: str) -> pd.Series:
        for table, column in ((self.matrices, "key"), (self.inputs, "input")):
            if table is not None and key in set(table[column]):
                return table[table[column] == key].iloc[0]
        known = [] if self.matrices is None else list(self.matrices["key"][:3])
        raise ValueError(f"the diagnosis has no {key!r}; it has {', '.join([*known, *self.inputs['input'][:2]])}, ...")

    def _of(self) -> str:
        return f" ({self.name!r} in {self.model})" if self.name else f" ({self.model})"


@exclusive
def diagnose(
    model: nn.Module | Statistics,
    concept: Concept | Statistics | str = TARGET,
    *,
    rtols: Collection[float | int] = CUTS,
    components: str | Collection[str] | None = None,
    layers: Layers = None,
    batch_size: int = BATCH_SIZE,
    rtol: float | int | None = None,
    absorb_bias: bool = True,
    delta_from: nn.Module | None = None,
    progress: bool | None = None,
) -> Diagnosis:
    """Spectra and behaviour of the soft projectors of every input, and of the engrams of every matrix.

    Args:
        model: a `HookedTransformer` or `TransformerBridge`, whatever weight processing it was loaded with. Statistics
            in its place are diagnosed by themselves: inputs only, without rows of ones, since which biases there are to
            absorb is the model's.
        concept: what to look for, or its statistics; of statistics in place of a model, the name of a group, which is
            told apart from all others.
        rtols: the cuts to compare, beside `rtol` itself.
        components: which matrices; every one that the model has by default.
        layers: which layers; all by default. The unembedding is in none: `layers` leaves it out, unless `components`
            names it.
        batch_size: examples in a batch.
        rtol: the spectral cut; see `extract`.
        absorb_bias: treat a bias as one more column of its weight.
        delta_from: of the engram of `W - W_0`; sizes stay shares of `W`.
        progress: True or False shows or hides the bar; None shows it in a terminal and in a notebook.

    Raises:
        ValueError: see `extract`; statistics without the group.
        TypeError: a group's name with a model, or a concept or a choice of matrices with statistics alone.

    Example:
        >>> from engram_interp import testbed
        >>> model, concept = testbed.load("full"), testbed.authors().concept("Petra Dorlund")
        >>> found = diagnose(model, concept, components=["Q", "K"], layers=[0])
        >>> found.to_frame()[["key", "rank"]].values.tolist()
        [['blocks.0.attn.W_Q', 256], ['blocks.0.attn.W_K', 256]]
    """
    for one in (rtol, *rtols):
        require_rtol(one)
    if isinstance(model, Statistics):
        if not (components is None and layers is None and delta_from is None):
            raise TypeError("of statistics alone there are no matrices to choose: no components, layers or delta_from")
        return _of_statistics(model, concept, rtols, rtol)
    if isinstance(concept, str):
        raise TypeError(f"with a model, give a Concept or its Statistics; got the name {concept!r}")
    adapter = adapt(model)
    statistics = statistics_of(model, concept, components, layers, batch_size, progress)
    sites = sites_of(adapter, statistics, components, layers)
    made = parts(adapter, statistics, sites, rtol, absorb_bias, delta_from, progress=progress)
    return diagnosis_of(adapter, sites, made, rtols, statistics.token_share(), statistics.name)


def _of_statistics(
    statistics: Statistics, group: object, rtols: Collection[float | int], rtol: float | int | None
) -> Diagnosis:
    if not isinstance(group, str):
        raise TypeError(f"of statistics alone, name one of their groups; got a {type(group).__name__}")
    if group not in statistics.groups:
        raise ValueError(f"the statistics have no group {group!r}, only {', '.join(statistics.groups)}")
    tables = Tables(rtols)
    for name in statistics.inputs:
        S = statistics.total(name).matrix(ones=False)
        S_plus = statistics.groups[group][name].matrix(ones=False).to(S.device)
        tables.add_input(name, InputData(False, S_plus, S, spectrum(S, 0.0), rtol))
    return Diagnosis(
        inputs=tables.inputs,
        matrices=None,
        cuts=tables.cuts,
        wnorms=None,
        spectra=tables.spectra,
        target_share=statistics.token_share(group),
        n_layers=0,
        name=statistics.name if group == TARGET else group,
        model=statistics.info.name,
    )


def diagnosis_of(
    adapter: Adapter,
    sites: Sequence[Site],
    made: Iterable[Part],
    rtols: Collection[float | int],
    target_share: float,
    name: str | None,
) -> Diagnosis:
    """The diagnosis of matrices whose engrams are at hand.

    Args:
        adapter: the model.
        sites: the matrices, in the order of the table.
        made: them and what they read, those that share an input one after the other.
        rtols: the cuts to compare.
        target_share: the target's share of the positions that count.
        name: of the concept.
    """
    tables = Tables(rtols)
    for part in made:
        if part.site.input not in tables.spectra:
            tables.add_input(part.site.input, part.data)
        tables.add_matrix(part)
    return Diagnosis(
        inputs=tables.inputs,
        matrices=tables.matrices([site.key for site in sites]),
        cuts=tables.cuts,
        wnorms=tables.wnorms,
        spectra=tables.spectra,
        target_share=target_share,
        n_layers=adapter.n_layers,
        name=name,
        model=adapter.info.name,
    )


class Tables:
    """The rows of a diagnosis, as inputs and matrices come.

    Args:
        rtols: the cuts to compare.
    """

    def __init__(self, rtols: Collection[float | int]) -> None:
        self._rtols = rtols
        self._inputs: dict[str, dict[str, float | str]] = {}
        self._matrices: dict[str, dict[str, object]] = {}
        self._cuts: dict[str, list[dict[str, float | int]]] = {}
        self._curves: list[dict[str, object]] = []
        self.spectra: dict[str, InputSpectra] = {}

    def add_input(self, name: str, data: InputData) -> None:
        """Take in what the data say about an input."""
        d, lam = len(data.S), data.every.lam
        rtol = float(default_rtol(d) if data.rtol is None else data.rtol)
        at = at_cuts(data.S_plus, data.every, sorted({rtol, *map(float, self._rtols)}))
        (here,) = (row for row in at if row["rtol"] == rtol)
        self._cuts[name] = at
        self._inputs[name] = {
            "input": name,
            "d": d,
            "cut": rtol * lam[-1].item() if len(lam) else 0.0,
            **here,
            "largest_share": data.owned.share[-1].item() if here["rank"] else 0.0,
            "stretch": stretch(data.P_plus),
        }
        self.spectra[name] = InputSpectra(lam.cpu(), int(here["rank"]), data.owned.share.cpu())

    def add_matrix(self, part: Part) -> None:
        """Take in a matrix whose input was taken in before."""
        site, data = part.site, part.data
        at = self._cuts[site.input]
        whole = frobenius_norms(part, part.W)[0]
        ranks = [int(row["rank"]) for row in at]
        norms = norms_at_cuts(part.dW, data.S_plus, data.every, ranks, data.absorbed)
        for row, norm in zip(at, norms, strict=True):
            wnorm = share(whole.new_tensor(norm), whole).item()
            self._curves.append({"key": site.key, "rtol": row["rtol"], "rank": row["rank"], "wnorm": wnorm})
        self._matrices[site.key] = {
            "key": site.key,
            "component": site.component,
            "layer": site.layer,
            "expert": site.expert,
            "wnorm": share(frobenius_norms(part, part.W_plus)[0], whole).item(),
            "output_target": _carried(part, data.S_plus),
            "output_reference": _carried(part, data.S - data.S_plus),
            **self._inputs[site.input],
        }

    @property
    def inputs(self) -> pd.DataFrame:
        """A row an input."""
        return pd.DataFrame(list(self._inputs.values()))

    @property
    def cuts(self) -> pd.DataFrame:
        """A row an input and cut."""
        return pd.DataFrame([{"input": name, **row} for name, rows in self._cuts.items() for row in rows])

    def matrices(self, order: Sequence[str]) -> pd.DataFrame:
        """A row a matrix, in the order of the keys given."""
        return pd.DataFrame([self._matrices[key] for key in order]).astype({"layer": "Int64", "expert": "Int64"})

    @property
    def wnorms(self) -> pd.DataFrame:
        """A row a matrix and cut."""
        return pd.DataFrame(self._curves)


def _carried(part: Part, S: Float[Tensor, "d d"]) -> float:
    """`|W+ X|^2 / |W X|^2`."""
    return share(output_norm(part.W_plus, S), output_norm(part.W, S)).square().item()
