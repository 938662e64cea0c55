"""`W+ = W g(P+)`: how much is taken of a direction whose share `x` the target owns? In the paper, `g(x) = x`.

The paper takes from each direction the share that the target owns. A steeper filter takes more of what the target has
to itself, and less of what it has in common with the reference. See `engram_interp.linalg.ownership` for the shares.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from jaxtyping import Float
from torch import Tensor

from engram_interp.common.arguments import Number, number

SMALLEST_SHARE = 2.0**-26
"""The least share that is told from rounding: the square root of float64's precision."""

Function: TypeAlias = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Filter:
    """A named `g`. It maps shares in [0, 1], `[k]` in float64, to numbers of the same shape.

    Attributes:
        kind: `soft`, `power`, `hard`, `clip` or `over`.
        parameter: its parameter. `soft` has none and ignores it.
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
    """`g(x) = x^p`: steeper than the paper's if `p > 1`. `power(2)` gives `P+ P+`.

    Raises:
        ValueError: if `p` is not above 0.

    Example:
        >>> import torch
        >>> power(2)(torch.tensor([0.5, 1.0])).tolist()
        [0.25, 1.0]
    """
    if not (p := number(p, "p")) > 0:
        raise ValueError(f"p must be above 0; got {p}")
    return Filter("power", p)


def hard(tau: Number) -> Filter:
    """`g(x) = 1` if `x > tau`, else 0: takes each direction whole or not at all. The result is a projector.

    Raises:
        ValueError: if `tau` is outside [2^-26, 1). Smaller shares are rounding.

    Example:
        >>> import torch
        >>> hard(0.2)(torch.tensor([0.1, 0.3])).tolist()
        [0.0, 1.0]
    """
    if not SMALLEST_SHARE <= (tau := number(tau, "tau")) < 1:
        raise ValueError(f"tau must be in [2^-26, 1); got {tau}")
    return Filter("hard", tau)


def clip(gain: Number) -> Filter:
    """`g(x) = min(gain x, 1)`: amplifies shares, but never takes more of a direction than there is.

    Raises:
        ValueError: if `gain` is not above 0.

    Example:
        >>> import torch
        >>> clip(4)(torch.tensor([0.125, 0.5])).tolist()
        [0.5, 1.0]
    """
    if not (gain := number(gain, "gain")) > 0:
        raise ValueError(f"gain must be above 0; got {gain}")
    return Filter("clip", gain)


def over(share: Number) -> Filter:
    """`g(x) = max(x - share, 0)`: takes only what exceeds the share of a target that has no directions of its own.

    Args:
        share: the share that such a target owns of every direction: `n/N` of the tokens, `Statistics.token_share()`.

    Raises:
        ValueError: if `share` is outside [0, 1).

    Example:
        >>> import torch
        >>> over(0.25)(torch.tensor([0.125, 0.75])).tolist()
        [0.0, 0.5]
    """
    if not 0 <= (share := number(share, "share")) < 1:
        raise ValueError(f"share must be in [0, 1); got {share}")
    return Filter("over", share)


def named(name: str) -> Filter:
    """The filter that prints itself as `name`: `soft`, `power(2)`, `hard(0.2)`, `clip(4)`, `over(0.005)`.

    Raises:
        ValueError: if there is no such filter, or if its parameter is out of range.

    Example:
        >>> import torch
        >>> named("power(2)")(torch.tensor([0.5])).item()
        0.25
    """
    if name == repr(soft):
        return soft
    if not (found := re.fullmatch(r"(power|hard|clip|over)\(([-+]?[.\d]+(?:e[-+]?\d+)?)\)", name)):
        raise ValueError(f"a filter must be soft, or power(p), hard(tau), clip(gain), over(share); got {name!r}")
    return {"power": power, "hard": hard, "clip": clip, "over": over}[found[1]](float(found[2]))


def _shown(parameter: float) -> str:
    """A number as text that reads back as the same number."""
    return repr(parameter).removesuffix(".0")


def require_filter(g: object) -> None:
    """Checks that `g` can be called.

    Raises:
        TypeError: if it cannot.
    """
    if callable(g):
        return
    hint = f"; a name becomes a filter by filters.named({g!r})" if isinstance(g, str) else ""
    raise TypeError(f"filter must be filters.soft, filters.power(2) and so on, or a function; got {g!r}{hint}")


def filter_name(g: Function) -> str:
    """The name under which an engram's options record a filter."""
    return repr(g) if isinstance(g, Filter) else getattr(g, "__name__", type(g).__name__)


def values_of(g: Function, x: Float[Tensor, "k"]) -> Float[Tensor, "k"]:
    """`g(x)`, checked. `x` does not change, even if `g` writes into its argument.

    Raises:
        ValueError: if `g` returns anything but one finite number for each share.
    """
    values = g(x.clone())
    asked = f"the filter {filter_name(g)} must return a finite number for each of {len(x)} shares; it returned"
    if not isinstance(values, Tensor):
        raise ValueError(f"{asked} a {type(values).__name__}")
    if values.shape != x.shape:
        raise ValueError(f"{asked} a tensor of shape {list(values.shape)}")
    if not (finite := values.isfinite()).all():
        raise ValueError(f"{asked} {values[~finite][0].item()} for a share of {x[~finite][0].item():.3g}")
    return values.to(x)
