"""`mu+ in R^n`: engrams add up, subtract and scale, matrix by matrix (paper, Eq. 8)."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor

from engram_interp.common.arguments import Number, number
from engram_interp.common.mappings import IdentityMapping
from engram_interp.engrams.editing import is_finite
from engram_interp.engrams.selection import norms_by_path, norms_by_site
from engram_interp.models import ModelInfo
from engram_interp.models.sites import Site, lens_sites

if TYPE_CHECKING:
    from typing_extensions import Self
else:
    Self = Any


@dataclass(frozen=True, eq=False)
class EngramVector(IdentityMapping[str, Tensor]):
    """The tensors of an engram by key, and their algebra. `Engram` documents the fields."""

    # NumPy's scalars leave multiplication to the engram.
    __array_ufunc__ = None

    tensors: dict[str, Float[Tensor, "..."]]
    weight_norms: dict[str, Float[Tensor, "head"]]
    info: ModelInfo
    name: str | None = None
    options: dict[str, str | float | int | bool | None] = field(default_factory=dict)
    sites: tuple[Site, ...] = ()
    made_from: Any = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not self.sites:
            object.__setattr__(self, "sites", lens_sites(self.weight_norms))
        for key, tensor in self.tensors.items():
            if not is_finite(tensor):
                raise ValueError(f"the engram of {self.name!r} is not finite in {key}: it holds nan or inf there")

    def __getitem__(self, key: str) -> Tensor:
        if key not in self.tensors:
            raise KeyError(f"the engram has no {key!r}; it has {', '.join(list(self.tensors)[:3])}, ... ({len(self)})")
        return self.tensors[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def __repr__(self) -> str:
        return f"Engram({self.name!r}, {len(self.weight_norms)} matrices of {self.info.name!r})"

    def weight_of(self, key: str) -> str:
        """The weight's key for a weight or its bias."""
        return key if key in self.weight_norms else self._weights[key]

    @property
    def unties(self) -> Collection[str]:
        """The tensors that an edit parts from others which share their memory: an unembedding from its embedding."""
        return self.tensors

    @cached_property
    def _weights(self) -> dict[str, str]:
        """The weight of every bias."""
        return {site.bias: site.path for site in self.sites if site.bias is not None}

    def __add__(self, other: Self) -> Self:
        """The sum. A matrix that only one of the two has is taken as it is.

        Raises:
            ValueError: if the two are of different models.
        """
        if not isinstance(other, EngramVector):
            return NotImplemented
        other.info.require(self.info, "the second engram")
        keys = dict.fromkeys([*self.tensors, *other.tensors])
        sites = tuple({site.key: site for site in (*self.sites, *other.sites)}.values())
        by_site = [norms_by_site(one.weight_norms, one.sites, one.tensors) for one in (self, other)]
        return replace(
            self,
            tensors={key: _sum([one.tensors[key] for one in (self, other) if key in one.tensors]) for key in keys},
            weight_norms=norms_by_path(by_site[0] | by_site[1], sites),
            name=f"({self.name} + {other.name})",
            options={key: value for key, value in self.options.items() if other.options.get(key) == value},
            sites=sites,
            made_from=None,
        )

    def __sub__(self, other: Self) -> Self:
        if not isinstance(other, EngramVector):
            return NotImplemented
        return replace(self + -1.0 * other, name=f"({self.name} - {other.name})")

    def __mul__(self, factor: Number) -> Self:
        factor = number(factor, "the factor of an engram")
        tensors = {key: factor * tensor for key, tensor in self.tensors.items()}
        return replace(self, tensors=tensors, name=f"{factor:g} * {self.name}")

    __rmul__ = __mul__

    def __truediv__(self, divisor: Number) -> Self:
        if not (by := number(divisor, "the divisor of an engram")):
            raise ValueError(f"the divisor of an engram must not be 0; got {divisor!r}")
        return self * (1 / by)

    def __neg__(self) -> Self:
        return -1.0 * self


def _sum(summands: list[Tensor]) -> Tensor:
    return summands[0] if len(summands) == 1 else summands[0] + summands[1].to(summands[0].device)
