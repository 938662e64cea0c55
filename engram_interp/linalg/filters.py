"""`W+ = W g(P+)`: how much is taken of a direction of which the target owns a share `x`; in the paper `g(x) = x`.

On the kept directions `P+ = S+ S^pinv` is similar to the symmetric `M = S^-1/2 S+ S^-1/2`, so that `g(P+)` is
`S^1/2 g(M) S^-1/2`. The eigenvalues of `M`, in [0, 1], are the shares of a direction's second moment that the target
owns. The paper takes of each direction the share that is owned; a filter that is steeper takes more of what the target
has to itself, and less of what it has in common with the reference.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from engram_interp.common.arguments import Number, number
from engram_interp.linalg.spectrum import Spectrum

SMALLEST_SHARE = 2.0**-26
"""Where the slope of a filter at 0 is taken: the square root of float64's rounding."""

Function: TypeAlias = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Filter:
    """A named `g`, which takes shares in [0, 1], `[k]` in float64, to as many numbers.

    Attributes:
        kind: `soft`, `power`, `hard`, `clip` or `over`.
        parameter: its parameter; of no meaning for `soft`.
    """

    kind: str
    parameter: float = 0.0

    def __call__(self, x: Float[Tensor, "k"]) -> Float[Tensor, "k"]:
        """`g(x)`."""
        return _G[self.kind](x, self.parameter)

    def __repr__(self) -> str:
        return self.kind if self.kind == "soft" else f"{self.kind}({_shown(self.parameter)})"


_G: dict[str, Callable[[Tensor, float], Tensor]] = {
    "soft": lambda x, _: x,
    "power": lambda x, p: x**p,
    "hard": lambda x, tau: (x > tau).to(x),
    "clip": lambda x, gain: (gain * x).clamp(max=1),
    "over": lambda x, share: (x - share).clamp(min=0),
}

soft = Filter("soft")
"""`g(x) = x`: the paper's estimator."""


def power(p: Number) -> Filter:
    """`g(x) = x^p`: steeper than the paper's for `p > 1`; `power(2)` is `P+ P+`.

    Raises:
        ValueError: a `p` that is not above 0.

    Example:
        >>> power(2)(torch.tensor([0.5, 1.0])).tolist()
        [0.25, 1.0]
    """
    if not (p := number(p, "p")) > 0:
        raise ValueError(f"p is a finite exponent above 0, got {p}")
    return Filter("power", p)


def hard(tau: Number) -> Filter:
    """`g(x) = 1` above `tau`, else 0: all of a direction or nothing, a projector.

    Raises:
        ValueError: a `tau` outside [2^-26, 1); shares below that are rounding.

    Example:
        >>> hard(0.2)(torch.tensor([0.1, 0.3])).tolist()
        [0.0, 1.0]
    """
    if not SMALLEST_SHARE <= (tau := number(tau, "tau")) < 1:
        raise ValueError(f"tau is the least share of a direction that is taken, 2^-26 <= tau < 1; got {tau}")
    return Filter("hard", tau)


def clip(gain: Number) -> Filter:
    """`g(x) = min(gain x, 1)`: amplified, but never more taken of a direction than there is.

    Raises:
        ValueError: a `gain` that is not above 0.

    Example:
        >>> clip(4)(torch.tensor([0.125, 0.5])).tolist()
        [0.5, 1.0]
    """
    if not (gain := number(gain, "gain")) > 0:
        raise ValueError(f"gain is a finite factor above 0, got {gain}")
    return Filter("clip", gain)


def over(share: Number) -> Filter:
    """`g(x) = max(x - share, 0)`: what is owned beyond what a target with nothing of its own owns of every direction.

    Args:
        share: that target's share, `n/N` of the tokens: `Statistics.token_share()`.

    Raises:
        ValueError: a share outside [0, 1).

    Example:
        >>> over(0.25)(torch.tensor([0.125, 0.75])).tolist()
        [0.0, 0.5]
    """
    if not 0 <= (share := number(share, "share")) < 1:
        raise ValueError(f"share is n/N, the target's share of the tokens, 0 <= share < 1; got {share}")
    return Filter("over", share)


def named(name: str) -> Filter:
    """The filter of a name, as it prints itself: `soft`, `power(2)`, `hard(0.2)`, `clip(4)`, `over(0.005)`.

    Raises:
        ValueError: no such filter, or a parameter out of its range.

    Example:
        >>> named("power(2)")(torch.tensor([0.5])).item()
        0.25
    """
    if name == repr(soft):
        return soft
    if not (found := re.fullmatch(r"(power|hard|clip|over)\(([-+]?[.\d]+(?:e[-+]?\d+)?)\)", name)):
        raise ValueError(
            f"a filter is soft, power(p), hard(tau), clip(gain) or over(share), with a number; got {name!r}"
        )
    return {"power": power, "hard": hard, "clip": clip, "over": over}[found[1]](float(found[2]))


