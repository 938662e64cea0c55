"""Do concepts share directions, and does it cost one to ablate the other? (paper, Section 6.3 and App. C.4)

`tr(P_i P_j) / (|P_i|_F |P_j|_F)` and principal angles of every two concepts, next to what ablating `i` takes from `j`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import pandas as pd
import plotly.graph_objects as go

from engram_interp.answers.scoring import score_encoded
from engram_interp.common.progress import bar
from engram_interp.concepts.concept import BATCH_SIZE, Example, encode_groups
from engram_interp.engrams.decomposition import Decomposition
from engram_interp.engrams.engram import Alpha
from engram_interp.figures import plots
from engram_interp.linalg.filters import Function, soft
from engram_interp.linalg.projectors import overlaps, owned_subspace, principal_angles, whitened
from engram_interp.models import adapt
from engram_interp.models.sites import by_input

OVERLAPS = {
    "overlap": plots.Scale("overlap tr(PᵢPⱼ) / |Pᵢ||Pⱼ|"),
    "over_chance": plots.Scale("overlap over that of random directions", ratio=True),
    "smallest_angle": plots.Scale("smallest principal angle (degrees)"),
    "mean_angle": plots.Scale("mean principal angle (degrees)"),
}
"""What is measured of two concepts, and how figures draw it."""
ALL = "all"
"""What stands in an input's place where all are taken together."""


@dataclass(frozen=True, eq=False)
class Interference:
    """What ablating one concept takes from another.

    Attributes:
        accuracy: share of answer tokens lost, a row an ablated concept and a column a scored one.
        loss: by how much the answer loss rises, in nats a token, likewise.
        alpha: how strongly each was ablated.
    """

    accuracy: pd.DataFrame
    loss: pd.DataFrame
    alpha: Alpha


@dataclass(frozen=True, eq=False)
class Overlap:
    """How much the soft projectors of every two concepts have in common.

    ================== ===========================================================================================
    `overlap`          `tr(P_i P_j) / (|P_i|_F |P_j|_F)`, 0 of concepts without a direction in common. Of a concept with
                       itself it is 1 over its obliqueness squared, 1 where `P_i` is symmetric.
    `over_chance`      `k tr(P_i P_j) / (tr P_i tr P_j)`: over what it would be, were the directions of one turned at
                       random. Low rank alone makes an overlap small; this says whether it is smaller than that.
    `smallest_angle`   between the subspaces that each owns most of (as many directions as its effective rank), in
                       degrees, where inputs are scaled so that `S = I`
    `mean_angle`       the mean of these principal angles
    ================== ===========================================================================================

    Attributes:
        pairs: a row two concepts and input: `a`, `b`, `input` and these numbers. Of all inputs together, the input is
            `all`: there traces are summed before the division, as of the block-diagonal operators of Eq. 5, and angles
            are the mean over inputs.
        names: of the concepts, as given.
        model: the model's name.
    """

    pairs: pd.DataFrame
    names: tuple[str, ...]
    model: str = ""

    def __repr__(self) -> str:
        return f"Overlap({len(self.names)} concepts of {self.model!r})"

    def to_frame(self) -> pd.DataFrame:
        """A row two concepts, over all inputs."""
        return self.pairs[self.pairs["input"] == ALL].drop(columns="input").reset_index(drop=True)

    def matrix(self, quantity: str = "overlap", of_input: str = ALL) -> pd.DataFrame:
        """A number of every two concepts, `[concept concept]`, in the order of the names.

        Raises:
            ValueError: an unknown quantity or input.
        """
        if quantity not in OVERLAPS:
            raise ValueError(f"an overlap is {', '.join(OVERLAPS)}; got {quantity!r}")
        rows = self.pairs[self.pairs["input"] == of_input]
        if rows.empty:
            raise ValueError(f"there is no input {of_input!r}; there are {', '.join(self.pairs['input'].unique())}")
        square = rows.pivot(index="a", columns="b", values=quantity).reindex(index=self.names, columns=self.names)
        return square.combine_first(square.T).loc[list(self.names), list(self.names)].rename_axis(columns=None)

    @property
    def order(self) -> list[str]:
        """The names, similar ones side by side: the leaves of an average-linkage clustering."""
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
        """Heat map in clustered order; with an interference, that beside it, and one against the other.

        The diagonals, a concept with itself, are left out of the colours.

        Raises:
            ValueError: an unknown quantity, or an interference of other concepts.
        """
        shared, order = self.matrix(quantity), self.order
        title = f"What {len(order)} concepts in {self.model} have in common"
        if interference is None:
            return plots.overlap(shared.loc[order, order], OVERLAPS[quantity], title)
        cost = interference.accuracy
        if set(cost.index) != set(order) or set(cost.columns) != set(order):
            raise ValueError(f"the interference is of {', '.join(cost.index)}; the overlap of {', '.join(order)}")
        return plots.overlap_and_cost(shared.loc[order, order], cost.loc[order, order], OVERLAPS[quantity], title)


