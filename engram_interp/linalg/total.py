"""`S = S+ + S-`: the second moment of an input over all examples, and its factorisations, each made once.

An edit and a map need `A S^pinv` only, for which the cheapest certified factorisation does. Filters, ridges, diagnoses
and overlaps need the directions themselves.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor

from engram_interp.linalg.cholesky import FEW, Cholesky, cholesky
from engram_interp.linalg.solution import Solution
from engram_interp.linalg.spectrum import Spectrum, require_finite, require_rtol, spectrum


@dataclass
class Factors:
    """What has been computed of a second moment. It serves whoever asks again.

    Attributes:
        every: the directions that the data have.
        solutions: how to apply `S^pinv`, by cut.
    """

    every: Spectrum | None = None
    solutions: dict[float | int | None, Solution] = field(default_factory=dict)

    @property
    def n_bytes(self) -> int:
        """How much memory this takes beyond `S`."""
        own = [self.every.U] if self.every else []
        own += [one.L for one in self.solutions.values() if isinstance(one, Cholesky)]
        return sum(one.numel() * one.element_size() for one in own)


@dataclass(frozen=True)
class Total:
    """A second moment and its factorisations.

    Attributes:
        S: symmetric and positive semi-definite.
        ridge: what is added to the eigenvalues of the directions that `S` has.
        n_rows: of how many rows `S` is the moment; None if that is not known.
        factors: what has been computed of it.
    """

    S: Float[Tensor, "d d"]
    ridge: float | int = 0.0
    n_rows: int | None = None
    factors: Factors = field(default_factory=Factors, repr=False)

    @property
    def every(self) -> Spectrum:
        """The directions that the data have; with a ridge, those of `S + ridge I`."""
        if self.factors.every is None:
            self.factors.every = spectrum(self.S, 0.0, self.ridge, self.n_rows)
        return self.factors.every

    @property
    def known(self) -> Spectrum | None:
        """The directions, if they have been computed."""
        return self.factors.every

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
        if rtol not in self.factors.solutions:
            self.factors.solutions[rtol] = self._solve(rtol)
        return self.factors.solutions[rtol]

    def _solve(self, rtol: float | int | None) -> Solution:
        require_rtol(rtol)
        require_finite(self.S)
        certified = None if self.ridge or self._is_deficient else cholesky(self.S, rtol)
        return self.every.above(rtol) if certified is None else certified

    @property
    def _is_deficient(self) -> bool:
        """Whether there are too few rows for nearly all directions to be kept."""
        return self.n_rows is not None and self.n_rows < len(self.S) - FEW
