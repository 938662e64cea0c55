"""What is one matrix like from inside? Its spectrum, what its engram reads and writes, what its ablation changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor, nn

from engram_interp.concepts.concept import Concept
from engram_interp.engrams.engram import Engram
from engram_interp.engrams.strengths import Alpha
from engram_interp.maps.diagnosis import Diagnosis
from engram_interp.maps.reading import Shown, is_writer, one_matrix, read_by, written_by
from engram_interp.options import Run
from engram_interp.report.questions import AnswerRow, Asked, asked_again

N_POINTS = 160
"""Points that are kept of a spectrum."""
NUMBERS = ("rank", "condition", "obliqueness", "stretch", "target_passes", "reference_passes", "wnorm")
"""What is shown of a matrix's diagnosis."""


@dataclass(frozen=True)
class Direction:
    """A leading direction of an engram.

    Attributes:
        share: its share of the energy of `W+ x`.
        control: the same in random sets of as many examples, on average.
        p_value: how often a random set has as large a share.
        tokens: what it reads or writes, most of all first.
    """

    share: float
    control: float
    p_value: float
    tokens: list[str]


@dataclass(frozen=True)
class Matrix:
    """One matrix.

    Attributes:
        numbers: its diagnosis; see `Diagnosis`.
        eigenvalues: of `S`, largest first: pairs of a place, from 1, and a value.
        shares: the target's share of each direction, largest first, in such pairs.
        token_share: the share of a target that owns nothing of its own.
        reads: what its engram listens to.
        writes: what its engram writes into the residual stream.
        changed: the questions whose answers change when the engram of this matrix alone is ablated.
        n_asked: how many questions were asked.
        notes: what could not be found out, and why.
    """

    numbers: dict[str, float]
    eigenvalues: list[list[float]]
    shares: list[list[float]]
    token_share: float
    reads: list[Direction]
    writes: list[Direction]
    changed: list[AnswerRow]
    n_asked: int
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        """What JSON holds of it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Matrix:
        """What `to_dict` gave.

        Raises:
            TypeError: if these are other fields.
        """
        found = dict(fields)
        for name in ("reads", "writes"):
            found[name] = [Direction(**one) for one in found[name]]
        found["changed"] = [AnswerRow(**one) for one in found["changed"]]
        for name in ("eigenvalues", "shares"):
            found[name] = [[float(place), float(value)] for place, value in found[name]]
        found["numbers"] = {str(name): float(value) for name, value in found["numbers"].items()}
        if not isinstance(found["notes"], list) or not isinstance(found["n_asked"], int):
            raise TypeError(f"notes must be a list and n_asked a number; got {found['notes']!r}, {found['n_asked']!r}")
        return cls(**found)


def look_into(
    model: nn.Module, engram: Engram, key: str, concept: Concept, found: Diagnosis, asked: Asked, alpha: Alpha, run: Run
) -> Matrix:
    """Looks into one matrix.

    Args:
        model: the model.
        engram: its engram.
        key: which matrix.
        concept: what the engram was made from.
        found: the diagnosis.
        asked: the questions, and what the model answers before an edit.
        alpha: how strongly the engram of this matrix is ablated.
        run: how passes run.
    """
    path = next(one.path for one in engram.sites if one.key == key)
    row = next(one for one in found.to_frame().to_dict("records") if one["key"] == key)
    spectra = found.spectra[str(row["input"])]
    reads, writes, notes = _directions(model, engram, key, concept, run)
    changed = _changed(model, engram.select(keys=path), asked, alpha, run) if asked.pairs else []
    return Matrix(
        {name: float(row[name]) for name in NUMBERS},
        _points(spectra.eigenvalues),
        _points(spectra.shares),
        found.target_share,
        reads,
        writes,
        changed,
        sum(map(len, asked.pairs.values())),
        notes,
    )


def _directions(
    model: nn.Module, engram: Engram, key: str, concept: Concept, run: Run
) -> tuple[list[Direction], list[Direction], list[str]]:
    """What the engram reads and writes, and why that is not known."""
    try:
        one = one_matrix(model, engram, key, concept, run)
        reads = _listed(read_by(one, Shown()))
        return reads, _listed(written_by(one, Shown())) if is_writer(key) else [], []
    except (ValueError, TypeError) as error:  # of an expert, of a model without a tokenizer, of a plain module
        return [], [], [str(error)]


def _listed(frame: pd.DataFrame) -> list[Direction]:
    return [
        Direction(float(row["share"]), float(row["control"]), float(row["p_value"]), list(row["tokens"]))
        for row in frame.to_dict("records")
    ]


def _changed(model: nn.Module, engram: Engram, asked: Asked, alpha: Alpha, run: Run) -> list[AnswerRow]:
    with engram.ablated(model, alpha):
        return [row for row in asked_again(model, asked, run) if row.before != row.after]


def _points(ascending: Tensor) -> list[list[float]]:
    """A spectrum, largest first, at places that are evenly spaced on a logarithmic axis."""
    values: Sequence[float] = ascending.flip(0).tolist()
    places = np.unique(np.geomspace(1, len(values), N_POINTS).round().astype(int)) if values else []
    return [[float(place), float(values[place - 1])] for place in places]
