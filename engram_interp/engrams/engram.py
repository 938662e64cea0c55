"""`mu+`: the engram of every matrix by its key, its algebra (Eq. 8), and how it is cut out of a model or put in.

`ablate` subtracts `alpha W+`, `inject` adds it. Both give an edited copy; `ablated` and `injected` edit in place for
the length of a `with` block and then restore every parameter bit for bit.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import NoneType
from typing import TypeAlias, TypeVar, cast
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn

from engram_interp.common import storage
from engram_interp.common.arguments import Layers, Number, indices, number, read_once
from engram_interp.models import Adapter, ModelInfo, adapt
from engram_interp.models.exclusive import edited, held, ordinary_numbers
from engram_interp.models.sites import (
    ATTENTION,
    Site,
    component_names,
    component_of,
    expert_of,
    head_norms,
    is_bias,
    is_key,
    layer_of,
    select_sites,
    share,
    weight_key,
)

Alpha: TypeAlias = Number | str | Mapping[str, Number]
"""A number for every matrix, `"w-norm"`, or numbers by key or component."""
Model = TypeVar("Model", bound=nn.Module)

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)

logger = logging.getLogger("engram_interp")


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
    options: dict[str, str | float | int | bool | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for key, tensor in self.tensors.items():
            if not _is_finite(tensor):
                raise ValueError(f"the engram of {self.name!r} is not finite in {key}: it holds nan or inf there")

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
        if not isinstance(other, Engram):
            return NotImplemented
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
        if not isinstance(other, Engram):
            return NotImplemented
        return replace(self + -1.0 * other, name=f"({self.name} - {other.name})")

    def __mul__(self, factor: Number) -> Engram:
        factor = number(factor, "the factor of an engram")
        tensors = {key: factor * tensor for key, tensor in self.tensors.items()}
        return replace(self, tensors=tensors, name=f"{factor:g} * {self.name}")

    __rmul__ = __mul__

    def __truediv__(self, divisor: Number) -> Engram:
        if not (by := number(divisor, "the divisor of an engram")):
            raise ValueError(f"an engram is divided by a number other than {divisor!r}")
        return self * (1 / by)

    def __neg__(self) -> Engram:
        return -1.0 * self

    def select(
        self,
        components: str | Iterable[str] | None = None,
        layers: Layers = None,
        heads: Layers = None,
        keys: str | Iterable[str] | None = None,
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
        components, keys = read_once(components), read_once(keys)
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
            tensors = _only_heads(tensors, list(indices(heads, "heads") or ()))
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
            ValueError: an engram of another model or of other shapes; a name in `alpha` that it does not have; an edit
                after which a weight would not be finite, or of a weight that another one shares.
        """
        with ordinary_numbers():
            with held(model):
                self._check(adapt(model))
                alphas = self.alphas(alpha)
                twin = cast(Model, adapt(model).copy())
            adapter = adapt(twin)
            adapter.untie(self.tensors)
            self._write(adapter, {key: adapter.parameter(key) for key in self.tensors}, alphas)
        return twin

    def inject(self, model: Model, alpha: Alpha = 1.0) -> Model:
        """A copy of the model with `alpha W+` added; otherwise as `ablate`."""
        return (-self).ablate(model, alpha)

    @contextmanager
    def ablated(self, model: Model, alpha: Alpha = 1.0) -> Iterator[Model]:
        """The model itself without the engram, until the block ends; see `ablate`.

        What else changes these weights inside of the block, as a step of an optimizer, is lost, which a warning says.

        Raises:
            RuntimeError: another thread has the model edited; or, when the block ends, a weight that cannot be set back
                because it was replaced by one of another shape. All others are set back before.
        """
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
        with edited(model):
            adapter = adapt(model)
            self._check(adapter)
            edit = Edit(self, adapter)
            _edits.setdefault(model, []).append(edit)
            try:
                yield edit.set
            finally:
                edit.undo(_edits[model])

    def save(self, path: str | Path) -> None:
        """Write a safetensors file that `Engram.load` reads back."""
        norms = {f"weight_norms/{key}": value for key, value in self.weight_norms.items()}
        tensors = {f"tensors/{key}": tensor for key, tensor in self.tensors.items()}
        fields = {"model": self.info.to_dict(), "keys": list(self.tensors), "name": self.name, "options": self.options}
        storage.write(path, "engram", tensors | norms, fields)

    @classmethod
    def load(cls, path: str | Path) -> Engram:
        """An engram that `save` wrote.

        Raises:
            ValueError: a foreign file, one of another version, cut short or altered, or tensors that are no engram.
        """
        content = storage.read(path, "engram")
        keys = content.strings("keys")
        options = content.field("options", dict)
        if wrong := [name for name, value in options.items() if not isinstance(value, (str, float, int, NoneType))]:
            raise content.error(f"its option {wrong[0]!r} is {options[wrong[0]]!r}")
        if homeless := [key for key in keys if weight_key(key) not in keys]:
            raise content.error(f"it has the bias {homeless[0]!r} without its weight")
        for key in keys:
            _check_key(key, content)
        return cls(
            tensors={key: content.tensor(f"tensors/{key}") for key in keys},
            weight_norms={key: _weight_norms(key, content) for key in keys if not is_bias(key)},
            info=content.model(),
            name=content.name(),
            options=options,
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
        return dict.fromkeys(self.weight_norms, number(alpha, "alpha"))

    def _named_alphas(self, alpha: Mapping[str, Number]) -> dict[str, float]:
        if wrong := [name for name in alpha if not isinstance(name, str)]:
            raise TypeError(f"alpha names keys or components, as 'gate'; got {wrong[0]!r}")
        named = [(component_names(name)[0], value) for name, value in alpha.items() if "." not in name]
        components = dict(named)
        if len(components) < len(named):
            raise ValueError(f"alpha names a component twice, by its long and its short form: {list(alpha)}")
        present = {component_of(key) for key in self.weight_norms}
        unknown = [name for name in alpha if "." in name and name not in self.weight_norms]
        if unknown := unknown + [name for name in components if name not in present]:
            raise ValueError(f"alpha names {', '.join(unknown)}, which the engram does not have")
        return {
            key: number(alpha.get(key, components.get(component_of(key), 0.0)), "alpha") for key in self.weight_norms
        }

    def _check(self, adapter: Adapter) -> None:
        if adapter.info.processing == self.info.processing:
            self._check_shapes(adapter)
        self.info.require(adapter.info, "the engram")
        adapter.require_unshared(self.tensors)

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
        """Write `original - alpha W+`, rounded to the parameter's dtype once; all of it, or nothing.

        Raises:
            ValueError: a weight would not be finite.
        """
        for key in self.tensors:
            changed = self.taken_from(originals[key], key, alphas)
            if not _is_finite(changed):
                for written in self.tensors:
                    adapter.parameter(written).copy_(originals[written])
                largest = [one[key].abs().max().item() for one in (originals, self.tensors)]
                raise ValueError(
                    f"{key} would not be finite at alpha = {alphas[weight_key(key)]:g}: the largest entry of the "
                    f"weight is {largest[0]:g}, that of the engram {largest[1]:g}"
                )
            adapter.parameter(key).copy_(changed)

    def taken_from(self, original: Tensor, key: str, alphas: Mapping[str, float]) -> Tensor:
        """A weight (or bias) without `alpha W+`, in its own dtype."""
        step = alphas[weight_key(key)] * self.tensors[key].to(original.device)
        return (original.to(step.dtype) - step).to(original.dtype)


def require_engram(engram: object) -> None:
    """Raise where something else stands in an engram's place.

    Raises:
        TypeError: says what was given.
    """
    if not isinstance(engram, Engram):
        raise TypeError(f"expected an Engram, as extract(model, concept) gives, got {type(engram).__name__}")


class Edit:
    """One engram ablated in a model, until it is undone.

    Args:
        engram: what is ablated, with no strength yet.
        adapter: the model.
    """

    def __init__(self, engram: Engram, adapter: Adapter) -> None:
        self.engram, self.adapter = engram, adapter
        self.originals = {key: adapter.parameter(key).detach().clone() for key in engram}
        self._alphas = dict.fromkeys(engram.weight_norms, 0.0)
        self._tie_again = adapter.untie(engram.tensors)

    def set(self, alpha: Alpha) -> None:
        """Ablate the engram this strongly, from the original weights."""
        alphas = self.engram.alphas(alpha)
        self._alphas = dict.fromkeys(alphas, 0.0)  # what is there if these are refused
        self.engram._write(self.adapter, self.originals, alphas)
        self._alphas = alphas

    def changed(self, key: str) -> Tensor:
        """What the edit made of a weight."""
        return self.engram.taken_from(self.originals[key], key, self._alphas)

    @torch.no_grad()
    def undo(self, edits: list[Edit]) -> None:
        """Take the edit out from among those of the model, in any order; every weight is set back that can be.

        Raises:
            RuntimeError: names the weights that could not be set back.
        """
        later = edits[edits.index(self) + 1 :]
        lost, wanted = [], {}
        for key in self.originals:
            chain = [self, *(edit for edit in later if key in edit.originals)]
            if not _same(self.adapter, key, chain[-1].changed(key)):
                lost.append(key)
            wanted[key] = self.originals[key]
            for edit in chain[1:]:
                edit.originals[key] = wanted[key]
                wanted[key] = edit.changed(key)
        edits.remove(self)
        for key, weight in wanted.items():
            _set(self.adapter, key, weight)
        # Of all of them once more, since a weight may have been replaced by another one's.
        failed = [key for key, weight in wanted.items() if not _same(self.adapter, key, weight)]
        self._tie_again()
        if failed:
            raise RuntimeError(
                f"{', '.join(failed)} could not be set back to what it was before the block, in which it was replaced "
                f"by another tensor, or of another shape or dtype; all other weights are set back"
            )
        if lost:
            logger.warning(
                "%s%s changed while the engram was ablated, and what changed is lost: the weights are those from "
                "before the block. Train the copy that `ablate` gives", ", ".join(lost[:3]),
                f" and {len(lost) - 3} more" if len(lost) > 3 else "",
            )  # fmt: skip


_edits: WeakKeyDictionary[nn.Module, list[Edit]] = WeakKeyDictionary()
"""What is ablated from each model at the moment, in the order in which it began."""


def _same(adapter: Adapter, key: str, weight: Tensor) -> bool:
    """Whether a weight of the model is this one, on whichever device."""
    try:
        parameter = adapter.parameter(key)
        return parameter.dtype == weight.dtype and torch.equal(parameter.to(weight.device), weight)
    except (RuntimeError, ValueError, AttributeError, TypeError):
        return False


def _set(adapter: Adapter, key: str, weight: Tensor) -> None:
    """Write a weight where there is a tensor of its shape and dtype to write into."""
    with suppress(RuntimeError, ValueError, AttributeError, TypeError):
        parameter = adapter.parameter(key)
        if parameter.shape == weight.shape and parameter.dtype == weight.dtype:
            parameter.copy_(weight)


def _is_finite(tensor: Tensor) -> bool:
    """Whether all numbers are, in one pass that makes no tensor of their size."""
    return not tensor.numel() or bool(torch.stack(torch.aminmax(tensor.detach())).isfinite().all())


def _check_key(key: str, content: storage.Content) -> None:
    """Raise unless the key is a parameter's path, and the tensor under it one of numbers."""
    tensor = content.tensor(f"tensors/{key}")
    if (
        not is_key(key)
        or tensor.dtype not in FLOATS
        or not tensor.numel()
        or not tensor.dim()
        or not _is_finite(tensor)
    ):
        raise content.error(f"{key!r} is {tensor.dtype} {list(tensor.shape)}, or holds nan or inf")
    if is_bias(key) and tuple(tensor.shape) != _bias_shape(key, content.tensor(f"tensors/{weight_key(key)}").shape):
        raise content.error(f"the bias {key} is {list(tensor.shape)}, which does not fit its weight")


def _bias_shape(key: str, weight: torch.Size) -> tuple[int, ...]:
    """The shape of the bias of a weight of this shape: a number an output."""
    by_head = component_of(key) in ATTENTION and component_of(key) != "W_O"
    return (weight[0], weight[-1]) if by_head else tuple(weight[-1:])


def _weight_norms(key: str, content: storage.Content) -> Float[Tensor, "head"]:
    norms, tensor = content.tensor(f"weight_norms/{key}"), content.tensor(f"tensors/{key}")
    n_heads = len(tensor) if component_of(key) in ATTENTION else 1
    n_axes = 3 if component_of(key) in ATTENTION else 2
    if tensor.dim() != n_axes or tuple(norms.shape) != (n_heads,) or norms.dtype != torch.float64:
        raise content.error(f"{key} is {list(tensor.shape)}, its norms {norms.dtype} {list(norms.shape)}")
    if not _is_finite(norms) or bool((norms < 0).any()):
        raise content.error(f"the norms of {key} are not all finite and 0 or more")
    return norms


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
