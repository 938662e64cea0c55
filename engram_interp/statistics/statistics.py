"""`S+ = X+ X+^T` and `S- = X- X-^T`: uncentred second moments of every input, by group of examples.

Moments are kept per input, not per matrix: Q, K and V read the same tensor, gate and in too. Beside `S` stand the sum
of the inputs and their number, which are what a row of ones (an absorbed bias) would add to it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from engram_interp.common import storage
from engram_interp.common.arguments import Layers
from engram_interp.concepts.concept import REFERENCE, TARGET
from engram_interp.models import Adapter, ModelInfo, adapt
from engram_interp.models.lens import ActivationCache
from engram_interp.models.sites import is_bias, is_key

FLOAT64_BELOW = 768
"""Inputs narrower than this are summed in float64. The spectral cut is `d * 2**-23`, so the narrower an input, the
nearer float32's rounding comes to the smallest direction that is kept, and the less float64 costs."""

WIDE = 2048
"""From this width on, a moment is summed in 8 strips instead of 4: thinner ones waste less, but multiply slower."""


def moment_dtype(d: int, dtype: torch.dtype = torch.float32) -> torch.dtype:
    """In what precision the second moments of an input of size `d` are summed; never less than its own."""
    return torch.promote_types(dtype, torch.float64 if d < FLOAT64_BELOW else torch.float32)


@dataclass(frozen=True)
class Moment:
    """The moments of one input over one group.

    Attributes:
        second: `S`, `[d d]`, the sum of `x x^T`.
        first: `[d]`, the sum of `x`.
        count: how many positions were summed.
        offered: how many counted; more than were summed where only some are routed to an expert.
    """

    second: Float[Tensor, "d d"]
    first: Float[Tensor, "d"]
    count: int
    offered: int

    def __add__(self, other: Moment) -> Moment:
        device = self.second.device
        return Moment(
            self.second + other.second.to(device),
            self.first + other.first.to(device),
            self.count + other.count,
            self.offered + other.offered,
        )

    @property
    def is_finite(self) -> bool:
        """Whether `S` is finite, by its diagonal: no entry is larger than the two on the diagonal beside it."""
        return bool(self.second.diagonal().isfinite().all())

    def matrix(self, ones: bool) -> Float[Tensor, "d1 d1"]:
        """`S` in float64; with `ones`, of the inputs with a row of ones below them."""
        S = self.second.double()
        if not ones:
            return S
        sums = self.first.double()[:, None]
        count = torch.full((1, 1), float(self.count), dtype=torch.float64, device=S.device)
        return torch.cat([torch.cat([S, sums], dim=1), torch.cat([sums.T, count], dim=1)])


def with_ones(X: Float[Tensor, "n d"], ones: bool) -> Float[Tensor, "n d1"]:
    """Rows of inputs in float64; with `ones`, a one at the end of each: what `Moment.matrix` is the moment of."""
    X = X.double()
    return torch.cat([X, X.new_ones(len(X), 1)], dim=1) if ones else X


@contextmanager
def full_precision() -> Iterator[None]:
    """Products of float32 in float32, also where a user lets matmuls run in TF32 or bf16."""
    setting = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(setting)


class MomentSum:
    """A moment being summed, in place, from `[n d]` rows at a time.

    Args:
        like: an activation `[... d]` of the input, for its width, device and precision.
    """

    def __init__(self, like: Float[Tensor, "... d"]) -> None:
        d = like.shape[-1]
        self._second = torch.zeros(d, d, dtype=moment_dtype(d, like.dtype), device=like.device)
        # An absorbed bias hangs on these sums. A few rows are summed at a time, and these sums in float64: as exact as
        # converting every row, at a tenth of the cost.
        self._first = torch.zeros(d, dtype=torch.float64, device=like.device)
        self._count = self._offered = 0

        ends = torch.linspace(0, d, (4 if d < WIDE else 8) + 1).long().tolist()
        self._strips = [(start, stop) for start, stop in pairwise(ends) if start < stop]

    def add(self, X: Float[Tensor, "n d"], offered: int | None = None) -> None:
        """Take the rows of `X` in, of as many as were `offered` (all by default).

        `X^T X` is symmetric: only its strips right of the diagonal are summed.
        """
        X = X.to(self._second.dtype)
        with full_precision():
            for start, stop in self._strips:
                self._second[start:stop, start:].addmm_(X[:, start:stop].T, X[:, start:])
        for rows in X.split(64):
            self._first += rows.sum(0).double()
        self._count += len(X)
        self._offered += len(X) if offered is None else offered

    @property
    def is_finite(self) -> bool:
        """Whether everything taken in so far was finite."""
        return bool(self._first.isfinite().all())

    def result(self) -> Moment:
        """The moment, what lies below the diagonal mirrored from above it."""
        for start, stop in self._strips:
            own = self._second[start:stop, start:stop]
            own.copy_(own.triu() + own.triu(1).T)
            self._second[stop:, start:stop] = self._second[start:stop, stop:].T
        return Moment(self._second, self._first, self._count, self._offered)


