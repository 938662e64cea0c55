"""Do concepts share directions? `tr(P_i P_j) / (|P_i|_F |P_j|_F)` and principal angles of every two concepts.

(Paper, Section 6.3 and App. C.4.) Projectors are the paper's here, whatever the filter.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import pandas as pd

from engram_interp.common.progress import bar
from engram_interp.engrams.strengths import Alpha
from engram_interp.figures.scale import Scale
from engram_interp.linalg.subspaces import overlaps, owned_subspace, principal_angles
from engram_interp.maps.decomposition import Decomposition
from engram_interp.models import adapt
from engram_interp.models.sites import by_input
from engram_interp.options import Show, takes

if TYPE_CHECKING:
    import plotly.graph_objects as go

OVERLAPS = {
    "overlap": Scale("overlap tr(PᵢPⱼ) / |Pᵢ||Pⱼ|"),
    "over_chance": Scale("overlap over that of random directions", ratio=True),
    "smallest_angle": Scale("smallest principal angle (degrees)"),
    "mean_angle": Scale("mean principal angle (degrees)"),
}
"""What is measured of two concepts, and how figures draw it."""
ALL = "all"
"""What stands in an input's place where all are taken together."""


@dataclass(frozen=True, eq=False)
class Interference:
    """What ablating one concept takes from another.

    Attributes:
        accuracy: the share of answer tokens lost, a row for each ablated concept and a column for each scored one.
        loss: how much the answer loss rises, in nats a token, in the same rows and columns.
        alpha: how strongly each was ablated.
    """

    accuracy: pd.DataFrame
    loss: pd.DataFrame
    alpha: Alpha


@dataclass(frozen=True, eq=False)
class Overlap:
    """How much the soft projectors of every two concepts have in common.

    ================== ===========================================================================================
    `overlap`          `tr(P_i P_j) / (|P_i|_F |P_j|_F)`; 0 without a common direction. A concept with itself has 1
                       over its obliqueness squared, which is 1 if `P_i` is symmetric.
    `over_chance`      `k tr(P_i P_j) / (tr P_i tr P_j)`: the overlap over that of randomly turned directions. Low rank
                       alone makes an overlap small; this says whether it is smaller than that.
    `smallest_angle`   between the subspaces that each concept owns most of (its effective rank, rounded, is their
                       dimension), in degrees, with inputs scaled so that `S = I`
    `mean_angle`       the mean of these principal angles
    ================== ===========================================================================================

    Attributes:
        pairs: a row for each two concepts and input: `a`, `b`, `input` and these numbers. The input `all` is all inputs
            together: traces are summed before the division, as for the block-diagonal operators of Eq. 5, and angles
            are means over inputs.
        names: the concepts, as given.
        model: the model's name.
    """

    pairs: pd.DataFrame
    names: tuple[str, ...]
    model: str = ""

    def __repr__(self) -> str:
        return f"Overlap({len(self.names)} concepts of {self.model!r})"

    def _repr_html_(self) -> str:
        from engram_interp.common.html import table_html
        from engram_interp.figures.small import cells

        shared = self.matrix()
        values = shared.to_numpy(dtype=float, copy=True)
        values[range(len(values)), range(len(values))] = float("nan")  # a concept with itself
        picture = cells(
            values.tolist(),
            self.names,
            [f"with {name}" for name in self.names],
            Scale("overlap"),
            "overlap of two concepts",
        )
        first = self.to_frame()
        others = first[first["a"] != first["b"]].nlargest(5, "overlap").set_index(["a", "b"])
        return table_html("Overlap", None, f"{len(self.names)} concepts in {self.model}; the closest:", others, picture)

    def to_frame(self) -> pd.DataFrame:
        """A row for each two concepts, over all inputs."""
        return self.pairs[self.pairs["input"] == ALL].drop(columns="input").reset_index(drop=True)

    def matrix(self, quantity: str = "overlap", of_input: str = ALL) -> pd.DataFrame:
        """A number for every two concepts, `[concept concept]`, in the order of the names.

        Raises:
            ValueError: if the quantity or input is unknown.
        """
        if quantity not in OVERLAPS:
            raise ValueError(f"the quantities of an overlap are {', '.join(OVERLAPS)}; got {quantity!r}")
        rows = self.pairs[self.pairs["input"] == of_input]
        if rows.empty:
            raise ValueError(f"there is no input {of_input!r}; there are {', '.join(self.pairs['input'].unique())}")
        square = rows.pivot(index="a", columns="b", values=quantity).reindex(index=self.names, columns=self.names)
        return square.combine_first(square.T).loc[list(self.names), list(self.names)].rename_axis(columns=None)

    @property
    def order(self) -> list[str]:
        """The names with similar ones side by side: the leaves of an average-linkage clustering."""
        from scipy.cluster.hierarchy import leaves_list, linkage
        from scipy.spatial.distance import squareform

        if len(self.names) < 3:
            return list(self.names)
        similar = self.matrix().to_numpy(dtype=float, copy=True)
        distance = similar.max() - similar
        distance[range(len(distance)), range(len(distance))] = 0
        tree = linkage(squareform(distance, checks=False), method="average", optimal_ordering=True)
        return [self.names[leaf] for leaf in leaves_list(tree)]

    def plot(self, quantity: str = "overlap", interference: Interference | None = None) -> go.Figure:
        """Heat map in clustered order. An interference adds its own heat map, and a scatter plot of the two.

        Colours leave out the diagonals, a concept with itself.

        Raises:
            ValueError: if the quantity is unknown, or the interference is of other concepts.
        """
        from engram_interp.figures.overlap import overlap_and_cost, overlap_map

        shared, order = self.matrix(quantity), self.order
        title = f"What {len(order)} concepts in {self.model} have in common"
        if interference is None:
            return overlap_map(shared.loc[order, order], OVERLAPS[quantity], title)
        cost = interference.accuracy
        if set(cost.index) != set(order) or set(cost.columns) != set(order):
            raise ValueError(f"the interference is of {', '.join(cost.index)}; the overlap of {', '.join(order)}")
        return overlap_and_cost(shared.loc[order, order], cost.loc[order, order], OVERLAPS[quantity], title)


