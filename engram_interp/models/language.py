"""What does the rest of the package ask of a language model, beside what it asks of any?"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from jaxtyping import Bool, Float, Int
from torch import Tensor

from engram_interp.concepts.batches import Batch, Examples, encode_streams
from engram_interp.concepts.encoding import Encoder
from engram_interp.models import reading
from engram_interp.models.base import Adapter
from engram_interp.models.components import UNEMBED
from engram_interp.models.memory import share_memory
from engram_interp.models.sites import Input, Site, lens_site
from engram_interp.options import Read


class LanguageAdapter(Adapter):
    """A transformer language model in TransformerLens's terms."""

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

    @property
    def W_U(self) -> Float[Tensor, "d_vocab d_model"]:
        """The unembedding, as a matrix `[out in]`."""
        return self.parameter(f"unembed.{UNEMBED}").T

    @abstractmethod
    def block_sites(self, layer: int) -> Iterator[Site]:
        """The matrices of one block whose engram can be taken."""

    def all_sites(self) -> list[Site]:
        """Every weight matrix whose engram can be taken, layer by layer, the unembedding last."""
        blocks = [site for layer in range(self.n_layers) for site in self.block_sites(layer)]
        return [*blocks, lens_site(UNEMBED, None, Input("unembed.in"))]

    def encode(self, groups: Mapping[str, Sequence[Any]], read: Read | None = None) -> dict[str, Examples]:
        """Every example of every group as tokens; see `encode_streams`."""
        return encode_streams(groups, self.encoder, read)

    def can_part(self, key: str, other: Tensor) -> bool:
        """The unembedding may be the embedding: `untie` parts the two."""
        return key == f"unembed.{UNEMBED}" and share_memory(other, self.W_E)

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
        W_U = self.W_U.detach().to(directions)
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
