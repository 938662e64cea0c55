"""`S+ = X+ X+^T` and `S- = X- X-^T`: the moments of every input, by group of examples.

There is one moment for each input, not for each matrix: Q, K and V read the same tensor, and so do gate and in. A
moment of few positions is held as these rows: see `statistics/moments.py`.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import reduce
from operator import add
from pathlib import Path
from typing import ClassVar

import pandas as pd
import torch
from jaxtyping import Bool
from torch import Tensor, nn

from engram_interp.common import storage
from engram_interp.concepts.concept import REFERENCE, TARGET
from engram_interp.linalg.ownership import Shares
from engram_interp.linalg.total import Factors, Total
from engram_interp.models import ModelInfo, adapt, adapt_language
from engram_interp.models.lens import ActivationCache
from engram_interp.models.sites import by_input, is_bias, is_key
from engram_interp.options import Which, takes
from engram_interp.sharing.card import Content
from engram_interp.sharing.shared import Shared
from engram_interp.statistics.caches import moments_of_cache
from engram_interp.statistics.compression import bytes_of, compressed, engram_errors, require_energy, say_errors
from engram_interp.statistics.moment_file import moment_in, tensors_of
from engram_interp.statistics.moments import AnyMoment
from engram_interp.statistics.store.folder import Store
from engram_interp.statistics.store.lazy import StoredGroup

N_SHOWN = 5
"""Inputs that a notebook shows."""
STORE = "store"
KEPT_BYTES = 2 * 2**30
"""What statistics may keep of what was factorised, by default."""


@dataclass(frozen=True)
class Factorised:
    """What has been computed of one input.

    Attributes:
        factors: of `S`.
        shares: the spectrum of `M`, by group and cut.
    """

    factors: Factors = field(default_factory=Factors)
    shares: dict[str, dict[float | int | None, Shares]] = field(default_factory=dict)

    @property
    def n_bytes(self) -> int:
        """How much memory it takes."""
        spectra = (V for group in self.shares.values() for _, V in group.values())
        return self.factors.n_bytes + sum(V.numel() * V.element_size() for V in spectra)


@dataclass(frozen=True)
class Statistics(Shared):
    """Moments of every input by group, and the model that they come from.

    Attributes:
        info: the model.
        keys: the weight matrices that were asked for.
        groups: group, then input, then its moment. A concept has the groups `target` and `reference`.
        name: the concept's name.
        positions: which positions of a pair count, as `Concept` names them. None if masks said so.
        reads: the input of every matrix of a plain module, by key, in the order of calls; empty where the model's class
            says it.
        keep_bytes: how much memory factorisations may take that are kept for the next call; 0 keeps none.
        compression: for every matrix, its W-Norm before and after `compress`, and the relative error of its engram.
    """

    info: ModelInfo
    keys: tuple[str, ...]
    groups: Mapping[str, Mapping[str, AnyMoment]]
    name: str | None = None
    positions: str | None = None
    keep_bytes: int = KEPT_BYTES
    reads: dict[str, str] = field(default_factory=dict)
    compression: pd.DataFrame | None = None
    _factorised: dict[tuple[str, bool, float], Factorised] = field(default_factory=dict, init=False, repr=False)

    _KINDS: ClassVar[tuple[str, ...]] = ("statistics", "store")

    def __repr__(self) -> str:
        counts = ", ".join(f"{count} {group} tokens" for group, count in self.counts.items())
        return f"Statistics({self.name!r}, {len(self.inputs)} inputs of {self.info.name!r}, {counts})"

    def _repr_html_(self) -> str:
        from engram_interp.common.html import table_html
        from engram_interp.figures.small import bars

        first = next(iter(self.groups.values()))
        shown = list(self.inputs)[:N_SHOWN]
        rows = [{"input": name, "width": first[name].width, "MB": self._n_bytes(name) / 1e6} for name in shown]
        lead = f"{len(self.inputs)} inputs of {self.info.name}; the first {len(shown)}, with all groups:"
        counts = {group: float(n) for group, n in self.counts.items()}
        picture = bars(counts, "positions that count, by group", "{:.0f} tokens")
        return table_html("Statistics", self.name, lead, pd.DataFrame(rows).set_index("input"), picture)

    def _n_bytes(self, name: str) -> int:
        return bytes_of({group: {name: moments[name]} for group, moments in self.groups.items()})

    @property
    def inputs(self) -> tuple[str, ...]:
        """The inputs whose moments are here."""
        return tuple(next(iter(self.groups.values())))

    @property
    def counts(self) -> dict[str, int]:
        """How many positions count, by group. The `Moment` of an expert counts only those that were sent to it."""
        return {group: next(iter(moments.values())).offered for group, moments in self.groups.items()}

    def token_share(self, group: str = TARGET) -> float:
        """`n/N`: a group's share of the positions that count. `filters.over` subtracts it.

        Example:
            >>> from engram_interp import Concept, collect, testbed
            >>> concept = Concept(target=["the city of Oslo"], reference=["What is the capital of Norway?"])
            >>> collect(testbed.load("full"), concept, layers=[1]).token_share() == 4 / 11
            True
        """
        return self.counts[group] / sum(self.counts.values())

    def total(self, name: str) -> AnyMoment:
        """The moment of one input over all groups."""
        return reduce(add, (moments[name] for moments in self.groups.values()))

    def factorised(self, name: str, ones: bool, ridge: float | int = 0.0) -> Total:
        """`S` of one input over all groups, with what has been factorised of it so far: no stage does it again.

        Args:
            name: the input.
            ones: whether it gets a row of ones.
            ridge: see `Total`.
        """
        moment = reduce(add, (moments[name].of_inputs(ones) for moments in self.groups.values()))
        return Total(moment, ridge, self._kept(name, ones, ridge).factors)

    def shares(self, name: str, ones: bool, ridge: float | int, group: str) -> dict[float | int | None, Shares]:
        """The spectra of `M` of one input and group, by cut, as far as they are known."""
        return self._kept(name, ones, ridge).shares.setdefault(group, {})

    def _kept(self, name: str, ones: bool, ridge: float | int) -> Factorised:
        """What is kept of an input. Nothing of further inputs is kept once all others take `keep_bytes`."""
        found = self._factorised.get((name, ones, float(ridge))) or Factorised()
        if found.n_bytes or sum(one.n_bytes for one in self._factorised.values()) < self.keep_bytes:
            self._factorised[name, ones, float(ridge)] = found
        return found

    def __add__(self, other: Statistics) -> Statistics:
        """Sums group by group. A group that only one of the two has is taken as it is.

        Raises:
            ValueError: if the two are of different models, of different inputs, or over different positions.
        """
        other.info.require(self.info, "the second summand")
        if set(self.inputs) != set(other.inputs):
            raise ValueError(
                f"statistics of different inputs cannot be added: {sorted(set(self.inputs) ^ set(other.inputs))}"
            )
        if self.positions != other.positions:
            raise ValueError(
                f"statistics over different positions cannot be added: {self.positions!r} and {other.positions!r}"
            )
        groups = {
            group: _sum_groups([s.groups[group] for s in (self, other) if group in s.groups])
            for group in dict.fromkeys([*self.groups, *other.groups])
        }
        return replace(
            self, groups=groups, keys=tuple(dict.fromkeys([*self.keys, *other.keys])), reads=self.reads or other.reads
        )

    def compress(self, energy: float | int, model: nn.Module | None = None) -> Statistics:
        """Every moment by its leading eigenvectors, where these are fewer numbers.

        What is cut off is spread evenly over its directions. With the model, the change of every engram and W-Norm is
        measured: it is logged, and `compression` has it by matrix.

        Args:
            energy: the share of the energy around the mean that the eigenvectors keep.
            model: the model that the statistics are of. None measures nothing.

        Raises:
            ValueError: if `energy` is not above 0 and at most 1, or the model is another one.

        Example:
            >>> from engram_interp import collect, testbed
            >>> model, concept = testbed.load("full"), testbed.authors().concept("Petra Dorlund")
            >>> statistics = collect(model, concept, layers=[1], components="out")
            >>> small = statistics.compress(0.9, model)
            >>> small.compression["key"].tolist()
            ['blocks.1.mlp.W_out']
        """
        share = require_energy(energy)
        groups = {
            group: {name: compressed(moments[name], share) for name in self.inputs}
            for group, moments in self.groups.items()
        }
        found = replace(self, groups=groups)
        if model is None:
            return found
        adapter = adapt(model)
        self.info.require(adapter.info, "the statistics")
        adapter.learn(self.reads)
        sites = [site for site in adapter.all_sites() if site.key in set(self.keys)]
        errors = engram_errors(adapter, sites, self.groups, groups)
        say_errors(errors, share, bytes_of(self.groups), bytes_of(groups))
        return replace(found, compression=errors)

    def save(self, path: str | Path) -> None:
        """Write a safetensors file that `Statistics.load` reads back."""
        tensors = {}
        for group, moments in self.groups.items():
            for name, moment in moments.items():
                tensors |= {f"{group}/{name}/{part}": tensor for part, tensor in tensors_of(moment).items()}
        fields = {
            "model": self.info.to_dict(),
            "keys": self.keys,
            "groups": list(self.groups),
            "inputs": self.inputs,
            "name": self.name,
            "positions": self.positions,
            **({"reads": self.reads} if self.reads else {}),
        }
        storage.write(path, "statistics", tensors, fields)

    @classmethod
    def load(cls, path: str | Path) -> Statistics:
        """Statistics that `save` wrote.

        Raises:
            ValueError: if the file is foreign, of another version, cut short or altered, or holds no moments.
        """
        content = storage.read(path, "statistics")
        inputs = content.strings("inputs")
        groups = {
            group: {name: moment_in(content, f"{group}/{name}") for name in inputs}
            for group in content.strings("groups")
        }
        for group, moments in groups.items():
            if len({moment.offered for moment in moments.values()}) > 1:
                raise content.error(f"the inputs of {group} have different numbers of positions that count")
        info, reads = ModelInfo.read(content), {}
        if info.is_plain:
            reads = content.strings_by_name("reads", content.field("reads", dict))
            wrong = [key for key in content.strings("keys") if reads.get(key) not in inputs]
        else:
            wrong = [key for key in content.strings("keys") if not is_key(key) or is_bias(key)]
        if wrong:
            raise content.error(f"its key {wrong[0]!r} is no weight's")
        for name in inputs:
            if len({moments[name].width for moments in groups.values()}) > 1:
                raise content.error(f"the groups have moments of {name} of different sizes")
        keys = tuple(content.strings("keys"))
        return cls(info, keys, groups, content.name(), content.text("positions"), reads=reads)

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> Statistics:
        """The statistics in a folder that `collect(store=...)` filled. Moments are read one input at a time.

        Raises:
            FileNotFoundError: if there is no store.
            ValueError: if the store is not finished, cut short or altered; the message names the file.
        """
        store = Store.open(folder)
        index, settings = store.index, store.index.settings
        groups = {group: StoredGroup(store, group) for group in store.groups}
        info = ModelInfo(**settings["model"])
        return cls(info, index.keys, groups, None, settings["positions"], keep_bytes=0, reads=index.reads)

    @classmethod
    @torch.no_grad()
    @takes(Which)
    def from_caches(
        cls,
        model: nn.Module,
        target: ActivationCache,
        reference: ActivationCache,
        target_mask: Bool[Tensor, "*target_pos"] | None = None,
        reference_mask: Bool[Tensor, "*reference_pos"] | None = None,
        *,
        which: Which,
    ) -> Statistics:
        """What `collect` would find on the same tokens, from activations that are at hand.

        Args:
            model: the model that the caches came from.
            target: `run_with_cache` on the target's tokens; `names_filter` says what it must hold.
            reference: the same for the reference.
            target_mask: `[batch pos]`, true where a position counts. None counts every position, BOS too.
            reference_mask: the same for the reference.

        Raises:
            KeyError: if a cache lacks an activation; the message names it.
            ValueError: if a mask's shape is not the activations', a mask has no true, or an activation is not finite.
        """
        adapter = adapt_language(model)
        sites = adapter.sites(which.components, which.layers)
        inputs = list(by_input(sites))
        groups = {
            TARGET: moments_of_cache(adapter, inputs, target, target_mask, TARGET),
            REFERENCE: moments_of_cache(adapter, inputs, reference, reference_mask, REFERENCE),
        }
        return cls(adapter.info, tuple(site.key for site in sites), groups)

    def _store(self) -> Store | None:
        """The folder that the moments are read from, if they are."""
        first = next(iter(self.groups.values()))
        return first.store if isinstance(first, StoredGroup) else None

    def _write(self, folder: Path) -> str:
        if (store := self._store()) is not None:
            store.copy_to(folder / STORE)
            return STORE
        return super()._write(folder)

    @classmethod
    def _read(cls, path: Path) -> Statistics:
        return cls.open(path) if path.is_dir() else cls.load(path)

    def _card(self) -> Content:
        facts = {"model": self.info.name, "its weights": self.info.processing, "fingerprint": self.info.fingerprint}
        counts = {f"{group} tokens": n for group, n in self.counts.items()}
        return Content(
            kind="statistics" if self._store() is None else "store",
            concept=self.name,
            model=self.info.name,
            facts=facts | counts | {"positions": self.positions, "inputs": len(self.inputs)},
            does="They serve every cut, filter and map without another pass over the data.",
            code=(
                "import engram_interp as ei\n\n"
                "statistics = ei.Statistics.from_pretrained({place!r})\n"
                "wmap, engram = ei.localize(model, statistics), ei.extract(model, statistics)"
            ),
        )


def names_filter(model: nn.Module, components: str | Collection[str] | None = None) -> list[str]:
    """The hook points whose activations `Statistics.from_caches` needs: hand it to `run_with_cache(names_filter=...)`.

    Example:
        >>> from engram_interp import testbed
        >>> names_filter(testbed.load("full"), components="W_O")[0]
        'blocks.0.attn.hook_z'
    """
    adapter = adapt_language(model)
    return adapter.cache_names(list(dict.fromkeys(site.input for site in adapter.sites(components))))


def _sum_groups(summands: list[Mapping[str, AnyMoment]]) -> Mapping[str, AnyMoment]:
    first, *others = summands
    for other in others:
        first = {name: moment + other[name] for name, moment in first.items()}
    return first
