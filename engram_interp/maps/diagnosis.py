"""Can an engram be trusted? The spectrum of `M = S^-1/2 S+ S^-1/2`, what `P+` does, and how both move with the cut.

Without a ridge and a filter, one eigendecomposition of `S` and one of `M` serve all matrices and cuts of an input.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd
from torch import nn

from engram_interp.concepts.concept import TARGET, Concept
from engram_interp.engrams.parts import Part, input_data, parts, prepare
from engram_interp.figures.scale import Scale
from engram_interp.linalg.filters import Function, filter_name, values_of
from engram_interp.linalg.norms import share
from engram_interp.linalg.spectrum import require_rtol
from engram_interp.maps.diagnosis_tables import InputSpectra, Tables
from engram_interp.models import Adapter
from engram_interp.models.components import COMPONENTS
from engram_interp.models.exclusive import exclusive
from engram_interp.models.sites import Site
from engram_interp.options import Keep, Run, Solve, Which, takes
from engram_interp.statistics.statistics import Statistics

if TYPE_CHECKING:
    import plotly.graph_objects as go

CUTS = tuple(10 ** (exponent / 2) for exponent in range(-16, -1))
"""The cuts that a diagnosis compares: 1e-8 to 0.1, two a decade."""

SHOWN = ("rank", "condition", "obliqueness", "target_passes", "reference_passes")
"""The columns that a notebook shows."""
N_SHOWN, N_LINES, N_POINTS = 5, 4, 64
"""Rows, spectra and directions that a notebook shows."""
OF_MATRICES = {
    "wnorm": "W-Norm",
    "output_target": "share of the target's output that the engram carries",
    "output_reference": "share of the reference's output that the engram carries",
}
DIAGNOSED = {
    "rank": "kept dimensions",
    "condition": "condition number of the kept directions",
    "leading": "largest eigenvalue over the next",
    "rank_set_aside": "kept dimensions if the leading 1 % do not set the cut",
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


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """What the soft projectors of a concept do, by input and by matrix.

    ===================== ========================================================================================
    `d`, `rank`           dimensions of the input (one more with an absorbed bias), and how many the cut keeps
    `rtol`, `cut`         the cut, as a share of the largest eigenvalue of `S`, and the eigenvalue it falls at
    `condition`           `lambda_max / lambda_min` of what is kept
    `leading`             the largest eigenvalue of `S` over the next: large where one direction sets the cut
    `rank_set_aside`      how many dimensions are kept if the leading 1 % do not set the cut (`outliers=0.01`)
    `largest_share`       the largest eigenvalue of `M`
    `owned`, ...          see `engram_interp.linalg.projectors.properties`
    `stretch`             `|P|_2`, which no W-Norm exceeds (of `W` with its bias, where one is absorbed)
    `wnorm`               `|W+|_F / |W|_F` of the matrix
    `output_target`       `|W+ X+|^2 / |W X+|^2`: share of the matrix's output on the target
    `output_reference`    the same on the reference
    ===================== ========================================================================================

    Attributes:
        inputs: a row for each input.
        matrices: a row for each matrix, with the numbers of its input beside its own; None without a model.
        cuts: how the numbers of an input move with the cut, a row for each input and cut.
        wnorms: how W-Norms move with the cut, a row for each matrix and cut; None without a model.
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

    def _repr_html_(self) -> str:
        from engram_interp.common.html import table_html
        from engram_interp.figures.small import lines

        frame = self.to_frame()
        what = "input" if self.matrices is None else "key"
        shown = frame.nlargest(N_SHOWN, "obliqueness").set_index(what)[list(SHOWN)]
        spectra = {name: one.shares.flip(0)[:N_POINTS].tolist() for name, one in list(self.spectra.items())[:N_LINES]}
        n = max(map(len, spectra.values()), default=0)
        padded = {name: [*values, *[float("nan")] * (n - len(values))] for name, values in spectra.items()}
        picture = lines(range(1, n + 1), padded, "direction", "target's share of it")
        lead = f"{len(frame)} {'inputs' if what == 'input' else 'matrices'} of {self.model}; the most oblique:"
        return table_html("Diagnosis", self.name, lead, shown, picture)

    def to_frame(self) -> pd.DataFrame:
        """A row for each matrix; without a model, a row for each input."""
        return (self.inputs if self.matrices is None else self.matrices).copy()

    def filtered(self, filters: Sequence[Function]) -> pd.DataFrame:
        """What other filters would take, from the spectra alone: a row for each input and filter.

        `taken` is `tr g(M)`, in dimensions. `target_passes` and `reference_passes` are the shares of energy that pass
        when inputs are scaled so that `S = I`: `tr g(M)^2 M / tr M` and `tr g(M)^2 (I - M) / tr (I - M)`.

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
        """Heat map of a number, components by layers, with the unembedding in a row of its own.

        Args:
            quantity: a column of `to_frame()`.

        Raises:
            ValueError: if `quantity` is another one, or there are no matrices, as in a diagnosis of statistics alone.
        """
        from engram_interp.figures.maps import matrix_map

        if self.matrices is None:
            raise ValueError("statistics alone have no matrices to draw: diagnose(model, statistics) has")
        if quantity not in DIAGNOSED:
            raise ValueError(f"a diagnosis draws {', '.join(DIAGNOSED)}; got {quantity!r}")
        scale = Scale(quantity)
        title = f"{quantity}: {DIAGNOSED[quantity]}{self._of()}"
        return matrix_map(self.matrices, quantity, COMPONENTS, self.n_layers, scale, title)

    def plot_matrix(self, key: str) -> go.Figure:
        """The spectra of a matrix's input, and how rank, W-Norm and the rest move with the cut.

        Args:
            key: the matrix's path, or the name of an input.

        Raises:
            ValueError: if it is neither.
        """
        from engram_interp.figures.diagnosis import diagnosis_panels

        row, curve = self._row_of(key), None
        if self.wnorms is not None and key in set(self.wnorms["key"]):
            curve = self.wnorms[self.wnorms["key"] == key]
        cuts = self.cuts[self.cuts["input"] == row["input"]]
        found = self.spectra[str(row["input"])]
        title = f"{key}: what the target owns of its input{self._of()}"
        return diagnosis_panels(
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
@takes(Which, Solve, Run, Keep)
def diagnose(
    model: nn.Module | Statistics,
    concept: Concept | Statistics | str = TARGET,
    *,
    rtols: Collection[float | int] = CUTS,
    which: Which,
    solve: Solve,
    run: Run,
    keep: Keep,
) -> Diagnosis:
    """Spectra and behaviour of the soft projectors of every input, and of the engrams of every matrix.

    Args:
        model: a `HookedTransformer` or `TransformerBridge`, however its weights were processed, or a plain module.
            Statistics in its place are diagnosed by themselves: inputs only, and without rows of ones, since only the
            model knows which biases there are.
        concept: what to look for, or its statistics. With statistics in the model's place, the name of the group that
            is told apart from all others.
        rtols: the cuts to compare, beside `rtol` itself.

    Raises:
        ValueError: if the statistics lack the group; see also `extract`.
        TypeError: if a group's name comes with a model, or a concept, a choice of matrices or `delta_from` comes with
            statistics alone.

    Example:
        >>> from engram_interp import testbed
        >>> model, concept = testbed.load("full"), testbed.authors().concept("Petra Dorlund")
        >>> found = diagnose(model, concept, components=["Q", "K"], layers=[0])
        >>> found.to_frame()[["key", "rank"]].values.tolist()
        [['blocks.0.attn.W_Q', 256], ['blocks.0.attn.W_K', 256]]
    """
    for one in rtols:
        require_rtol(one)
    if isinstance(model, Statistics):
        return _of_statistics(model, concept, rtols, which, solve)
    if isinstance(concept, str):
        raise TypeError(f"with a model, concept must be a Concept or its Statistics; got the name {concept!r}")
    prepared = prepare(model, concept, which, solve, run, keep)
    made, statistics = parts(prepared, solve, run.progress), prepared.statistics
    return diagnosis_of(prepared.adapter, prepared.sites, made, rtols, statistics.token_share(), statistics.name)


def _of_statistics(
    statistics: Statistics, group: object, rtols: Collection[float | int], which: Which, solve: Solve
) -> Diagnosis:
    if which != Which() or solve.delta_from is not None:
        raise TypeError("statistics alone have no matrices to choose: give no components, layers or delta_from")
    if not isinstance(group, str):
        raise TypeError(f"with statistics alone, concept must be the name of a group; got a {type(group).__name__}")
    if group not in statistics.groups:
        raise ValueError(f"the statistics have no group {group!r}, only {', '.join(statistics.groups)}")
    tables = Tables(rtols)
    for name in statistics.inputs:
        tables.add_input(name, input_data(statistics, name, False, solve, group))
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
        made: the matrices and what they read. Matrices that share an input come together.
        rtols: the cuts to compare.
        target_share: the target's share of the positions that count.
        name: the concept's name.
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
