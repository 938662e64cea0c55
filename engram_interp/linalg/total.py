"""`S = S+ + S-`: the second moment of an input over all examples, and its factorisations, each made once.

An edit and a map need `A S^pinv` only, for which the cheapest certified factorisation does. Filters, ridges, diagnoses
and overlaps need the directions themselves.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from jaxtyping import Float
from torch import Tensor

from engram_interp.linalg.cholesky import cholesky
from engram_interp.linalg.solution import Solution
from engram_interp.linalg.spectrum import Spectrum, require_finite, require_rtol, spectrum


@dataclass(frozen=True)
class Total:
    """A second moment and its factorisations.

    Attributes:
        S: symmetric and positive semi-definite.
        ridge: what is added to the eigenvalues of the directions that `S` has.
    """

    S: Float[Tensor, "d d"]
    ridge: float | int = 0.0
    _solutions: dict[float | int | None, Solution] = field(default_factory=dict, repr=False)

    @cached_property
    def every(self) -> Spectrum:
        """The directions that the data have; with a ridge, those of `S + ridge I`."""
        return spectrum(self.S, 0.0, self.ridge)

    @property
    def known(self) -> Spectrum | None:
        """The directions, if they have been computed."""
        return self.__dict__.get("every")

    def cut(self, rtol: float | int | None, outliers: float | int) -> float | int | None:
        """The cut relative to the largest eigenvalue, where outliers do not set it."""
        return self.every.without_outliers(rtol, outliers) if outliers else rtol

    def kept(self, rtol: float | int | None, outliers: float | int) -> Spectrum:
        """The directions above the cut."""
        return self.every.above(self.cut(rtol, outliers))

    def solution(self, rtol: float | int | None) -> Solution:
        """How to apply `S^pinv` at a cut. It is the same whatever was asked before.

        Raises:
            ValueError: if `rtol` is outside [0, 1), or `S` is not finite.
        """
        if rtol not in self._solutions:
            self._solutions[rtol] = self._solve(rtol)
        return self._solutions[rtol]

    def _solve(self, rtol: float | int | None) -> Solution:
        require_rtol(rtol)
        require_finite(self.S)
        certified = None if self.ridge else cholesky(self.S, rtol)
        return self.every.above(rtol) if certified is None else certified
