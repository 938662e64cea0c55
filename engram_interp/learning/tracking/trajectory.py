"""`Trajectory`: when was a memory learned, where did its engram form, and did it move? Maps and answers by step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from torch import Tensor

from engram_interp.common import storage
from engram_interp.common.frames import frame_of, frame_parts
from engram_interp.concepts.concept import TARGET
from engram_interp.learning.tracking.measured import Measured
from engram_interp.linalg.singular import Singular, cosine, shared
from engram_interp.maps.localization_map import LocalizationMap, map_scale
from engram_interp.maps.quantities import MAP_QUANTITIES

if TYPE_CHECKING:
    import plotly.graph_objects as go

KIND = "trajectory"
CHANGES = {
    "moved": "change of the weights since the checkpoint before, |W - W_before| / |W|",
    "delta": "engram of that change, |(W - W_before)+| / |W|",
    "cosine": "cosine with the last engram",
    "subspace": "share of the last engram's input directions",
}
"""The columns that a trajectory adds to its maps', and how figures call them."""
RISE = 0.9
"""A memory is learned when its answers have so much of the rise in accuracy, and settled when so much of its engram is
the last one's."""


@dataclass(frozen=True, eq=False)
class Trajectory:
    """What checkpoints hold of each concept.

    Attributes:
        table: a row for each step, concept, and matrix or head: the columns of `LocalizationMap.table`, and of matrices
            `moved` and `delta`, the change of the weights since the checkpoint before and its engram, as shares of the
            weights; `cosine`, of the engram with that of the last checkpoint, `<W+_t, W+_T> / |W+_t| |W+_T|`; and
            `subspace`, which share of the last engram's leading input directions, as many as its effective rank, are
            among as many of this one's.
        answers: a row for each step, concept and side: `accuracy`, `loss` in nats a token, `n_tokens`.
        overlaps: a row for each step and two concepts, which are read as the first of all is; see `Overlap`.
        steps: a row for each step: `source`, `since` (the checkpoint before), `seconds`; and `reference_error` where
            the reference's statistics of step `reference_of` were kept until then: by how much they would change
            W-Norms.
        failed: what was left out, and why, by name.
    """

    table: pd.DataFrame
    answers: pd.DataFrame
    overlaps: pd.DataFrame
    steps: pd.DataFrame
    headers: Mapping[str, Mapping[str, dict[str, Any]]] = field(repr=False, default_factory=dict)
    failed: Mapping[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        left_out = f", {len(self.failed)} left out" if self.failed else ""
        return f"Trajectory({', '.join(map(repr, self.concepts))}; {self._span()}{left_out})"

    def _repr_html_(self) -> str:
        from engram_interp.common.html import table_html
        from engram_interp.figures.small import lines

        steps = self.steps["step"].tolist()
        picture = lines(steps, self._curves(), "step", "target accuracy" if len(self.answers) else "mean Fisher share")
        return table_html("Trajectory", ", ".join(self.concepts), self._span(), self.formation(), picture)

    def _curves(self) -> dict[str, list[float]]:
        """By concept and step, the accuracy of answers, or the mean Fisher share where nothing was asked."""
        if len(self.answers):
            found = self.answers[self.answers["side"] == TARGET].pivot(
                index="step", columns="concept", values="accuracy"
            )
        else:
            found = self.to_frame().pivot_table(index="step", columns="concept", values="fisher")
        found = found.reindex(self.steps["step"])
        return {name: found[name].astype(float).tolist() for name in self.concepts if name in found}

    def _span(self) -> str:
        steps = self.steps["step"]
        return f"{len(steps)} checkpoints, steps {steps.iloc[0]} to {steps.iloc[-1]}"

    @property
    def concepts(self) -> list[str]:
        """The concepts."""
        return list(dict.fromkeys(self.table["concept"]))

    def map(self, concept: str | None = None, step: int | None = None) -> LocalizationMap:
        """The map of a concept at a step, as `localize` made it there.

        Args:
            concept: its name. None takes the first.
            step: None takes the last.

        Raises:
            KeyError: if the trajectory has no such concept or step.
        """
        concept, step = self._concept(concept), self._step(step)
        rows = self.table[(self.table["concept"] == concept) & (self.table["step"] == step)]
        header = dict(self.headers[str(step)][concept])
        columns = header.pop("columns")
        return LocalizationMap(rows[columns].reset_index(drop=True), **header)

    def to_frame(self) -> pd.DataFrame:
        """A row for each step, concept and matrix."""
        return self.table[self.table["head"].isna()].drop(columns="head").reset_index(drop=True)

    def formation(self) -> pd.DataFrame:
        """When each concept was learned, and when its engram was what it is in the end.

        Returns:
            A row for each concept. `learned` is the first step from which on the target's accuracy has nine tenths of
            its rise from the first checkpoint to the highest. `settled` is the first from which on the mean cosine of
            its engrams with the last ones is 0.9, and `significant` the first at which a matrix is, in the quantity by
            which maps rank; missing where there is none.
        """
        return pd.DataFrame([{"concept": name, **self._formed(name)} for name in self.concepts]).astype(
            {"learned": "Int64", "settled": "Int64", "significant": "Int64"}
        )

    def _formed(self, concept: str) -> dict[str, Any]:
        target = self.answers[(self.answers["concept"] == concept) & (self.answers["side"] == "target")]
        accuracy = target.set_index("step")["accuracy"]
        risen = accuracy - accuracy.iloc[0] >= RISE * (accuracy.max() - accuracy.iloc[0]) if len(accuracy) else accuracy
        rises = len(accuracy) > 0 and accuracy.max() > accuracy.iloc[0]
        mine = self.to_frame()
        mine = mine[mine["concept"] == concept]
        alike = mine.groupby("step")["cosine"].mean() >= RISE
        p_value = MAP_QUANTITIES[self.map(concept).main].beside("p_value")
        stars = mine.groupby("step")[p_value].min() <= 0.05 if p_value in mine else alike & False
        return {
            "learned": _first_lasting(risen) if rises else None,
            "settled": _first_lasting(alike),
            "significant": next((step for step, star in stars.items() if star), None),
            "accuracy_first": accuracy.iloc[0] if len(accuracy) else float("nan"),
            "accuracy_last": accuracy.iloc[-1] if len(accuracy) else float("nan"),
        }

    def plot(self, quantity: str | None = None, concept: str | None = None) -> go.Figure:
        """A quantity over the steps, a panel for each component, with the band of the null; and answers.

        Lines are means over layers, and so are the ends of the band, which holds the middle 95 % of sets in each.

        Args:
            quantity: a column of the table: one of a map, or `moved`, `delta`, `cosine` or `subspace`. None takes the
                Fisher share.
            concept: None takes the first.

        Raises:
            ValueError: if there is no such quantity.
        """
        from engram_interp.figures.learning import component_lines

        name, quantity = self._concept(concept), self._quantity(quantity or "fisher")
        mine = self.to_frame()
        answers = self.answers[self.answers["concept"] == name]
        band: tuple[str, ...] = ()
        if quantity in MAP_QUANTITIES:
            ends = [MAP_QUANTITIES[quantity].beside(kind) for kind in ("null_low", "null_high")]
            band = tuple(one for one in ends if one in mine and MAP_QUANTITIES[quantity].kind == "size")
        title = f"{self._title(quantity)} of {name!r} in {self.map(name).model}, by component (means over layers)"
        return component_lines(
            mine[mine["concept"] == name], answers, quantity, band, list(self.map(name).components), title
        )

    def plot_map(self, quantity: str | None = None, concept: str | None = None) -> go.Figure:
        """A heat map for each component, layers by steps; see `plot`."""
        from engram_interp.figures.learning import step_maps

        name, quantity = self._concept(concept), self._quantity(quantity or self.map(self._concept(concept)).main)
        mine, last = self.to_frame(), self.map(name)
        title = f"{self._title(quantity)} of {name!r} in {last.model}, over the steps of training"
        return step_maps(mine[mine["concept"] == name], quantity, list(last.components), self._scale(quantity), title)

    def animate(self, quantity: str | None = None, concept: str | None = None) -> go.Figure:
        """The map as a film, a frame for each checkpoint, with a slider; see `plot`."""
        from engram_interp.figures.learning import map_film

        name = self._concept(concept)
        quantity = self._quantity(quantity or self.map(name).main)
        mine, last = self.to_frame(), self.map(name)
        title = f"{self._title(quantity)} of {name!r} in {last.model}, step by step"
        answers = self.answers[(self.answers["concept"] == name) & (self.answers["side"] == "target")]
        accuracy = dict(zip(answers["step"].tolist(), answers["accuracy"].tolist(), strict=True))
        return map_film(
            mine[mine["concept"] == name], quantity, list(last.components), self._scale(quantity), accuracy, title
        )

    def plot_answers(self) -> go.Figure:
        """Answer accuracy and loss of every concept's sides over the steps."""
        from engram_interp.figures.learning import answer_lines

        return answer_lines(self.answers, f"What {self.map().model} answers, over the steps of training")

    def save(self, path: str | Path) -> None:
        """Write a safetensors file that `Trajectory.load` reads back to the bit."""
        tensors: dict[str, Tensor] = {}
        fields: dict[str, Any] = {"headers": dict(self.headers), "failed": dict(self.failed)}
        for name in ("table", "answers", "overlaps", "steps"):
            parts, fields[name] = frame_parts(getattr(self, name), name)
            tensors |= parts
        storage.write(path, KIND, tensors, fields)

    @classmethod
    def load(cls, path: str | Path) -> Trajectory:
        """A trajectory that `save` wrote.

        Raises:
            ValueError: if the file is foreign, of another version, cut short or altered.
        """
        content = storage.read(path, KIND)
        frames = {
            name: frame_of(content, name, content.field(name, dict))
            for name in ("table", "answers", "overlaps", "steps")
        }
        return cls(**frames, headers=content.field("headers", dict), failed=content.field("failed", dict))

    def _concept(self, name: str | None) -> str:
        if name is not None and name not in self.concepts:
            raise KeyError(f"the trajectory has no concept {name!r}; it has {', '.join(self.concepts)}")
        return self.concepts[0] if name is None else name

    def _step(self, step: int | None) -> int:
        known = self.steps["step"].tolist()
        if step is not None and step not in known:
            raise KeyError(f"the trajectory has no step {step}; it has {', '.join(map(str, known))}")
        return known[-1] if step is None else step

    def _quantity(self, quantity: str) -> str:
        known = [one for one in (*MAP_QUANTITIES, *CHANGES) if one in self.table]
        if quantity not in known:
            raise ValueError(f"the trajectory has no {quantity!r}; it has {', '.join(known)}")
        if self.table[quantity].isna().all():
            raise ValueError(f"the trajectory knows no {quantity!r} at any step: changes take two checkpoints")
        return quantity

    def _title(self, quantity: str) -> str:
        return (
            CHANGES[quantity][0].upper() + CHANGES[quantity][1:] if quantity in CHANGES else self._scale(quantity).title
        )

    def _scale(self, quantity: str) -> Any:
        from engram_interp.figures.scale import Scale

        return Scale(CHANGES[quantity]) if quantity in CHANGES else map_scale(quantity)


def assembled(files: Sequence[Path], failed: Mapping[str, str]) -> Trajectory:
    """The trajectory of what was measured, from a file for each step. Two of them are in memory at a time.

    Raises:
        ValueError: if there is none.
    """
    if not files:
        reasons = "; ".join(f"{name}: {why}" for name, why in failed.items())
        raise ValueError(f"no checkpoint could be measured: {reasons or 'there is none'}")
    last = Measured.load(files[-1]).engrams
    every = [_compared(Measured.load(file), last) for file in files]
    tables = [table.assign(step=one.step, concept=name) for one in every for name, table in one.maps.items()]
    steps = pd.DataFrame([{"step": one.step, **one.facts} for one in every]).drop(columns="mark", errors="ignore")
    return Trajectory(
        _in_front(pd.concat(tables, ignore_index=True), ["step", "concept"]),
        _stacked(every, [one.answers for one in every]),
        _stacked(every, [one.overlaps for one in every]),
        steps.astype({"since": "Int64"}),
        {str(one.step): dict(one.headers) for one in every},
        dict(failed),
    )


def _compared(one: Measured, last: Mapping[str, Mapping[str, Singular]]) -> Measured:
    """A checkpoint with how much its engrams are the last ones, and without them."""
    maps = {
        name: table.assign(**_alike(table, one.engrams.get(name, {}), last.get(name, {})))
        for name, table in one.maps.items()
    }
    return replace(one, maps=maps, engrams={})


def _alike(
    table: pd.DataFrame, engrams: Mapping[str, Singular], last: Mapping[str, Singular]
) -> dict[str, Sequence[float]]:
    """How much every matrix's engram is that of the last checkpoint; heads have no number."""
    both = {key: (cosine(one, last[key]), shared(one, last[key])) for key, one in engrams.items() if key in last}
    nothing = (float("nan"), float("nan"))
    found = [
        both.get(key, nothing) if pd.isna(head) else nothing
        for key, head in zip(table["key"], table["head"], strict=True)
    ]
    return {"cosine": [one for one, _ in found], "subspace": [one for _, one in found]}


def _stacked(every: Sequence[Measured], frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Tables of single steps as one."""
    some = [frame.assign(step=one.step) for one, frame in zip(every, frames, strict=True) if len(frame)]
    found = pd.concat(some, ignore_index=True) if some else frames[0].assign(step=pd.Series(dtype="int64"))
    return _in_front(found, ["step"])


def _in_front(frame: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    return frame[[*columns, *(one for one in frame.columns if one not in columns)]]


def _first_lasting(holds: pd.Series) -> int | None:
    """The first step from which on something holds at every later one."""
    lasting = holds[::-1].cummin()[::-1]
    return next((int(step) for step, value in lasting.items() if value), None)  # pyright: ignore[reportArgumentType]
