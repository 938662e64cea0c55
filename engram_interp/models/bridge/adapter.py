"""What does this package ask of a `TransformerBridge`?

Its matrices are in `matrices.py`, the places where their inputs are read in `reading.py`, and its forward passes in
`passes.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from engram_interp.concepts.batches import Batch
from engram_interp.concepts.encoding import Encoder
from engram_interp.models.bridge import matrices, passes
from engram_interp.models.bridge.copying import copied, join_processed_weights
from engram_interp.models.bridge.parts import multiplies, wrapped
from engram_interp.models.bridge.reading import cached_at, hooks, stop_after
from engram_interp.models.experts import refuse_experts
from engram_interp.models.hooks import Record, Watch, hooked, refuse_split_inputs
from engram_interp.models.identity import ModelInfo, identity, processing_of, values_folded
from engram_interp.models.language import LanguageAdapter
from engram_interp.models.lens import TransformerBridge
from engram_interp.models.selection import Unreadable
from engram_interp.models.sites import Input, Site


class TransformerBridgeAdapter(LanguageAdapter):
    """A `transformer_lens.model_bridge.TransformerBridge`, raw or in compatibility mode.

    A copied bridge with processed weights is repaired when an adapter is made for it: its MLPs use their modules'
    tensors again.

    Raises:
        ValueError: if the model's settings change what its matrices multiply.
        NotImplementedError: if the model is not a stack of blocks with an unembedding.
    """

    model: TransformerBridge

    def __init__(self, model: TransformerBridge) -> None:
        super().__init__(model)
        self.cfg = model.cfg
        _refuse_settings(model)
        for block in model.blocks:
            join_processed_weights(block)

    @cached_property
    def info(self) -> ModelInfo:
        """Which model this is, and what was done to its weights."""
        return ModelInfo(_name(str(self.cfg.model_name)), identity(self.W_E), self._processing())

    def _processing(self) -> str:
        if not self.model._weights_processed:
            return "raw"
        values = values_folded(self.all_sites(), self.parameter)
        return processing_of(_folded_norms(self.model), values, self.W_E, self.parameter("unembed.W_U"))

    @property
    def n_layers(self) -> int:
        """Number of blocks."""
        return len(self.model.blocks)

    @property
    def encoder(self) -> Encoder:
        """How the model reads text: its tokenizer, and BOS in front if its configuration says so."""
        prepends = bool(getattr(self.cfg, "default_prepend_bos", True))
        return Encoder(self.model.tokenizer, prepends, self.cfg.d_vocab, self.cfg.n_ctx)

    @property
    def W_E(self) -> Float[Tensor, "d_vocab d_model"]:
        """The embedding."""
        return wrapped(self.model.embed).weight

    def block_sites(self, layer: int) -> Iterator[Site]:
        """The matrices of one block."""
        return matrices.block_sites(self.model, layer)

    @cached_property
    def unreadable(self) -> Unreadable:
        """Components of blocks that are not built of modules that multiply."""
        return matrices.unreadable(self.model)

    def parameter(self, key: str) -> Tensor:
        """A view of the Hugging Face tensor in TransformerLens's shape. Writing into it edits the model.

        Raises:
            ValueError: if the model has no such parameter.
        """
        found = matrices.find(self.model, key)
        if found is None:
            found = self.other_parameters().get(key)
        if found is None:
            raise ValueError(f"{self.info.name!r} has no parameter {key}")
        return found

    def shape(self, site: Site) -> tuple[int, int]:
        """Outputs and inputs of a matrix. An offloaded one is not read for that."""
        return matrices.shape(self.model, site) or super().shape(site)

    def require_editable(self, keys: Collection[str]) -> None:
        """Check that tensors are in memory as they multiply.

        Raises:
            ValueError: if one is offloaded or quantised; it names it.
        """
        for key, why in matrices.not_editable(self.model, keys).items():
            raise ValueError(f"{key} of {self.info.name!r} {why}, so it cannot be edited: load the model whole")

    def untie(self, keys: Collection[str]) -> Callable[[], None]:
        """Give the unembedding, if it is among `keys`, a weight of its own where it is the embedding's."""
        return matrices.untie(self.model) if "unembed.W_U" in keys else lambda: None

    def copy(self) -> nn.Module:
        """A copy that shares nothing with the model. Activations that the model itself keeps lose their graph."""
        return copied(self.model)

    def named_modules(self) -> dict[str, nn.Module]:
        """Every module that may run in a pass, by its path, with Hugging Face's, which a bridge does not count."""
        behind = {f"original_model.{name}": module for name, module in self.model.original_model.named_modules()}
        return dict(self.model.named_modules(remove_duplicate=False)) | behind

    def foreign_hooks(self) -> list[str]:
        """TransformerLens's paths of the modules with somebody else's forward hooks."""
        return [name.replace("._original_component", "") for name in super().foreign_hooks()]

    def run(self, batch: Batch, inputs: Collection[Input], record: Record) -> None:
        """One forward pass up to the block after the last that is asked for, never through the unembedding.

        Raises:
            RuntimeError: if the module that reads an input did not run.
        """
        watch = Watch(inputs, record)
        with hooked([*hooks(self.model, inputs, watch.note), stop_after(self.model, inputs)]):
            self.run_all(batch)
        watch.require_all()

    def run_all(self, batch: Batch) -> None:
        """One forward pass, which a hook may end."""
        passes.forward(self.model, self.info.name, batch)

    def logits(self, batch: Batch) -> Float[Tensor, "batch pos d_vocab"]:
        """Next-token logits at every position."""
        return passes.logits(self.model, self.info.name, batch)

    def final(self, batch: Batch, at: Bool[Tensor, "batch pos"]) -> Float[Tensor, "n d_model"]:
        """What the unembedding reads, at the chosen positions."""
        rows: list[Tensor] = []

        def take(_name: str, activation: Tensor, _routed: None = None) -> None:
            rows.append(activation[at.to(activation.device)])

        self.run(batch, [Input("unembed.in")], take)
        return rows[0]

    def unembed(self, rows: Float[Tensor, "n d_model"]) -> Float[Tensor, "n d_vocab"]:
        """Next-token logits, with whatever scale or cap the model's own forward pass puts on them."""
        return passes.unembed(self.model, rows)

    @property
    def final_gain(self) -> Float[Tensor, "d_model"] | None:
        """The gain of `ln_final`, if it has one; Gemma's is kept as its distance from one."""
        weight = getattr(wrapped(self.model._modules.get("ln_final")), "weight", None)
        return None if weight is None else weight + int(getattr(self.cfg, "rmsnorm_uses_offset", False))

    def next_logits(
        self, tokens: Int[Tensor, "batch pos"], seen: Any = None, mask: Bool[Tensor, "batch total"] | None = None
    ) -> tuple[Float[Tensor, "batch d_vocab"], Any]:
        """Logits of what comes next, and Hugging Face's cache if it holds all that was seen."""
        return passes.next_logits(self.model, self.info.name, tokens, seen, mask)

    @property
    def pads_left(self) -> bool:
        """Whether texts may begin with padding: attention to it is masked, and rotary positions count differences."""
        return (
            getattr(self.cfg, "positional_embedding_type", None) == "rotary" and self.model.adapter.supports_causal_loss
        )

    def cache_names(self, inputs: Collection[Input]) -> list[str]:
        """The activations that `run_with_cache` must keep for these inputs.

        Raises:
            NotImplementedError: if one is an expert's, which no cached activation holds.
        """
        refuse_experts(inputs)
        return [cached_at(self.model, one) for one in inputs]

    def from_cache(self, name: Input, cache: dict[str, Tensor]) -> Float[Tensor, "*batch_pos d"]:
        """One input from a cache, heads side by side."""
        activation = cache[cached_at(self.model, name)]
        return activation.flatten(-2) if name.reads == "attn.z" and activation.dim() == 4 else activation


def _name(name_or_path: str) -> str:
    """A model's name for people. For a folder, it is the last part of the path."""
    return Path(name_or_path).name if Path(name_or_path).is_dir() else name_or_path


def _folded_norms(model: TransformerBridge) -> list[bool]:
    """For every norm that matrices may read, whether its gain is one (Gemma's: zero), and so went into them."""
    unit = 0 if getattr(model.cfg, "rmsnorm_uses_offset", False) else 1
    places = [(model, "ln_final"), *((block, name) for block in model.blocks for name in ("ln1", "ln2"))]
    gains = [getattr(wrapped(place._modules.get(name)), "weight", None) for place, name in places]
    return [bool((gain == unit).all()) for gain in gains if gain is not None]


def _refuse_settings(model: TransformerBridge) -> None:
    name = model.cfg.model_name
    for part in ("embed", "blocks", "unembed"):
        if part not in model._modules:
            raise NotImplementedError(
                f"{name!r} has no {part}: a model must be a language model with embed, blocks and unembed"
            )
    refuse_split_inputs(model)
    if not multiplies(wrapped(model.unembed)):
        raise NotImplementedError(f"the unembedding of {name!r} must be a linear layer with unquantised weights")
