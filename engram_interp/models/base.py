"""What does the rest of the package ask of a model, whatever its class?

An adapter knows a model's matrices, how to run the model while reading what they multiply, and where their weights
live. To add a model class, write an adapter and name it in `registry.py`, or pass it to `register`. What only language
models have is in `language.py`.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from engram_interp.common.arguments import Layers
from engram_interp.concepts.batches import Examples
from engram_interp.concepts.concept import Concept
from engram_interp.concepts.data import DataBatch
from engram_interp.linalg.norms import Heads
from engram_interp.models import hooks
from engram_interp.models.hooks import Record
from engram_interp.models.identity import ModelInfo
from engram_interp.models.memory import contains, norms_and_embeddings, shared
from engram_interp.models.selection import Unreadable, readable_sites
from engram_interp.models.sites import Input, Site, parameter_paths
from engram_interp.options import Read, Which


class Adapter(ABC):
    """One model, as this package sees it."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    @cached_property
    @abstractmethod
    def info(self) -> ModelInfo:
        """Which model this is."""

    @property
    @abstractmethod
    def n_layers(self) -> int:
        """Number of blocks, or of depths of a plain module."""

    @abstractmethod
    def all_sites(self) -> list[Site]:
        """Every weight matrix whose engram can be taken, in the order in which they run."""

    @cached_property
    @abstractmethod
    def unreadable(self) -> Unreadable:
        """Components of layers that the model has, or may have, but that cannot be read exactly, and why."""

    @property
    def reads(self) -> dict[str, str]:
        """The input of every matrix by key, in the order of calls, where only a pass shows it; else nothing."""
        return {}

    @property
    def elsewhere(self) -> set[str]:
        """The parameters that a pass has multiplied in a way that is not read, too: their inputs are not all known."""
        return set()

    def look(self, concept: Any) -> None:
        """Find out by one example what only a pass tells: the order of calls, and which matrices share an input.

        Args:
            concept: where the example comes from: a concept, or a group of examples.
        """
        del concept

    def rows_of(self, name: str) -> int:
        """How many rows an input has for each example that counts as a whole, as far as is known."""
        del name
        return 1

    def learn(self, reads: Mapping[str, str]) -> None:
        """Take `reads` from an earlier pass."""
        del reads

    def reached(self, sites: list[Site], which: Which) -> list[Site]:
        """Those of the matrices that a pass has reached, in the order in which they run.

        Raises:
            ValueError: if a matrix that `which` names was not reached.
        """
        del which
        return sites

    def sites(self, components: str | Collection[str] | None = None, layers: Layers = None) -> list[Site]:
        """The matrices of the named components and layers; all by default.

        Raises:
            ValueError: if the model lacks one of the components or layers.
            NotImplementedError: if the input of a component, named or meant by default, cannot be read exactly.
        """
        return readable_sites(self.info.name, self.all_sites(), self.unreadable, components, layers)

    @abstractmethod
    def encode(self, groups: Mapping[str, Sequence[Any]], read: Read | None = None) -> dict[str, Examples]:
        """Every example of every group as the model reads it.

        Args:
            groups: examples by name.
            read: which positions of a pair count. None takes the default.

        Raises:
            ValueError: if the model cannot read an example, or if no position of a group counts.
            TypeError: if a group does not hold examples that this kind of model reads.
        """

    def encode_concept(self, concept: Concept) -> dict[str, Examples]:
        """Every example of a concept as the model reads it, by side."""
        return self.encode(concept.sides, concept.read)

    def widths(self, inputs: Collection[str]) -> dict[str, int]:
        """The size of every input, which is what the matrices that read it expect."""
        readers = {site.input: site for site in self.all_sites() if site.input in inputs}
        return {one: self.shape(site)[1] for one, site in readers.items()}

    def shape(self, site: Site) -> tuple[int, int]:
        """Outputs and inputs of a matrix."""
        out, d = self.weight(site).shape
        return out, d

    @abstractmethod
    def parameter(self, key: str) -> Tensor:
        """The tensor where a weight or bias lives, in its own shape. Writing into it edits the model."""

    def other_parameters(self) -> dict[str, nn.Parameter]:
        """The parameters that hold no matrix and no bias of one, by path: norms, embeddings, what is not covered."""
        matrices = [self.parameter(path) for path in parameter_paths(self.all_sites())]
        found: dict[int, tuple[str, nn.Parameter]] = {}
        for path, module in self.named_modules().items():
            for name, one in module._parameters.items():
                if one is None or id(one) in found or any(contains(one, matrix) for matrix in matrices):
                    continue
                found[id(one)] = (f"{path}.{name}" if path else name), one
        return dict(found.values())

    def weight(self, site: Site) -> Float[Tensor, "out in"]:
        """A matrix as the formulas have it."""
        return site.matrix(self.parameter(site.path))

    def bias(self, site: Site) -> Tensor | None:
        """What is added to a matrix's outputs, without gradients; None if there is nothing."""
        return None if site.bias is None else site.of_bias(self.parameter(site.bias)).detach()

    def heads(self, site: Site) -> Heads | None:
        """Where the heads of a matrix lie, or the channels of a convolution; None if it has none."""
        return site.layout.heads(site.of(self.parameter(site.path)))

    def require_editable(self, keys: Collection[str]) -> None:
        """Check that tensors are in memory as they multiply, so that writing into them edits the model.

        Raises:
            ValueError: if one is not; it names it.
        """
        del keys

    def require_unshared(self, keys: Collection[str]) -> None:
        """Check that an edit of these tensors edits no other one, unless `untie` parts the two.

        Raises:
            ValueError: if two tensors share memory; it names both.
        """
        weights = {path: self.parameter(path) for path in parameter_paths(self.all_sites())}
        tensors = weights | norms_and_embeddings(self.named_modules())
        for key, name in shared(keys, tensors):
            if not self.can_part(key, tensors[name]):
                raise ValueError(
                    f"{key} and {name} of {self.info.name!r} are one tensor in memory, so an edit of one edits the "
                    f"other: give each a tensor of its own, as `nn.Parameter(weight.detach().clone())`"
                )

    def can_part(self, key: str, other: Tensor) -> bool:
        """Whether `untie` parts a weight from another tensor that shares its memory."""
        del key, other
        return False

    def untie(self, keys: Collection[str]) -> Callable[[], None]:
        """Give tensors among `keys` that other parameters share storage of their own.

        Returns:
            A function that undoes it.
        """
        del keys
        return lambda: None

    def copy(self) -> nn.Module:
        """A copy of the model that shares nothing with it."""
        return copy.deepcopy(self.model)

    def named_modules(self) -> dict[str, nn.Module]:
        """Every module that may run in a pass, by its path."""
        return dict(self.model.named_modules())

    def foreign_hooks(self) -> list[str]:
        """The paths of the modules with somebody else's forward hooks, which may change what is read."""
        return hooks.foreign_hooks(self.named_modules())

    @abstractmethod
    def run(self, batch: Any, inputs: Collection[Input], record: Record) -> None:
        """One forward pass as far as it is needed. `record` gets every input's activation."""

    def outputs(self, batch: DataBatch) -> Any:
        """What a plain module makes of a batch. It can be differentiated.

        Raises:
            TypeError: if this is a language model, which reads text.
        """
        raise TypeError(f"{self.info.name!r} reads text or tokens; got a batch {batch.examples[0]}")