@dataclass(frozen=True)
class Statistics:
    """Moments of every input by group, and the model they were taken from.

    Attributes:
        info: the model.
        keys: the weight matrices that were asked for.
        groups: group, then input, then its moment. A concept has the groups `target` and `reference`.
        name: what the concept is called.
    """

    info: ModelInfo
    keys: tuple[str, ...]
    groups: dict[str, dict[str, Moment]]
    name: str | None = None

    def __repr__(self) -> str:
        counts = ", ".join(f"{count} {group} tokens" for group, count in self.counts.items())
        return f"Statistics({self.name!r}, {len(self.inputs)} inputs of {self.info.name!r}, {counts})"

    @property
    def inputs(self) -> tuple[str, ...]:
        """The inputs whose moments are here."""
        return tuple(next(iter(self.groups.values())))

    @property
    def counts(self) -> dict[str, int]:
        """Positions that counted, by group; an expert's `Moment` has the count of those that were sent to it."""
        return {group: next(iter(moments.values())).offered for group, moments in self.groups.items()}

    def token_share(self, group: str = TARGET) -> float:
        """`n/N`: a group's share of the positions that count; what `filters.over` takes away.

        Example:
            >>> from engram_interp import Concept, collect, testbed
            >>> concept = Concept(target=["the city of Oslo"], reference=["What is the capital of Norway?"])
            >>> collect(testbed.load("full"), concept, layers=[1]).token_share() == 4 / 11
            True
        """
        return self.counts[group] / sum(self.counts.values())

    def total(self, name: str) -> Moment:
        """The moment of one input over all groups."""
        first, *others = (moments[name] for moments in self.groups.values())
        for other in others:
            first = first + other
        return first

    def __add__(self, other: Statistics) -> Statistics:
        """Sums group by group; a group that only one of the two has is taken as it is.

        Raises:
            ValueError: statistics of another model, or of other inputs.
        """
        other.info.require(self.info, "the second summand")
        if set(self.inputs) != set(other.inputs):
            raise ValueError(
                f"statistics of different inputs cannot be added: {sorted(set(self.inputs) ^ set(other.inputs))}"
            )
        groups = {
            group: _sum_groups([s.groups[group] for s in (self, other) if group in s.groups])
            for group in dict.fromkeys([*self.groups, *other.groups])
        }
        return replace(self, groups=groups, keys=tuple(dict.fromkeys([*self.keys, *other.keys])))

    def save(self, path: str | Path) -> None:
        """Write a safetensors file that `Statistics.load` reads back."""
        tensors = {}
        for group, moments in self.groups.items():
            for name, moment in moments.items():
                tensors[f"{group}/{name}/second"] = moment.second
                tensors[f"{group}/{name}/first"] = moment.first
                tensors[f"{group}/{name}/count"] = torch.tensor([moment.count, moment.offered])
        fields = {
            "model": self.info.to_dict(),
            "keys": self.keys,
            "groups": list(self.groups),
            "inputs": self.inputs,
            "name": self.name,
        }
        storage.write(path, "statistics", tensors, fields)

    @classmethod
    def load(cls, path: str | Path) -> Statistics:
        """Statistics that `save` wrote.

        Raises:
            ValueError: a foreign file, one of another version, cut short or altered, or tensors that are no moments.
        """
        content = storage.read(path, "statistics")
        inputs = content.strings("inputs")
        groups = {
            group: {name: _moment_in(content, f"{group}/{name}") for name in inputs}
            for group in content.strings("groups")
        }
        for group, moments in groups.items():
            if len({moment.offered for moment in moments.values()}) > 1:
                raise content.error(f"the inputs of {group} have different numbers of positions that count")
        if wrong := [key for key in content.strings("keys") if not is_key(key) or is_bias(key)]:
            raise content.error(f"its key {wrong[0]!r} is no weight's")
        for name in inputs:
            if len({moments[name].second.shape for moments in groups.values()}) > 1:
                raise content.error(f"the groups have moments of {name} of different sizes")
        return cls(content.model(), tuple(content.strings("keys")), groups, content.name())

    @classmethod
    @torch.no_grad()
    def from_caches(
        cls,
        model: nn.Module,
        target: ActivationCache,
        reference: ActivationCache,
        target_mask: Bool[Tensor, "*target_pos"] | None = None,
        reference_mask: Bool[Tensor, "*reference_pos"] | None = None,
        *,
        components: str | Collection[str] | None = None,
        layers: Layers = None,
    ) -> Statistics:
        """What `collect` would find on the same tokens, from activations already at hand.

        Args:
            model: the model that the caches came from.
            target: `run_with_cache` on the target's tokens; `names_filter` says what it must hold.
            reference: the same for the reference.
            target_mask: `[batch pos]`, true where a position counts; None counts every position, BOS too.
            reference_mask: the same for the reference.
            components: which matrices; every one that the model has by default.
            layers: which layers; all by default.

        Raises:
            KeyError: an activation that a cache lacks, by name.
            ValueError: a mask of another shape than the activations or without a true, or a non-finite activation.
        """
        adapter = adapt(model)
        sites = adapter.sites(components, layers)
        inputs = list(dict.fromkeys(site.input for site in sites))
        groups = {
            TARGET: _moments_of_cache(adapter, inputs, target, target_mask, TARGET),
            REFERENCE: _moments_of_cache(adapter, inputs, reference, reference_mask, REFERENCE),
        }
        return cls(adapter.info, tuple(site.key for site in sites), groups)