def overlap(parts: Decomposition, names: Collection[str] | None = None, *, progress: bool | None = None) -> Overlap:
    """How much the soft projectors of every two concepts have in common, by input and over all.

    Args:
        parts: the decomposition; the total of all its concepts is what each is a share of.
        names: which of its concepts to compare; all by default.
        progress: True or False shows or hides the bar; None shows it in a terminal and in a notebook.

    Raises:
        ValueError: a name that the decomposition does not have, or fewer than two.

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
        raise ValueError(f"an overlap is between two concepts or more; got {chosen[0]!r} alone")
    tables = [_of_input(parts, name, chosen) for name in bar(by_input(parts.sites), progress, "comparing", "input")]
    pairs = pd.concat([*tables, _of_all(pd.concat(tables))], ignore_index=True)
    return Overlap(_with_ratios(pairs), tuple(chosen), adapt(parts.model).info.name)


def _of_input(parts: Decomposition, name: str, chosen: Sequence[str]) -> pd.DataFrame:
    _, every = parts.total(name)
    kept = every.above(parts.rtol)
    roots = [parts.kept[concept][name].root for concept in chosen]
    together, norms, traces = overlaps(roots, kept)
    subspaces = [owned_subspace(whitened(root, kept)) for root in roots]
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


def interference(
    parts: Decomposition,
    concepts: Mapping[str, Sequence[Example]],
    *,
    alpha: Alpha = 1.0,
    filter: Function = soft,
    batch_size: int = BATCH_SIZE,
    progress: bool | None = None,
) -> Interference:
    """What ablating each concept takes from every other, in the model's answers.

    Args:
        parts: the decomposition.
        concepts: of each concept to ablate and to score, its examples, by the decomposition's names.
        alpha: how strongly each is ablated; see `Engram.ablate`.
        filter: how much of a direction is taken; see `extract`.
        batch_size: examples in a batch.
        progress: True or False shows or hides the bar; None shows it in a terminal and in a notebook.

    Raises:
        ValueError: a name that the decomposition does not have.
    """
    chosen = parts.chosen(list(concepts))
    adapter = adapt(parts.model)
    encoded = encode_groups({name: concepts[name] for name in chosen}, adapter.encoder)

    def scores() -> pd.DataFrame:
        found = score_encoded(adapter, encoded, batch_size=batch_size, progress=False)
        return pd.DataFrame({name: {"accuracy": one.accuracy, "loss": one.loss} for name, one in found.items()})

    before, lost = scores(), {}
    for name in bar(chosen, progress, "ablating", "concept"):
        with parts.engram(name, filter).ablated(parts.model, alpha):
            lost[name] = before - scores()
    return Interference(
        accuracy=pd.DataFrame({name: frame.loc["accuracy"] for name, frame in lost.items()}).T,
        loss=pd.DataFrame({name: -frame.loc["loss"] for name, frame in lost.items()}).T,
        alpha=alpha,
    )
