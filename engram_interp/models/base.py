"""What the rest of the package asks of a model, whatever its class.

An adapter knows a model's sites, how to run it while reading their inputs, and where their weights live. Adding a
model class means writing one adapter beside this file.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable
from dataclasses import asdict, dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from engram_interp.concept import Batch, Encoder
from engram_interp.sites import Site, select_sites

Record = Callable[[str, Float[Tensor, "*batch_pos d"]], None]


@dataclass(frozen=True)
class ModelInfo:
    """Which model something was computed from.

    Attributes:
        name: the model's own name, for people.
        fingerprint: a hash of what no engram edits, the embeddings and the norms, so that an edited copy keeps its
            model's; so does a fine-tune in which these were frozen.
        processing: `raw`, or what was folded into the weights when they were loaded.
    """

    name: str
    fingerprint: str
    processing: str

    def require(self, other: ModelInfo, what: str) -> None:
        """Raise unless `what`, made from this model, may be used with the model `other`.

        Raises:
            ValueError: says whether the weights are another model's or processed differently.
        """
        if other.processing != self.processing:
            raise ValueError(
                f"cannot use {what}, made from {self.processing} weights of {self.name!r}, the model given has "
                f"{other.processing} weights: load it with the same weight processing"
            )
        if other.fingerprint != self.fingerprint:
            raise ValueError(
                f"cannot use {what}, made from another model: {self.name!r} (fingerprint {self.fingerprint[:12]}), "
                f"not {other.name!r} (fingerprint {other.fingerprint[:12]})"
            )

    def to_dict(self) -> dict[str, str]:
        """The fields by name, as files keep them."""
        return asdict(self)


def fingerprint(tensors: Iterable[Tensor]) -> str:
    """SHA-256 of the tensors' shapes and bits.

    Example:
        >>> fingerprint([torch.zeros(2)]) == fingerprint([torch.zeros(3)])
        False
    """
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(repr((tuple(tensor.shape), str(tensor.dtype))).encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


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
        """Number of blocks."""

    @property
    @abstractmethod
    def encoder(self) -> Encoder:
        """How the model reads text."""

    @abstractmethod
    def all_sites(self) -> list[Site]:
        """Every weight matrix whose engram can be taken, layer by layer, the unembedding last."""

    @abstractmethod
    def check_components(self, components: str | Collection[str] | None) -> None:
        """Raise for components that the model has but whose inputs cannot be read."""

    @abstractmethod
    def parameter(self, key: str) -> Tensor:
        """The tensor where a weight or bias lives, in TransformerLens's shape; writing into it edits the model."""

    @abstractmethod
    def input_width(self, name: str) -> int:
        """Size of the activation called `name`."""

    @abstractmethod
    def run(self, batch: Batch, inputs: Collection[str], record: Record) -> None:
        """One forward pass as far as it is needed; `record` gets every input's activation, `[batch pos d]`."""

    @abstractmethod
    def final(self, batch: Batch, at: Bool[Tensor, "batch pos"]) -> Float[Tensor, "n d_model"]:
        """What the unembedding reads at the chosen positions, row by row."""

    @abstractmethod
    def unembed(self, rows: Float[Tensor, "n d_model"]) -> Float[Tensor, "n d_vocab"]:
        """Next-token logits from rows of `final`."""

    @abstractmethod
    def cache_names(self, inputs: Collection[str]) -> list[str]:
        """The TransformerLens activations from which the inputs can be had."""

    @abstractmethod
    def from_cache(self, name: str, cache: dict[str, Tensor]) -> Float[Tensor, "*batch_pos d"]:
        """One input from an ActivationCache that holds `cache_names([name])`."""

    def sites(
        self, components: str | Collection[str] | None = None, layers: int | Collection[int] | None = None
    ) -> list[Site]:
        """The matrices of the named components and layers; all by default.

        Raises:
            ValueError: a component or layer that the model lacks.
            NotImplementedError: a component whose input cannot be read exactly.
        """
        self.check_components(components)
        return select_sites(self.all_sites(), components, layers)