def names_filter(model: nn.Module, components: str | Collection[str] | None = None) -> list[str]:
    """The hook points whose activations `Statistics.from_caches` needs: hand it to `run_with_cache(names_filter=...)`.

    Example:
        >>> from engram_interp import testbed
        >>> names_filter(testbed.load("full"), components="W_O")[0]
        'blocks.0.attn.hook_z'
    """
    adapter = adapt(model)
    return adapter.cache_names(list(dict.fromkeys(site.input for site in adapter.sites(components))))


def _moment_in(content: storage.Content, place: str) -> Moment:
    """The moment of a group and input in a file.

    Raises:
        ValueError: what is no sum of `x x^T`: of another shape or dtype, not finite, not symmetric, or with an entry
            that is larger than the diagonal allows; counts that are no counts.
    """
    second, first, count = (content.tensor(f"{place}/{part}") for part in ("second", "first", "count"))
    d = len(second) if second.dim() == 2 else 0
    wide = (torch.float32, torch.float64)
    if not d or tuple(second.shape) != (d, d) or tuple(first.shape) != (d,) or tuple(count.shape) != (2,):
        shapes = [list(one.shape) for one in (second, first, count)]
        raise content.error(f"{place} has shapes {shapes}, not [d, d], [d] and [2]")
    if second.dtype not in wide or first.dtype not in wide or count.dtype != torch.int64:
        raise content.error(f"{place} is {second.dtype}, {first.dtype} and {count.dtype}, not floats and int64")
    taken, offered = count.tolist()
    if not 0 <= taken <= offered or not offered:
        raise content.error(f"{place} counts {taken} of {offered} positions")
    if not (second.isfinite().all() and first.isfinite().all()):
        raise content.error(f"{place} is not finite")
    if not taken and bool(second.any() or first.any()):
        raise content.error(f"{place} counts no position and is not zero")
    diagonal = second.diagonal().double()
    if not torch.equal(second, second.T) or bool((diagonal < 0).any()):
        raise content.error(f"{place} is not symmetric with a diagonal of 0 or more")
    # Cauchy and Schwarz: what is beyond this, and the rounding of the sums, is no second moment.
    slack = 1.05
    if bool((second.double().square() > slack * diagonal[:, None] * diagonal + 1e-30).any()):
        raise content.error(f"{place} has an entry larger than its diagonal allows")
    if bool((first.double().square() > slack * taken * diagonal + 1e-30).any()):
        raise content.error(f"{place} has a sum larger than its count and diagonal allow")
    if not _is_positive(second):
        raise content.error(f"{place} is indefinite: a second moment has no negative eigenvalue")
    return Moment(second, first, taken, offered)


def _is_positive(second: Float[Tensor, "d d"]) -> bool:
    """Whether no eigenvalue is negative beyond rounding: a matrix with a Cholesky factor has none."""
    slack = 1e-3 * float(second.diagonal().max())
    if not slack:
        return True
    shifted = second + slack * torch.eye(len(second), dtype=second.dtype, device=second.device)
    return not int(torch.linalg.cholesky_ex(shifted).info)


def _sum_groups(summands: list[dict[str, Moment]]) -> dict[str, Moment]:
    first, *others = summands
    for other in others:
        first = {name: moment + other[name] for name, moment in first.items()}
    return first


def _moments_of_cache(
    adapter: Adapter, inputs: Collection[str], cache: ActivationCache, mask: Tensor | None, group: str
) -> dict[str, Moment]:
    needed = adapter.cache_names(inputs)
    if missing := [name for name in needed if name not in cache]:
        raise KeyError(f"the {group} cache lacks {', '.join(missing)}: cache what names_filter(model) names")
    activations = {name: cache[name] for name in needed}
    moments = {name: _moment(adapter.from_cache(name, activations), mask, group) for name in inputs}
    for name, moment in moments.items():
        if not moment.is_finite:
            raise ValueError(f"non-finite activation in the {group} cache: {name}, from {adapter.cache_names([name])}")
    return moments


def _moment(activation: Float[Tensor, "*batch_pos d"], mask: Tensor | None, group: str) -> Moment:
    positions = activation.shape[:-1]
    if mask is None:
        mask = torch.ones(positions, dtype=torch.bool)
    if mask.dtype != torch.bool:
        raise ValueError(f"{group}_mask is a tensor of booleans, got {mask.dtype}: pass mask.bool()")
    if mask.shape != positions:
        raise ValueError(f"{group}_mask has shape {list(mask.shape)}, the cached activations {list(positions)}")
    if not mask.any():
        raise ValueError(f"{group}_mask has no true in it, so no position of the {group} counts")
    moment = MomentSum(activation)
    moment.add(activation[mask.to(activation.device)])
    return moment.result()
