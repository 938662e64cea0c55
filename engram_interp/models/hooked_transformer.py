"""Where a `HookedTransformer` keeps its matrices, and what exactly each of them multiplies.

Inputs are read in front of the modules that multiply, not at the hook points whose names suggest them:
`ln1.hook_normalized` lacks the norm's gain unless the norm is folded, `hook_mlp_in` and `hook_q_input` lie before it.

| input | read at | in a cache |
|---|---|---|
| `blocks.i.attn.in` (Q, K, V) | pre-hook of `blocks[i].attn` | `ln1.hook_normalized`, its gain and bias applied |
| `blocks.i.attn.z` (O) | output of `attn.hook_z`, heads side by side | `attn.hook_z` |
| `blocks.i.mlp.in` (gate, in) | pre-hook of `blocks[i].mlp` | `ln2.hook_normalized`, its gain and bias applied |
| `blocks.i.mlp.post` (out) | output of `mlp.hook_post` | `mlp.hook_post` |
| `blocks.i.mlp.experts.e.in` (gate, in) | pre-hook of `mlp.experts[e]` | |
| `blocks.i.mlp.experts.e.post` (out) | output of `mlp.experts[e].hook_post` | |
| `unembed.in` (U) | `ln_final` of the last residual stream | `ln_final.hook_normalized`, its gain and bias applied |

Shortformer models add positions to what Q and K read, not to what V reads: there V has `blocks.i.attn.v_in`. An expert
reads the tokens that `mlp.hook_expert_indices` sends to it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformer_lens import HookedTransformer
from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache
from transformer_lens.utilities.architectures import POST_NORM_ARCHITECTURES

from engram_interp.concepts.concept import Batch, Encoder
from engram_interp.models.base import (
    HOOK,
    PRE_HOOK,
    Adapter,
    Hook,
    ModelInfo,
    Record,
    Watch,
    expert_sites,
    hooked,
    identity,
    processing_of,
    refuse_experts,
    refuse_split_inputs,
    share_memory,
)
from engram_interp.models.sites import ATTENTION, MLP, Site

_GROUPED = {"W_K": "_W_K", "W_V": "_W_V", "b_K": "_b_K", "b_V": "_b_V"}


class HookedTransformerAdapter(Adapter):
    """A `transformer_lens.HookedTransformer`, with or without weight processing.

    Raises:
        ValueError: settings under which the model's activations are not what its matrices multiply.
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
        return ModelInfo(
            name=self.cfg.model_name,
            fingerprint=identity(self.W_E),
            processing=processing_of([folded], self.values_folded, self.W_E, self.parameter("unembed.W_U")),
        )

    @property
    def n_layers(self) -> int:
        """Number of blocks."""
        return self.cfg.n_layers

    @property
    def encoder(self) -> Encoder:
        """How the model reads text: its tokenizer, and BOS in front if its configuration says so."""
        return Encoder(self.model.tokenizer, self.cfg.default_prepend_bos, self.cfg.d_vocab, self.cfg.n_ctx)

    @cached_property
    def unreadable(self) -> Mapping[tuple[str, int], str]:
        """Nothing: every matrix of this class has its input."""
        return {}

    def _block_sites(self, layer: int) -> Iterator[Site]:
        for component in ATTENTION:
            yield Site(component, layer, self._input(component, layer), self._bias(component, layer))
        if self.cfg.attn_only:
            return
        if self.cfg.num_experts:
            yield from expert_sites(layer, self.cfg.num_experts)
            return
        for component in MLP if self.cfg.gated_mlp else ("W_in", "W_out"):
            yield Site(component, layer, self._input(component, layer), self._bias(component, layer))

    def _input(self, component: str, layer: int) -> str:
        if component == "W_V" and self._shortformer:
            return f"blocks.{layer}.attn.v_in"
        kind = {"W_O": "attn.z", "W_out": "mlp.post", "W_gate": "mlp.in", "W_in": "mlp.in"}.get(component, "attn.in")
        return f"blocks.{layer}.{kind}"

    def _bias(self, component: str, layer: int) -> str | None:
        # A gated MLP adds b_in after the product with the gate: it is part of W_out's input, not W_in's bias.
        if component == "W_gate" or (component == "W_in" and self.cfg.gated_mlp):
            return None
        return f"blocks.{layer}.{'attn' if component in ATTENTION else 'mlp'}.b_{component.removeprefix('W_')}"

    @property
    def _shortformer(self) -> bool:
        return self.cfg.positional_embedding_type == "shortformer"

    def parameter(self, key: str) -> Tensor:
        """The parameter at a path, an expert's transposed to TransformerLens's shape.

        Under grouped queries `W_K` is the stored `_W_K`, not its repeated copy.

        Raises:
            ValueError: the model has no such parameter.
        """
        path, _, name = key.rpartition(".")
        if self.cfg.n_key_value_heads is not None:
            name = _GROUPED.get(name, name)
        try:
            if ".experts." in path:
                return self.model.get_parameter(f"{path}.{name}.weight").T
            return self.model.get_parameter(f"{path}.{name}")
        except AttributeError as error:
            raise ValueError(f"{self.cfg.model_name!r} has no parameter {key}") from error

    @property
    def W_E(self) -> Float[Tensor, "d_vocab d_model"]:
        """The embedding."""
        return self.parameter("embed.W_E")

    def untie(self, keys: Collection[str]) -> Callable[[], None]:
        """Give the unembedding a weight of its own where somebody made it the embedding's."""
        unembed = self.model.unembed
        tied = unembed.W_U
        if "unembed.W_U" not in keys or not share_memory(tied, self.W_E):
            return lambda: None
        unembed.W_U = nn.Parameter(tied.detach().clone(), requires_grad=tied.requires_grad)

        def tie_again() -> None:
            unembed.W_U = tied

        return tie_again

    def run(self, batch: Batch, inputs: Collection[str], record: Record) -> None:
        """One forward pass up to the last block that is asked for, never through the unembedding.

        Raises:
            RuntimeError: an input whose module did not run.
        """
        watch = Watch(inputs, record)
        with hooked(hook for name in inputs if name != "unembed.in" for hook in self._hooks(name, watch.note)):
            residual = self._residual(batch, self._blocks_needed(inputs))
        if "unembed.in" in inputs:
            watch.note("unembed.in", self._final_norm(residual))
        watch.require_all()

    def final(self, batch: Batch, at: Bool[Tensor, "batch pos"]) -> Float[Tensor, "n d_model"]:
        """The last residual stream behind its norm, at the chosen positions."""
        residual = self._residual(batch, self.n_layers)
        return self._final_norm(residual[at.to(residual.device)][None])[0]

    @torch.no_grad()
    def next_logits(
        self, tokens: Int[Tensor, "batch pos"], seen: Any = None
    ) -> tuple[Float[Tensor, "batch d_vocab"], Any]:
        """Logits of what comes next, and the keys and values so far.

        Raises:
            ValueError: a model whose tokens look at those after them.
        """
        if self.cfg.attention_dir != "causal":
            raise ValueError(f"{self.cfg.model_name!r} attends in both directions: it does not write token by token")
        seen = seen or TransformerLensKeyValueCache.init_cache(self.cfg, self.cfg.device, len(tokens))
        logits = self.model(tokens, past_kv_cache=seen, attention_mask=torch.ones_like(tokens))
        return logits[:, -1], seen

    @torch.no_grad()
    def unembed(self, rows: Float[Tensor, "n d_model"]) -> Float[Tensor, "n d_vocab"]:
        """Next-token logits from rows of `final`, soft-capped where the model caps them."""
        logits = self.model.unembed(rows[None])[0]
        cap = self.cfg.output_logits_soft_cap
        return cap * torch.tanh(logits / cap) if cap > 0 else logits

    @torch.no_grad()
    def _pass(self, batch: Batch) -> None:
        self._final_norm(self._residual(batch, self.n_layers))

    @torch.no_grad()
    def _residual(self, batch: Batch, n_blocks: int) -> Float[Tensor, "batch pos d_model"]:
        if self.cfg.attention_dir != "causal" and not batch.attention_mask.all():
            raise ValueError(
                f"{self.cfg.model_name!r} attends in both directions, so padding would reach the tokens that count: "
                f"give examples of one length"
            )
        return self.model(
            batch.tokens.to(self.cfg.device),
            return_type=None,
            stop_at_layer=n_blocks,
            attention_mask=batch.attention_mask.long(),
        )

    @torch.no_grad()
    def _final_norm(self, residual: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        return residual if self.cfg.normalization_type is None else self.model.ln_final(residual)

    def _hooks(self, name: str, note: Record) -> Iterator[Hook]:
        """The hooks that hand an input on."""
        path, kind = _split_input(name)
        block = self.model.get_submodule(path)
        if kind.startswith("mlp.experts."):
            yield from self._expert_hooks(block.get_submodule("mlp"), name, note)
        elif kind in ("attn.in", "attn.v_in"):
            argument = "query_input" if kind == "attn.in" else "value_input"
            yield block.get_submodule("attn"), lambda _m, _args, kwargs: note(name, kwargs[argument]), PRE_HOOK
        elif kind == "attn.z":
            yield block.get_submodule("attn.hook_z"), lambda _m, _args, z: note(name, z.flatten(-2)), HOOK
        elif kind == "mlp.in":
            yield block.get_submodule("mlp"), lambda _m, args, _kwargs: note(name, args[0]), PRE_HOOK
        else:
            yield block.get_submodule("mlp.hook_post"), lambda _m, _args, post: note(name, post), HOOK

    def _expert_hooks(self, mlp: nn.Module, name: str, note: Record) -> Iterator[Hook]:
        """Which tokens are sent to an expert, then what it reads of them; they keep the order of `torch.where`."""
        expert, read = name.split(".")[4:]
        sent: list[Tensor] = []

        def route(_module: nn.Module, _args: object, indices: Tensor) -> None:
            sent[:] = [(indices == int(expert)).T.nonzero()[:, 1]]

        yield mlp.get_submodule("hook_expert_indices"), route, HOOK
        module = mlp.get_submodule(f"experts.{expert}")
        if read == "in":
            yield module, lambda _m, args, _kwargs: note(name, args[0], sent[0]), PRE_HOOK
        else:
            yield module.get_submodule("hook_post"), lambda _m, _args, post: note(name, post, sent[0]), HOOK

    def cache_names(self, inputs: Collection[str]) -> list[str]:
        """The activations that `run_with_cache` must keep for these inputs.

        Raises:
            NotImplementedError: an expert's input, which no cached activation holds in the order of its tokens.
        """
        refuse_experts(inputs)
        return list(dict.fromkeys(hook for name in inputs for hook in self._cached_at(name)))

    def _cached_at(self, name: str) -> tuple[str, ...]:
        """The hook point that an input is rebuilt from, then those that are added to it."""
        if name == "unembed.in":
            unnormalized = f"blocks.{self.n_layers - 1}.hook_resid_post"
            return (unnormalized if self.cfg.normalization_type is None else "ln_final.hook_normalized",)
        block, kind = _split_input(name)
        match kind:
            case "attn.z":
                return (f"{block}.attn.hook_z",)
            case "mlp.post":
                return (f"{block}.mlp.hook_post",)
            case "mlp.in":
                unnormalized = "hook_resid_pre" if self.cfg.parallel_attn_mlp else "hook_resid_mid"
                return (self._normalized_at(block, "ln2", unnormalized),)
        positions = ("hook_pos_embed",) if self._shortformer and kind == "attn.in" else ()
        return (self._normalized_at(block, "ln1", "hook_resid_pre"), *positions)

    def _normalized_at(self, block: str, norm: str, unnormalized: str) -> str:
        post_norm = self.cfg.original_architecture in POST_NORM_ARCHITECTURES
        if post_norm or self.cfg.normalization_type is None:
            return f"{block}.{unnormalized}"
        return f"{block}.{norm}.hook_normalized"

    def from_cache(self, name: str, cache: dict[str, Tensor]) -> Float[Tensor, "*batch_pos d"]:
        """One input rebuilt from a cache: what the norm made, as its gain and bias and the model's dtype leave it."""
        hook, *positions = self._cached_at(name)
        activation = cache[hook]
        if hook.endswith("hook_z"):
            return activation.flatten(-2)
        if hook.endswith("hook_normalized"):
            norm = self.model.get_submodule(hook.removesuffix(".hook_normalized"))
            gain = dict(norm.named_parameters())
            activation = activation.to(self.cfg.dtype)
            activation = activation * gain["w"].to(activation.device) if "w" in gain else activation
            activation = activation + gain["b"].to(activation.device) if "b" in gain else activation
        for added in positions:
            activation = activation + cache[added].to(activation.device)
        return activation


def _split_input(name: str) -> tuple[str, str]:
    """`blocks.3.attn.in` as `blocks.3` and `attn.in`."""
    blocks, layer, kind = name.split(".", 2)
    return f"{blocks}.{layer}", kind


def _refuse_settings(model: HookedTransformer) -> None:
    cfg = model.cfg
    refuse_split_inputs(model)
    if cfg.load_in_4bit:
        raise ValueError("the weights are quantised to 4 bits, which no engram can be cut from: load it unquantised")
    parameter = next(model.parameters())
    if parameter.device.type != torch.device(cfg.device or "cpu").type:
        raise ValueError(
            f"model.cfg.device is {cfg.device!r}, but its parameters are on {str(parameter.device)!r}: "
            f"move the model with model.to({cfg.device!r})"
        )