@takes(Show)
def overlap(parts: Decomposition, names: Collection[str] | None = None, *, show: Show) -> Overlap:
    """How much the soft projectors of every two concepts have in common, by input and over all.

    Args:
        parts: the decomposition. Each concept is a share of the total of all its concepts.
        names: which of its concepts to compare; all by default.

    Raises:
        ValueError: if the decomposition lacks a name, or there are fewer than two.

    Example:
        >>> import engram_interp as ei
        >>> corpus = ei.testbed.authors()
        >>> people = {author.name: author.examples for author in corpus.forget10[:3]}
        >>> parts = ei.decompose(ei.testbed.load("full"), people, components="gate", layers=[0])
        >>> found = ei.overlap(parts).to_frame()
        >>> len(found), bool((found["overlap"] >= 0).all())
        (6, True)
    """
    chosen = parts.chosen(list(parts) if names is None else names)
    if len(chosen) < 2:
        raise ValueError(f"an overlap needs two concepts or more; got {chosen[0]!r} alone")
    tables = [
        _of_input(parts, name, chosen) for name in bar(by_input(parts.sites), show.progress, "comparing", "input")
    ]
    pairs = pd.concat([*tables, _of_all(pd.concat(tables))], ignore_index=True)
    return Overlap(_with_ratios(pairs), tuple(chosen), adapt(parts.model).info.name)


def _of_input(parts: Decomposition, name: str, chosen: Sequence[str]) -> pd.DataFrame:
    kept = parts.kept_of(name)
    roots = [parts.kept[concept][name].root for concept in chosen]
    together, norms, traces = overlaps(roots, kept)
    subspaces = [owned_subspace(kept.whiten(root)) for root in roots]
    rows = []
    for i, j in [*((i, i) for i in range(len(chosen))), *combinations(range(len(chosen)), 2)]:
        angles = principal_angles(subspaces[i], subspaces[j])
        rows.append(
            {
                "a": chosen[i],
                "b": chosen[j],
                "input": name,
                "smallest_angle": angles[0].item(),
                "mean_angle": angles.mean().item(),
                "together": together[i, j].item(),
                "by_chance": (traces[i] * traces[j]).item() / max(len(kept.lam), 1),
                "square_a": norms[i].square().item(),
                "square_b": norms[j].square().item(),
            }
        )
    return pd.DataFrame(rows)


def _of_all(pairs: pd.DataFrame) -> pd.DataFrame:
    over = {
        name: "mean" if name.endswith("angle") else "sum" for name in pairs.columns if name not in ("a", "b", "input")
    }
    return pairs.groupby(["a", "b"], sort=False).agg(over).reset_index().assign(input=ALL)


def _with_ratios(pairs: pd.DataFrame) -> pd.DataFrame:
    norms = (pairs["square_a"] * pairs["square_b"]) ** 0.5
    ratios = {"overlap": (pairs["together"], norms), "over_chance": (pairs["together"], pairs["by_chance"])}
    # A concept that never reaches an input (an expert) shares nothing there.
    made = {name: (part / whole).where(whole > 0, 0.0) for name, (part, whole) in ratios.items()}
    return pairs.assign(**made)[["a", "b", "input", *OVERLAPS]]