def _shown(parameter: float) -> str:
    """A number that reads back as itself."""
    return repr(parameter).removesuffix(".0")


def require_filter(g: object) -> None:
    """Raise where something else stands in a filter's place.

    Raises:
        TypeError: says what was given.
    """
    if not callable(g):
        raise TypeError(
            f"a filter is filters.soft, filters.power(2) and so on, or a function; got {g!r}"
            + (f": filters.named({g!r})" if isinstance(g, str) else "")
        )


def filter_name(g: Function) -> str:
    """How an engram's options call a filter."""
    return repr(g) if isinstance(g, Filter) else getattr(g, "__name__", type(g).__name__)


@dataclass(frozen=True)
class Ownership:
    """Which share of every direction the target owns: the spectrum of `M = S^-1/2 S+ S^-1/2` on the kept directions.

    Attributes:
        kept: the kept directions of `S`.
        S_plus: second moment of the target.
        share: `[k]`, the eigenvalues of `M`, ascending, in [0, 1].
        V: `[k k]`, its eigenvectors, in the coordinates of `kept.U`.
    """

    kept: Spectrum
    S_plus: Float[Tensor, "d d"]
    share: Float[Tensor, "k"]
    V: Float[Tensor, "k k"]

    def projector(self, g: Function) -> Float[Tensor, "d d"]:
        """`g(P+)` in float64; `P+` itself for `g(x) = x`, `Pi` for `g(x) = 1`, `P-` for `g(x) = 1 - x`.

        `P+` also takes kept directions to dropped ones, where the target has the two in common. What it takes there
        goes by `(g(x) - g(0)) / x`, as it does in every power of `P+`.

        Args:
            g: from shares, `[k]`, to as many numbers.

        Raises:
            ValueError: a `g` that gives something else.
        """
        at, zero = self.share.clamp(min=SMALLEST_SHARE), torch.zeros_like(self.share)
        slope = (values_of(g, at) - values_of(g, zero)) / at
        from_kept = self.V.T / self.kept.lam.sqrt() @ self.kept.U.T
        to_kept = self.kept.U * self.kept.lam.sqrt() @ self.V
        reached = self.S_plus.to(from_kept) @ from_kept.T
        to_dropped = reached - self.kept.U @ (self.kept.U.T @ reached)
        return (to_kept * values_of(g, self.share) + to_dropped * slope) @ from_kept


def ownership(S_plus: Float[Tensor, "d d"], kept: Spectrum) -> Ownership:
    """The spectrum of `M = S^-1/2 S+ S^-1/2`, by an eigendecomposition in float64.

    Args:
        S_plus: second moment of the target.
        kept: the kept directions of `S = S+ + S-`.

    Example:
        >>> from engram_interp.linalg.spectrum import spectrum
        >>> S_plus, S_minus = torch.diag(torch.tensor([3.0, 0.0])), torch.diag(torch.tensor([1.0, 2.0]))
        >>> ownership(S_plus, spectrum(S_plus + S_minus)).share.tolist()
        [0.0, 0.75]
    """
    whitened = kept.U / kept.lam.sqrt()
    M = whitened.T @ S_plus.to(whitened) @ whitened
    share, V = torch.linalg.eigh((M + M.T) / 2)
    # What rounding makes of nothing is no share: a filter that is steep at 0 would make much of it.
    rounding = len(share) * torch.finfo(torch.float64).eps * (kept.lam[-1:] / kept.lam[:1]).sum()
    return Ownership(kept, S_plus, share.where(share > rounding, 0.0).clamp(max=1), V)


def values_of(g: Function, x: Float[Tensor, "k"]) -> Float[Tensor, "k"]:
    """`g(x)`, checked; `x` stays as it is.

    Raises:
        ValueError: a `g` that gives something else than a finite number a share.
    """
    values = g(x.clone())
    asked = f"the filter {filter_name(g)} takes {len(x)} shares in [0, 1] to as many finite numbers; it gave"
    if not isinstance(values, Tensor) or values.shape != x.shape:
        raise ValueError(f"{asked} {list(values.shape) if isinstance(values, Tensor) else type(values).__name__}")
    if not values.isfinite().all():
        raise ValueError(f"{asked} {values[~values.isfinite()][0].item()} for {x[~values.isfinite()][0].item():.3g}")
    return values.to(x)
