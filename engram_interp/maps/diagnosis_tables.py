"""The rows of a diagnosis: what `P` does, for every input, cut and matrix."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import pandas as pd
from jaxtyping import Float
from torch import Tensor

from engram_interp.engrams.parts import InputData, Part
from engram_interp.linalg.norms import output_norm, share
from engram_interp.linalg.projectors import at_cuts, condition, norms_at_cuts, properties, stretch
from engram_interp.linalg.spectrum import default_rtol


@dataclass(frozen=True)
class InputSpectra:
    """Two spectra of one input.

    Attributes:
        eigenvalues: `[r]`, of `S` (of `S + ridge I` with a ridge), ascending.
        rank: how many of them are kept.
        shares: `[rank]`, the eigenvalues of `M`, ascending, in [0, 1]: the target's share of a direction.
    """

    eigenvalues: Float[Tensor, "r"]
    rank: int
    shares: Float[Tensor, "rank"]


ASIDE = 0.01
"""The share of leading directions that a diagnosis sets aside, to show what they hide."""


class Tables:
    """Collects the rows of a diagnosis, as inputs and matrices come.

    Args:
        rtols: the cuts to compare.
    """

    def __init__(self, rtols: Collection[float | int]) -> None:
        self._rtols = rtols
        self._inputs: dict[str, dict[str, float | str]] = {}
        self._matrices: dict[str, dict[str, object]] = {}
        self._cuts: dict[str, list[dict[str, float | int]]] = {}
        self._curves: list[dict[str, object]] = []
        self._bent: dict[float, InputData] = {}
        self.spectra: dict[str, InputSpectra] = {}

    def add_input(self, name: str, data: InputData) -> None:
        """Add an input."""
        d, lam = data.width, data.total.every.lam
        rtol = float(default_rtol(d) if data.cut is None else data.cut)
        rtols = sorted({rtol, *map(float, self._rtols)})
        # An input's projectors at the cuts serve all its matrices, which come before the next input.
        self._bent = {} if data.is_paper else {one: _at(data, one) for one in rtols}
        at = [_row(one, found, data) for one, found in self._bent.items()]
        at = at or at_cuts(data.S_plus, data.total.every, rtols)
        (here,) = (row for row in at if row["rtol"] == rtol)
        self._cuts[name] = at
        self._inputs[name] = {
            "input": name,
            "d": d,
            "cut": rtol * lam[-1].item() if len(lam) else 0.0,
            **here,
            "largest_share": data.owned.share[-1].item() if here["rank"] else 0.0,
            "stretch": stretch(data.P_plus),
            "leading": (lam[-1] / lam[-2]).item() if len(lam) > 1 else 1.0,
            "rank_set_aside": _rank_set_aside(data),
        }
        self.spectra[name] = InputSpectra(lam.cpu(), int(here["rank"]), data.owned.share.cpu())

    def add_matrix(self, part: Part) -> None:
        """Add a matrix whose input has been added."""
        site, data = part.site, part.data
        at = self._cuts[site.input]
        whole = part.weight(part.W).norm()
        for row, norm in zip(at, self._norms_at_cuts(part, at), strict=True):
            wnorm = share(whole.new_tensor(norm), whole).item()
            self._curves.append({"key": site.key, "rtol": row["rtol"], "rank": row["rank"], "wnorm": wnorm})
        self._matrices[site.key] = {
            "key": site.key,
            "component": site.component,
            "layer": site.layer,
            "expert": site.expert,
            "wnorm": share(part.weight(part.W_plus).norm(), whole).item(),
            "output_target": _carried(part, data.S_plus),
            "output_reference": _carried(part, data.S - data.S_plus),
            **self._inputs[site.input],
        }

    def _norms_at_cuts(self, part: Part, rows: Sequence[dict[str, float | int]]) -> list[float]:
        """`|W P|_F` at each cut, without the bias."""
        data = part.data
        if self._bent:
            return [part.weight(part.dW @ at.P_plus).norm().item() for at in self._bent.values()]
        return norms_at_cuts(part.dW, data.S_plus, data.total.every, [int(row["rank"]) for row in rows], data.absorbed)

    @property
    def inputs(self) -> pd.DataFrame:
        """A row for each input."""
        return pd.DataFrame(list(self._inputs.values()))

    @property
    def cuts(self) -> pd.DataFrame:
        """A row for each input and cut."""
        return pd.DataFrame([{"input": name, **row} for name, rows in self._cuts.items() for row in rows])

    def matrices(self, order: Sequence[str]) -> pd.DataFrame:
        """A row for each matrix, in this order of keys."""
        return pd.DataFrame([self._matrices[key] for key in order]).astype({"layer": "Int64", "expert": "Int64"})

    @property
    def wnorms(self) -> pd.DataFrame:
        """A row for each matrix and cut."""
        return pd.DataFrame(self._curves)


def _carried(part: Part, S: Float[Tensor, "d d"]) -> float:
    """`|W+ X|^2 / |W X|^2`."""
    return share(output_norm(part.W_plus, S), output_norm(part.W, S)).square().item()


def _row(rtol: float, at: InputData, data: InputData) -> dict[str, float | int]:
    """`properties` of `P` at a cut, with its rank and condition."""
    lam = at.kept.lam
    found = properties(at.P_plus, data.S_plus, data.S - data.S_plus)
    return {"rtol": float(rtol), "rank": len(lam), "condition": condition(lam), **found}


def _rank_set_aside(data: InputData) -> int:
    """How many directions are kept if the leading 1 % of them do not set the cut."""
    every = data.total.every
    return every.above(every.without_outliers(data.solve.cut, ASIDE)).rank


def _at(data: InputData, rtol: float) -> InputData:
    """An input at another cut."""
    return replace(data, solve=replace(data.solve, rtol=rtol, outliers=0.0))
