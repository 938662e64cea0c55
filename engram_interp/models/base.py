"""What does the rest of the package ask of a model, whatever its class?

An adapter knows a model's matrices, how to run the model while reading what they multiply, and where their weights
live. To add a model class, write an adapter and name it in `registry.py`, or pass it to `register`.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator
from functools import cached_property
from typing import Any

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from engram_interp.common.arguments import Layers
from engram_interp.concepts.batches import Batch
from engram_interp.concepts.encoding import Encoder
from engram_interp.models import hooks, reading
from engram_interp.models.components import UNEMBED, to_matrix
from engram_interp.models.hooks import Record
from engram_interp.models.identity import ModelInfo
from engram_interp.models.memory import norms_and_embeddings, share_memory, shared
from engram_interp.models.selection import Unreadable, readable_sites
from engram_interp.models.sites import Input, Site


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
    def n_heads(self) -> int:
        """Number of query heads."""
        cfg: Any = self.model.cfg
        return int(cfg.n_heads)

    @property
    @abstractmethod
    def encoder(self) -> Encoder:
        """How the model reads text."""

    @property
    @abstractmethod
    def W_E(self) -> Float[Tensor, "d_vocab d_model"]:
        """The embedding."""

    @abstractmethod
    def block_sites(self, layer: int) -> Iterator[Site]:
        """The matrices of one block whose engram can be taken."""

    @cached_property
    @abstractmethod
    def unreadable(self) -> Unreadable:
        """Components of layers that the model has, or may have, but that cannot be read exactly, and why."""

    def all_sites(self) -> list[Site]:
        """Every weight matrix whose engram can be taken, layer by layer, the unembedding last."""
        blocks = [site for layer in range(self.n_layers) for site in self.block_sites(layer)]
        return [*blocks, Site(UNEMBED, None, Input("unembed.in"), "unembed.b_U")]

    def sites(self, components: str | Collection[str] | None = None, layers: Layers = None) -> list[Site]:
        """The matrices of the named components and layers; all by default.

        Raises:
            ValueError: if the model lacks one of the components or layers.
            NotImplementedError: if the input of a component, named or meant by default, cannot be read exactly.
        """
        return readable_sites(self.info.name, self.all_sites(), self.unreadable, components, layers)

    def widths(self, inputs: Collection[str]) -> dict[str, int]:
        """The size of every input, which is what the matrices that read it expect."""
        readers = {site.input: site for site in self.all_sites() if site.input in inputs}
        return {one: to_matrix(site.component, self.parameter(site.key)).shape[1] for one, site in readers.items()}

    @abstractmethod
    def parameter(self, key: str) -> Tensor:
        """The tensor where a weight or bias lives, in TransformerLens's shape. Writing into it edits the model."""

    def require_unshared(self, keys: Collection[str]) -> None:
        """Check that an edit of these tensors edits no other one.

        The unembedding may be the embedding: `untie` parts the two.

        Raises:
            ValueError: if two tensors share memory; it names both.
        """
        weights = {key: self.parameter(key) for site in self.all_sites() for key in (site.key, site.bias) if key}
        tensors = weights | norms_and_embeddings(self.named_modules())
        for key, name in shared(keys, tensors):
            if key != "unembed.W_U" or not share_memory(tensors[name], self.W_E):
                raise ValueError(
                    f"{key} and {name} of {self.info.name!r} are one tensor in memory, so an edit of one edits the "
                    f"other: give each a tensor of its own, as `nn.Parameter(weight.detach().clone())`"
                )

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
    def run(self, batch: Batch, inputs: Collection[Input], record: Record) -> None:
        """One forward pass as far as it is needed. `record` gets every input's activation once."""

    @abstractmethod
    def run_all(self, batch: Batch) -> None:
        """One whole forward pass, for the hooks that are on."""

    def read(self, batch: Batch, point: str) -> Float[Tensor, "batch pos ..."]:
        """The activation at one of TransformerLens's hook points, such as `blocks.2.hook_resid_post`.

        At `hook_z`, a bridge has heads side by side, and a HookedTransformer has them on an axis of their own.

        Raises:
            ValueError: if the model has no such hook point, or the activation does not have one row a token.
            RuntimeError: if the hook point did not run.
        """
        return self.read_all(batch, [point])[point]

    def read_all(self, batch: Batch, points: Collection[str]) -> dict[str, Float[Tensor, "batch pos ..."]]:
        """`read` at several hook points, in one pass."""
        return reading.read(self.model, self.info.name, self.run_all, batch, points)

    @abstractmethod
    def logits(self, batch: Batch) -> Float[Tensor, "batch pos d_vocab"]:
        """Next-token logits at every position. Unlike all other passes, this one can be differentiated."""

    @abstractmethod
    def final(self, batch: Batch, at: Bool[Tensor, "batch pos"]) -> Float[Tensor, "n d_model"]:
        """What the unembedding reads at the chosen positions, row by row."""

    @abstractmethod
    def unembed(self, rows: Float[Tensor, "n d_model"]) -> Float[Tensor, "n d_vocab"]:
        """Next-token logits from rows of `final`."""

    @property
    @abstractmethod
    def final_gain(self) -> Float[Tensor, "d_model"] | None:
        """What the final norm multiplies each dimension by; None if there is no gain, or it is folded."""

    @property
    def final_norm(self) -> str:
        """The kind of the final norm as TransformerLens names it (`LN`, `RMS`, ...); empty if there is none."""
        cfg: Any = self.model.cfg
        return str(getattr(cfg, "normalization_type", None) or "")

    def logits_of(self, directions: Float[Tensor, "n d_model"]) -> Float[Tensor, "n d_vocab"]:
        """What directions of the residual stream add to the logits, with the scale of the final norm left out."""
        W_U = to_matrix(UNEMBED, self.parameter(f"unembed.{UNEMBED}").detach()).to(directions)
        if self.final_norm.startswith("LN"):
            directions = directions - directions.mean(1, keepdim=True)
        gain = self.final_gain
        return (directions if gain is None else directions * gain.detach().to(directions)) @ W_U.T

    @property
    def pads_left(self) -> bool:
        """Whether `next_logits` takes texts of different lengths, with padding in front and a mask of what is real."""
        return False

    @abstractmethod
    def next_logits(
        self, tokens: Int[Tensor, "batch pos"], seen: Any = None, mask: Bool[Tensor, "batch total"] | None = None
    ) -> tuple[Float[Tensor, "batch d_vocab"], Any]:
        """Logits of what comes next, and what need not be computed again for the token after it.

        Args:
            tokens: the tokens that follow those already seen, without padding unless `pads_left`.
            seen: what an earlier call returned; None for tokens from the start.
            mask: `[batch total]`, true at the real ones among all tokens so far. None if all are.

        Returns:
            The logits, and what was seen. That is None for a model that keeps nothing and needs all tokens again.
        """

    @abstractmethod
    def cache_names(self, inputs: Collection[Input]) -> list[str]:
        """The TransformerLens activations that the inputs are computed from."""

    @abstractmethod
    def from_cache(self, name: Input, cache: dict[str, Tensor]) -> Float[Tensor, "*batch_pos d"]:
        """One input from an ActivationCache that holds `cache_names([name])`."""
