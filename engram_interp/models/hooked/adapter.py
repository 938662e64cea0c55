"""What does this package ask of a `HookedTransformer`?

Its matrices are in `matrices.py`, the places where their inputs are read in `reading.py`, and the cached activations
that these inputs follow from in `caches.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache

from engram_interp.concepts.batches import Batch
from engram_interp.concepts.encoding import Encoder
from engram_interp.models.experts import refuse_experts
from engram_interp.models.hooked import matrices
from engram_interp.models.hooked.caches import source_of
from engram_interp.models.hooked.reading import hooks
from engram_interp.models.hooks import Record, Watch, blocks_needed, hooked, refuse_split_inputs
from engram_interp.models.identity import ModelInfo, identity, processing_of, values_folded
from engram_interp.models.language import LanguageAdapter
from engram_interp.models.selection import Unreadable
from engram_interp.models.sites import Input, Site


class HookedTransformerAdapter(LanguageAdapter):
    """A `transformer_lens.HookedTransformer`, with or without weight processing.

    Raises:
        ValueError: if the model's settings change what its matrices multiply, quantise them, or name another device.
    """

    model: HookedTransformer

    def __init__(self, model: HookedTransformer) -> None:
        super().__init__(model)
        self.cfg = model.cfg
        _refuse_settings(model)

    @cached_property
    def info(self) -> ModelInfo:
        """Which model this is, and what was done to its weights."""
        folded = (self.cfg.normalization_type or "").endswith("Pre")
        values = values_folded(self.all_sites(), self.parameter)
        processing = processing_of([folded], values, self.W_E, self.parameter("unembed.W_U"))
        return ModelInfo(self.cfg.model_name, identity(self.W_E), processing)

    @property
    def n_layers(self) -> int:
        """Number of blocks."""
        return self.cfg.n_layers

    @property
    def encoder(self) -> Encoder:
        """How the model reads text: its tokenizer, and BOS in front if its configuration says so."""
        return Encoder(self.model.tokenizer, self.cfg.default_prepend_bos, self.cfg.d_vocab, self.cfg.n_ctx)

    @property
    def W_E(self) -> Float[Tensor, "d_vocab d_model"]:
        """The embedding."""
        return self.parameter("embed.W_E")

    def block_sites(self, layer: int) -> Iterator[Site]:
        """The matrices of one block."""
        return matrices.block_sites(self.cfg, layer)

    @cached_property
    def unreadable(self) -> Unreadable:
        """Nothing: the input of every matrix of this class can be read."""
        return {}

    def parameter(self, key: str) -> Tensor:
        """The parameter at a path. An expert's is transposed to TransformerLens's shape.

        Raises:
            ValueError: if the model has no such parameter.
        """
        return matrices.parameter(self.model, key)

    def untie(self, keys: Collection[str]) -> Callable[[], None]:
        """Give the unembedding, if it is among `keys`, a weight of its own where somebody made it the embedding's."""
        return matrices.untie(self.model) if "unembed.W_U" in keys else lambda: None

    def run(self, batch: Batch, inputs: Collection[Input], record: Record) -> None:
        """One forward pass up to the last block that is asked for, never through the unembedding.

        Raises:
            RuntimeError: if the module that reads an input did not run.
        """
        watch = Watch(inputs, record)
        in_blocks = [one for one in inputs if one.layer is not None]
        with hooked(hook for one in in_blocks for hook in hooks(self.model, one, watch.note)):
            residual = self._residual(batch, blocks_needed(inputs, self.n_layers))
        for one in inputs:
            if one.layer is None:
                watch.note(one, self._final_norm(residual))
        watch.require_all()

    def run_all(self, batch: Batch) -> None:
        """One forward pass through all blocks and the final norm."""
        self._final_norm(self._residual(batch, self.n_layers))

    def logits(self, batch: Batch) -> Float[Tensor, "batch pos d_vocab"]:
        """Next-token logits at every position."""
        _refuse_padding(self.cfg, batch)
        return self.model(batch.tokens.to(self.cfg.device), attention_mask=batch.attention_mask.long())

    def final(self, batch: Batch, at: Bool[Tensor, "batch pos"]) -> Float[Tensor, "n d_model"]:
        """The last residual stream after its norm, at the chosen positions."""
        residual = self._residual(batch, self.n_layers)
        return self._final_norm(residual[at.to(residual.device)][None])[0]

    @torch.no_grad()
    def unembed(self, rows: Float[Tensor, "n d_model"]) -> Float[Tensor, "n d_vocab"]:
        """Next-token logits from rows of `final`, with a soft cap if the model has one."""
        logits = self.model.unembed(rows[None])[0]
        cap = self.cfg.output_logits_soft_cap
        return cap * torch.tanh(logits / cap) if cap > 0 else logits

    @property
    def final_gain(self) -> Float[Tensor, "d_model"] | None:
        """The gain of `ln_final`, if it has one."""
        return getattr(getattr(self.model, "ln_final", None), "w", None)

    @torch.no_grad()
    def next_logits(
        self, tokens: Int[Tensor, "batch pos"], seen: Any = None, mask: Bool[Tensor, "batch total"] | None = None
    ) -> tuple[Float[Tensor, "batch d_vocab"], Any]:
        """Logits of what comes next, and the keys and values so far.

        Raises:
            ValueError: if the model's tokens attend to those after them, or some are not real.
        """
        if mask is not None and not mask.all():
            raise ValueError("a HookedTransformer takes texts of one length here; got a mask with padding")
        if self.cfg.attention_dir != "causal":
            raise ValueError(f"{self.cfg.model_name!r} attends in both directions: it does not write token by token")
        seen = seen or TransformerLensKeyValueCache.init_cache(self.cfg, self.cfg.device, len(tokens))
        logits = self.model(tokens, past_kv_cache=seen, attention_mask=torch.ones_like(tokens))
        return logits[:, -1], seen

    def cache_names(self, inputs: Collection[Input]) -> list[str]:
        """The activations that `run_with_cache` must keep for these inputs.

        Raises:
            NotImplementedError: if one is an expert's: no cached activation holds it in the order of its tokens.
        """
        refuse_experts(inputs)
        return list(dict.fromkeys(name for one in inputs for name in source_of(self.cfg, one).names))

    def from_cache(self, name: Input, cache: dict[str, Tensor]) -> Float[Tensor, "*batch_pos d"]:
        """One input, computed from a cache."""
        return source_of(self.cfg, name).of(self.model, cache)

    @torch.no_grad()
    def _residual(self, batch: Batch, n_blocks: int) -> Float[Tensor, "batch pos d_model"]:
        _refuse_padding(self.cfg, batch)
        return self.model(
            batch.tokens.to(self.cfg.device),
            return_type=None,
            stop_at_layer=n_blocks,
            attention_mask=batch.attention_mask.long(),
        )

    @torch.no_grad()
    def _final_norm(self, residual: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        return residual if self.cfg.normalization_type is None else self.model.ln_final(residual)


def _refuse_padding(cfg: HookedTransformerConfig, batch: Batch) -> None:
    if cfg.attention_dir != "causal" and not batch.attention_mask.all():
        raise ValueError(
            f"{cfg.model_name!r} attends in both directions, so padding would reach the tokens that count: give "
            f"examples of one length"
        )


def _refuse_settings(model: HookedTransformer) -> None:
    cfg = model.cfg
    refuse_split_inputs(model)
    if cfg.load_in_4bit:
        raise ValueError(
            "load_in_4bit must be off, since no engram can be taken from 4-bit weights: load it unquantised"
        )
    parameter = next(model.parameters())
    if parameter.device.type != torch.device(cfg.device or "cpu").type:
        raise ValueError(
            f"model.cfg.device is {cfg.device!r}, but its parameters are on {str(parameter.device)!r}: "
            f"move the model with model.to({cfg.device!r})"
        )
