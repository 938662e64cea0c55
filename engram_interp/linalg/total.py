"""`S = S+ + S-`: the second moment of an input over all examples, and its factorisations, each made once.

An edit and a map need `A S^pinv` only, for which the cheapest certified factorisation does. Filters, ridges, diagnoses
and overlaps need the directions themselves.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor

from engram_interp.linalg.cholesky import FEW, Cholesky, cholesky
from engram_interp.linalg.second_moment import SecondMoment
from engram_interp.linalg.solution import Solution
from engram_interp.linalg.spectrum import Spectrum, require_finite, require_rtol, spectrum, spectrum_of_rows

FEW_ROWS = 0.75
"""With more rows than this share of the width, an eigendecomposition of `S` is as fast as one among the rows."""


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
        moment: of all examples.
        ridge: what is added to the eigenvalues of the directions that `S` has.
        factors: what has been computed of it.
    """

    moment: SecondMoment
    ridge: float | int = 0.0
    factors: Factors = field(default_factory=Factors, repr=False)

    @property
    def S(self) -> Float[Tensor, "d d"]:
        """The second moment."""
        return self.moment.S

    @property
    def n_bytes(self) -> int:
        """How much memory it takes, with its factorisations."""
        return self.S.numel() * self.S.element_size() + self.factors.n_bytes

    @property
    def every(self) -> Spectrum:
        """The directions that the data have; with a ridge, those of `S + ridge I`."""
        if self.factors.every is None:
            X = self.moment.few_rows(FEW_ROWS)
            self.factors.every = (
                spectrum(self.S, 0.0, self.ridge) if X is None else spectrum_of_rows(X, 0.0, self.ridge)
            )
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
        if self.ridge or self._is_deficient:
            return self.every.above(rtol)
        require_finite(self.S)
        return cholesky(self.S, rtol) or self.every.above(rtol)

    @property
    def _is_deficient(self) -> bool:
        """Whether there are too few rows for nearly all directions to be kept."""
        return self.moment.rows is not None and len(self.moment.rows) < self.moment.width - FEW
