"""`mu+`: the engram of every matrix by its key, its algebra (Eq. 8), and how it is cut out of a model or put in.

`ablate` subtracts `alpha W+`, `inject` adds it. Both give an edited copy; `ablated` and `injected` edit in place for
the length of a `with` block and then restore every parameter bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias, TypeVar, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from engram_interp import files
from engram_interp.models import Adapter, ModelInfo, adapt
from engram_interp.sites import (
    ATTENTION,
    Site,
    component_names,
    component_of,
    expert_of,
    head_norms,
    is_bias,
    layer_of,
    select_sites,
    share,
    weight_key,
)

Alpha: TypeAlias = float | int | str | Mapping[str, float | int]
"""A number for every matrix, `"w-norm"`, or numbers by key or component."""
Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True, eq=False)
class Engram(Mapping[str, Tensor]):
    """The part of each weight (and absorbed bias) that a concept owns, by TransformerLens's parameter path.

    Attributes:
        tensors: `W+` by key, in the parameter's shape.
        weight_norms: of every weight's key, the Frobenius norms of the model's own weight, `[head]`, in float64; a
            matrix without heads has one.
        info: the model that it is part of.
        name: the concept's name.
        options: how it was made.

    Example:
        >>> import engram_interp as ei
        >>> model, concept = ei.testbed.load("full"), ei.testbed.authors().concept("Petra Dorlund")
        >>> engram = ei.extract(model, concept, components=["gate"], layers=[0])
        >>> list(engram), tuple(engram["blocks.0.mlp.W_gate"].shape)
        (['blocks.0.mlp.W_gate'], (256, 272))
        >>> with engram.ablated(model, alpha=8.0):
        ...     pass  # the model without it
    """

    # NumPy's scalars leave multiplication to the engram.
    __array_ufunc__ = None

    tensors: dict[str, Float[Tensor, "..."]]
    weight_norms: dict[str, Float[Tensor, "head"]]
    info: ModelInfo
    name: str | None = None
    options: dict[str, str | float | bool | None] = field(default_factory=dict)

    def __getitem__(self, key: str) -> Tensor:
        if key not in self.tensors:
            raise KeyError(f"the engram has no {key!r}; it has {', '.join(list(self.tensors)[:3])}, ... ({len(self)})")
        return self.tensors[key]

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def __repr__(self) -> str:
        return f"Engram({self.name!r}, {len(self.weight_norms)} matrices of {self.info.name!r})"

    def __add__(self, other: Engram) -> Engram:
        """The sum; a matrix that only one of the two has is taken as it is.

        Raises:
            ValueError: engrams of different models.
        """
        other.info.require(self.info, "the second engram")
        keys = dict.fromkeys([*self.tensors, *other.tensors])
        return Engram(
            tensors={key: _sum([one.tensors[key] for one in (self, other) if key in one.tensors]) for key in keys},
            weight_norms={**self.weight_norms, **other.weight_norms},
            info=self.info,
            name=f"({self.name} + {other.name})",
            options={key: value for key, value in self.options.items() if other.options.get(key) == value},
        )

    def __sub__(self, other: Engram) -> Engram:
        return replace(self + -1.0 * other, name=f"({self.name} - {other.name})")

    def __mul__(self, factor: float | int) -> Engram:
        tensors = {key: factor * tensor for key, tensor in self.tensors.items()}
        return replace(self, tensors=tensors, name=f"{factor:g} * {self.name}")

    __rmul__ = __mul__

    def __truediv__(self, divisor: float | int) -> Engram:
        return self * (1 / divisor)

    def __neg__(self) -> Engram:
        return -1.0 * self

    def select(
        self,
        components: str | Collection[str] | None = None,
        layers: int | Collection[int] | None = None,
        heads: int | Collection[int] | None = None,
        keys: str | Collection[str] | None = None,
    ) -> Engram:
        """The part of the engram in the named components, layers, heads and matrices; biases go with their weights.

        Args:
            components: `W_Q` to `W_U` or short; all by default.
            layers: all by default; the unembedding is in none: `layers` leaves it out, unless `components` names it.
            heads: keeps these heads of attention matrices and sets the others to zero; matrices without heads go. `W_K`
                and `W_V` count key/value heads. A bias `b_O` belongs to no head and goes too.
            keys: single matrices by their paths, as `blocks.3.attn.W_Q`; all by default.

        Raises:
            ValueError: a component, layer or matrix that the engram lacks, heads of matrices that have none, no such
                head, or nothing at all in common.
        """
        named = set(self.weight_norms) if keys is None else {keys} if isinstance(keys, str) else set(keys)
        if not named or not named <= set(self.weight_norms):
            raise ValueError(f"the engram has no matrix {sorted(named - set(self.weight_norms)) or 'in an empty list'}")
        sites = [Site(component_of(key), layer_of(key), "", expert=expert_of(key)) for key in self.weight_norms]
        chosen = named & {site.key for site in select_sites(sites, components, layers)}
        if not chosen:
            raise ValueError(f"none of {sorted(named)} lies in components={components}, layers={layers}")
        kept = [key for key in self.tensors if weight_key(key) in chosen]
        tensors = {key: self.tensors[key] for key in kept}
        if heads is not None:
            tensors = _only_heads(tensors, [heads] if isinstance(heads, int) else list(heads))
        norms = {key: self.weight_norms[key] for key in tensors if not is_bias(key)}
        return replace(self, tensors=tensors, weight_norms=norms)

    def wnorm(self) -> dict[str, float]:
        """`|W+|_F / |W|_F` of every weight (never of a bias), by key. It may exceed 1: `P+` is an oblique operator."""
        return {
            key: share(head_norms(component_of(key), self.tensors[key]).norm(), norms.norm()).item()
            for key, norms in self.weight_norms.items()
        }

    def rebind(self, model: nn.Module) -> Engram:
        """The same tensors, addressed to another model of the same shapes: a graft of one model's memory onto another.

        Raises:
            ValueError: a matrix of the engram that the model lacks or has in another shape.
        """
        adapter = adapt(model)
        self._check_shapes(adapter)
        return replace(self, info=adapter.info)

    def ablate(self, model: Model, alpha: Alpha = 1.0) -> Model:
        """A copy of the model with `alpha W+` subtracted.

        Args:
            model: the model that the engram is part of, or an edited copy of it.
            alpha: a number for all matrices; `"w-norm"`, each matrix's W-Norm over the largest (paper, Section 7); or
                numbers by key or component, a key before its component, where unnamed matrices stay as they are.

        Raises:
            ValueError: an engram of another model or of other shapes, or a name in `alpha` that it does not have.
        """
        self._check(adapt(model))
        alphas = self.alphas(alpha)
        edited = cast(Model, adapt(model).copy())
        adapter = adapt(edited)
        adapter.untie(self.tensors)
        self._write(adapter, {key: adapter.parameter(key) for key in self.tensors}, alphas)
        return edited

    def inject(self, model: Model, alpha: Alpha = 1.0) -> Model:
        """A copy of the model with `alpha W+` added; otherwise as `ablate`."""
        return (-self).ablate(model, alpha)

    @contextmanager
    def ablated(self, model: Model, alpha: Alpha = 1.0) -> Iterator[Model]:
        """The model itself without the engram, until the block ends; see `ablate`."""
        with self.editing(model) as ablate:
            ablate(alpha)
            yield model

    @contextmanager
    def injected(self, model: Model, alpha: Alpha = 1.0) -> Iterator[Model]:
        """The model itself with the engram added, until the block ends; see `inject`."""
        with (-self).ablated(model, alpha):
            yield model

    @contextmanager
    def editing(self, model: nn.Module) -> Iterator[Callable[[Alpha], None]]:
        """A function that sets how strongly the engram is ablated, as often as one likes, from the original each time.

        Example:
            >>> import engram_interp as ei
            >>> model, concept = ei.testbed.load("full"), ei.testbed.authors().concept("Petra Dorlund")
            >>> engram = ei.extract(model, concept, components=["gate"], layers=[0])
            >>> with engram.editing(model) as ablate:
            ...     for alpha in (1.0, 2.0, 4.0):
            ...         ablate(alpha)  # and look at the model
        """
        adapter = adapt(model)
        self._check(adapter)
        originals = {key: adapter.parameter(key).detach().clone() for key in self.tensors}
        tie_again = adapter.untie(self.tensors)
        try:
            yield lambda alpha: self._write(adapter, originals, self.alphas(alpha))
        finally:
            with torch.no_grad():
                for key, original in originals.items():
                    adapter.parameter(key).copy_(original)
            tie_again()

    def save(self, path: str | Path) -> None:
        """Write a safetensors file that `Engram.load` reads back."""
        norms = {f"weight_norms/{key}": value for key, value in self.weight_norms.items()}
        tensors = {f"tensors/{key}": tensor for key, tensor in self.tensors.items()}
        fields = {"model": self.info.to_dict(), "keys": list(self.tensors), "name": self.name, "options": self.options}
        files.write(path, "engram", tensors | norms, fields)

    @classmethod
    def load(cls, path: str | Path) -> Engram:
        """An engram that `save` wrote.

        Raises:
            ValueError: a foreign file, one of another version, cut short or altered.
        """
        tensors, fields = files.read(path, "engram")
        return cls(
            tensors={key: tensors[f"tensors/{key}"] for key in fields["keys"]},
            weight_norms={key: tensors[f"weight_norms/{key}"] for key in fields["keys"] if not is_bias(key)},
            info=ModelInfo(**fields["model"]),
            name=fields["name"],
            options=fields["options"],
        )

    def alphas(self, alpha: Alpha) -> dict[str, float]:
        """The strength of every weight's edit; a bias takes its weight's.

        Raises:
            ValueError: a name that the engram does not have, or another word than "w-norm".
        """
        if isinstance(alpha, Mapping):
            return self._named_alphas(alpha)
        if isinstance(alpha, str):
            if alpha != "w-norm":
                raise ValueError(f'alpha is a number, "w-norm" or numbers by key or component; got {alpha!r}')
            wnorms = self.wnorm()
            if not any(wnorms.values()):
                raise ValueError('alpha="w-norm" is each W-Norm over the largest, and this engram is zero throughout')
            return {key: wnorm / max(wnorms.values()) for key, wnorm in wnorms.items()}
        if not isinstance(alpha, (int, float)):
            raise TypeError(f'alpha is a number, "w-norm" or numbers by key or component; got {type(alpha).__name__}')
        return dict.fromkeys(self.weight_norms, _finite(alpha))

    def _named_alphas(self, alpha: Mapping[str, float | int]) -> dict[str, float]:
        named = [(component_names(name)[0], value) for name, value in alpha.items() if "." not in name]
        components = dict(named)
        if len(components) < len(named):
            raise ValueError(f"alpha names a component twice, by its long and its short form: {list(alpha)}")
        present = {component_of(key) for key in self.weight_norms}
        unknown = [name for name in alpha if "." in name and name not in self.weight_norms]
        if unknown := unknown + [name for name in components if name not in present]:
            raise ValueError(f"alpha names {', '.join(unknown)}, which the engram does not have")
        return {key: _finite(alpha.get(key, components.get(component_of(key), 0.0))) for key in self.weight_norms}

    def _check(self, adapter: Adapter) -> None:
        if adapter.info.processing == self.info.processing:
            self._check_shapes(adapter)
        self.info.require(adapter.info, "the engram")

    def _check_shapes(self, adapter: Adapter) -> None:
        for key, tensor in self.tensors.items():
            shape = adapter.parameter(key).shape
            if shape != tensor.shape:
                raise ValueError(
                    f"the engram of {self.info.name!r} does not fit {adapter.info.name!r}: {key} is "
                    f"{list(tensor.shape)} in the engram, {list(shape)} in the model"
                )

    @torch.no_grad()
    def _write(self, adapter: Adapter, originals: Mapping[str, Tensor], alphas: Mapping[str, float]) -> None:
        """Write `original - alpha W+`, rounded to the parameter's dtype once."""
        for key, tensor in self.tensors.items():
            parameter = adapter.parameter(key)
            step = alphas[weight_key(key)] * tensor.to(parameter.device)
            parameter.copy_((originals[key].to(step.dtype) - step).to(parameter.dtype))


def _finite(alpha: float | int) -> float:
    if not math.isfinite(alpha):
        raise ValueError(f"alpha is a finite number, got {alpha}")
    return float(alpha)


def _sum(summands: list[Tensor]) -> Tensor:
    return summands[0] if len(summands) == 1 else summands[0] + summands[1].to(summands[0].device)


def _only_heads(tensors: dict[str, Tensor], heads: list[int]) -> dict[str, Tensor]:
    """Attention matrices (and biases that belong to heads) with all other heads set to zero."""
    kept = {}
    for key, tensor in tensors.items():
        if component_of(key) not in ATTENTION or key.endswith(".b_O"):
            continue
        if not heads or not all(0 <= head < len(tensor) for head in heads):
            grouped = " (key/value heads: name the components)" if component_of(key) in ("W_K", "W_V") else ""
            raise ValueError(f"{key} has heads 0 to {len(tensor) - 1}{grouped}, got {heads}")
        kept[key] = torch.zeros_like(tensor)
        kept[key][heads] = tensor[heads]
    if not kept:
        raise ValueError(f"only attention matrices have heads, and none is in {list(tensors)}")
    return kept
