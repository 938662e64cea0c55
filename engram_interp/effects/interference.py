"""What does ablating one concept cost another? The answers of each, with every other ablated (paper, App. C.4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from engram_interp.answers.scoring import score_encoded, spoken
from engram_interp.common.progress import bar
from engram_interp.engrams.strengths import Alpha
from engram_interp.linalg.filters import Function
from engram_interp.maps.decomposition import Decomposition
from engram_interp.maps.overlap import Interference
from engram_interp.models import adapt
from engram_interp.options import Run, takes


@takes(Run)
def interference(
    parts: Decomposition,
    concepts: Mapping[str, Sequence[Any]],
    *,
    alpha: Alpha = 1.0,
    filter: Function | None = None,
    eos: bool = True,
    run: Run,
) -> Interference:
    """What ablating each concept takes from every other, in the model's answers.

    Args:
        parts: the decomposition.
        concepts: the examples of each concept to ablate and to score, by the decomposition's names; labelled ones of a
            plain module.
        alpha: how strongly each is ablated; see `Engram.ablate`.
        filter: how much of a direction is taken; None is the decomposition's own.
        eos: whether the end-of-sequence token follows every answer and is scored.

    Raises:
        ValueError: if the decomposition lacks a name.
    """
    chosen = parts.chosen(list(concepts))
    adapter = adapt(parts.model)
    encoded = adapter.encode({name: concepts[name] for name in chosen}, spoken(eos))

    def scores() -> pd.DataFrame:
        found = score_encoded(adapter, encoded, replace(run, progress=False))
        return pd.DataFrame({name: {"accuracy": one.accuracy, "loss": one.loss} for name, one in found.items()})

    before, lost = scores(), {}
    for name in bar(chosen, run.progress, "ablating", "concept"):
        with parts.engram(name, filter).ablated(parts.model, alpha):
            lost[name] = before - scores()
    return Interference(
        accuracy=pd.DataFrame({name: frame.loc["accuracy"] for name, frame in lost.items()}).T,
        loss=pd.DataFrame({name: -frame.loc["loss"] for name, frame in lost.items()}).T,
        alpha=alpha,
    )
