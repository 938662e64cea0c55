"""Where a `TransformerBridge` keeps its matrices, and what exactly each of them multiplies.

A bridge is a Hugging Face model behind TransformerLens's names. Inputs are read in front of the Hugging Face module
that multiplies, `nn.Linear` or `Conv1D`, not at hook points: some of these go silent in compatibility mode.

| input | read in front of | in a cache |
|---|---|---|
| `blocks.i.attn.in` (Q, K, V) | `attn.q`'s module | `attn.q.hook_in` |
| `blocks.i.attn.z` (O) | `attn.o`'s module | `attn.hook_z` |
| `blocks.i.mlp.in` (gate, in) | `mlp.in`'s module | `mlp.in.hook_in` |
| `blocks.i.mlp.post` (out) | `mlp.out`'s module | `mlp.out.hook_in` |
| `blocks.i.mlp.experts.e.in` (gate, in) | `experts`, the tokens sent to expert `e` | |
| `blocks.i.mlp.experts.e.post` (out) | `experts`, computed as it does | |
| `unembed.in` (U) | `unembed`'s module | `unembed.hook_in` |

A gated MLP with processed weights multiplies without its modules: there `mlp.hook_in` and `mlp.out.hook_in` carry both.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache, cached_property
from importlib.metadata import version
from pathlib import Path
from types import CellType, FunctionType
from typing import Any, cast

import einops
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from engram_interp.concepts.concept import Batch, Encoder
from engram_interp.models.base import (
    HOOK,
    PRE_HOOK,
    Adapter,
    Hook,
    ModelInfo,
    Record,
    Stopped,
    Watch,
    expert_sites,
    hooked,
    identity,
    processing_of,
    refuse_experts,
    refuse_split_inputs,
    share_memory,
)
from engram_interp.models.bridge.experts import expert_weight, experts_hook
from engram_interp.models.bridge.fused import unsplit
from engram_interp.models.bridge.parts import (
    experts_of,
    linears_of,
    multiplies,
    name_prefix,
    unreadable_attention,
    unreadable_mlp,
    wrapped,
)
from engram_interp.models.lens import TransformerBridge
from engram_interp.models.sites import ATTENTION, MLP, UNEMBED, Site, component_of, is_bias

logger = logging.getLogger("engram_interp")

_READERS = {"attn.in": "W_Q", "attn.z": "W_O", "mlp.in": "W_in", "mlp.post": "W_out"}
_CACHED = {
    "attn.in": "attn.q.hook_in",
    "attn.z": "attn.hook_z",
    "mlp.in": "mlp.{}in.hook_in",
    "mlp.post": "mlp.{}out.hook_in",
}
_HEADS_APART = {
    "W_O": "(head d_head) d_model -> head d_head d_model",
    "W_Q": "d_model (head d_head) -> head d_model d_head",
    "b_Q": "(head d_head) -> head d_head",
}
_HEADS_APART |= dict.fromkeys(("W_K", "W_V"), _HEADS_APART["W_Q"])
_HEADS_APART |= dict.fromkeys(("b_K", "b_V"), _HEADS_APART["b_Q"])


class TransformerBridgeAdapter(Adapter):
    """A `transformer_lens.model_bridge.TransformerBridge`, raw or in compatibility mode.

    A copied bridge with processed weights is repaired when it is met: its MLPs use their modules' tensors again.

    Raises:
        ValueError: settings under which the model's activations are not what its matrices multiply.
        NotImplementedError: a model that is not a stack of blocks with an unembedding.
    """

    model: TransformerBridge

    def __init__(self, model: TransformerBridge) -> None:
        super().__init__(model)
        self.cfg = model.cfg
        _refuse_settings(model)
        for block in model.blocks:
            _join_processed_weights(block)

    @cached_property
    def info(self) -> ModelInfo:
        """Which model this is, and what was done to its weights."""
        return ModelInfo(
            name=_name(str(self.cfg.model_name)),
            fingerprint=identity(self.W_E),
            processing=self._processing(self.W_E),
        )

    @property
    def W_E(self) -> Float[Tensor, "d_vocab d_model"]:
        """The embedding."""
        return wrapped(self.model.embed).weight

    def _processing(self, W_E: Tensor) -> str:
        if not self.model._weights_processed:
            return "raw"
        return processing_of(self._folded_norms, self.values_folded, W_E, self.parameter("unembed.W_U"))

    @property
    def _folded_norms(self) -> list[bool]:
        """Of every norm that matrices may read, whether its gain went into them and is one (Gemma's: zero)."""
        unit = 0 if getattr(self.cfg, "rmsnorm_uses_offset", False) else 1
        places = [(self.model, "ln_final"), *((block, name) for block in self.model.blocks for name in ("ln1", "ln2"))]
        gains = [getattr(wrapped(place._modules.get(name)), "weight", None) for place, name in places]
        return [bool((gain == unit).all()) for gain in gains if gain is not None]

    @property
    def n_layers(self) -> int:
        """Number of blocks."""
        return len(self.model.blocks)

    @property
    def encoder(self) -> Encoder:
        """How the model reads text: its tokenizer, and BOS in front if its configuration says so."""
        prepends = bool(getattr(self.cfg, "default_prepend_bos", True))
        return Encoder(self.model.tokenizer, prepends, self.cfg.d_vocab, self.cfg.n_ctx)

    @cached_property
    def unreadable(self) -> Mapping[tuple[str, int], str]:
        """Components of blocks that are not built of the modules in the table above."""
        found: dict[tuple[str, int], str] = {}
        for layer, block in enumerate(self.model.blocks):
            if why := unreadable_attention(block, self.cfg.n_heads, self._d_head):
                found |= {(name, layer): f"layer {layer} {why}" for name in ATTENTION}
            if why := unreadable_mlp(block):
                found |= {(name, layer): f"the MLP of layer {layer} {why}" for name in MLP}
        return found

    def _block_sites(self, layer: int) -> Iterator[Site]:
        block = self.model.blocks[layer]
        for component, linear in (linears_of(block, "attn") | linears_of(block, "mlp")).items():
            place = "attn" if component in ATTENTION else "mlp"
            read = {"W_O": "z", "W_out": "post"}.get(component, "in")
            bias = f"blocks.{layer}.{place}.b_{component.removeprefix('W_')}"
            yield Site(component, layer, f"blocks.{layer}.{place}.{read}", None if linear.bias is None else bias)
        if (experts := experts_of(block)) is not None:
            yield from expert_sites(layer, len(experts.down_proj))

    def parameter(self, key: str) -> Tensor:
        """A view of the Hugging Face tensor in TransformerLens's shape; writing into it edits the model.

        Raises:
            ValueError: the model has no such parameter.
        """
        found = self._find(key)
        if found is None:
            raise ValueError(f"{self.info.name!r} has no parameter {key}")
        return found

    def _find(self, key: str) -> Tensor | None:
        name, component = key.rpartition(".")[2], component_of(key)
        if component == UNEMBED:
            linear: nn.Module | None = wrapped(self.model.unembed)
        else:
            _, layer, place, *inner = key.split(".")
            if int(layer) >= self.n_layers:
                return None
            block = self.model.blocks[int(layer)]
            if inner[0] == "experts":
                return expert_weight(experts_of(block), int(inner[1]), name)
            linear = linears_of(block, place).get(component)
        tensor = getattr(linear, "bias" if is_bias(key) else "weight", None)
        if tensor is None:
            return None
        if not is_bias(key) and not isinstance(linear, Conv1D):
            tensor = tensor.T
        pattern = _HEADS_APART.get(name)
        return tensor if pattern is None else einops.rearrange(tensor, pattern, d_head=self._d_head)

    @property
    def _d_head(self) -> int:
        return int(self.cfg.d_head)

    def named_modules(self) -> dict[str, nn.Module]:
        """Every module that may run in a pass, by its path: Hugging Face's too, which a bridge does not count."""
        behind = {f"original_model.{name}": module for name, module in self.model.original_model.named_modules()}
        return dict(self.model.named_modules(remove_duplicate=False)) | behind

    def foreign_hooks(self) -> list[str]:
        """Where somebody else's forward hooks are, by TransformerLens's paths."""
        return [name.replace("._original_component", "") for name in super().foreign_hooks()]

    def untie(self, keys: Collection[str]) -> Callable[[], None]:
        """Give the unembedding a weight of its own where it is the embedding's."""
        head = wrapped(self.model.unembed)
        tied = head.weight
        if "unembed.W_U" not in keys or not share_memory(tied, self.W_E):
            return lambda: None
        head.weight = nn.Parameter(tied.detach().clone(), requires_grad=tied.requires_grad)

        def tie_again() -> None:
            head.weight = tied

        return tie_again

    def copy(self) -> nn.Module:
        """A copy of the model that shares nothing with it; activations that the model itself keeps lose their graph."""
        for module in _modules(self.model):
            for name, value in vars(module).items():
                # The attention pattern of the last pass is kept with its graph, which cannot be copied.
                if isinstance(value, Tensor) and not value.is_leaf:
                    setattr(module, name, value.detach())
        twin = cast(TransformerBridge, super().copy())
        twins = {id(one): other for one, other in zip(_modules(self.model), _modules(twin), strict=True)}
        for module in twins.values():
            for name, value in vars(module).items():
                if isinstance(value, FunctionType) and value.__closure__:
                    setattr(module, name, _rebound(value, twins))
        return twin

    def hugging_face_parameters(self) -> dict[str, nn.Parameter]:
        """Parameters by the names that Hugging Face gives them, fused ones as they were before the split."""
        named = self.model.original_model.named_parameters(remove_duplicate=False)
        return {name.replace("._original_component", ""): parameter for name, parameter in named}

    def unsplit(self, checkpoint: Collection[nn.Parameter]) -> None:
        """Copy what a fused matrix was split into back to the tensor of the checkpoint that it was split from."""
        for block in self.model.blocks:
            for place, splitter in (("attn", "split_qkv_matrix"), ("mlp", "split_gate_up_matrix")):
                container: Any = block._modules.get(place)
                if hasattr(container, splitter):
                    names = "qkv" if place == "attn" else ("gate", "in")
                    parts = [wrapped(container._modules[name]) for name in names]
                    unsplit(container.original_component, getattr(container, splitter), parts, checkpoint)

    def run(self, batch: Batch, inputs: Collection[str], record: Record) -> None:
        """One forward pass up to the block behind the last that is asked for, never through the unembedding.

        Raises:
            RuntimeError: an input whose module did not run.
        """
        watch = Watch(inputs, record)
        with hooked([*self._hooks(inputs, watch.note), self._stop_after(inputs)]):
            self._pass(batch)
        watch.require_all()

    def final(self, batch: Batch, at: Bool[Tensor, "batch pos"]) -> Float[Tensor, "n d_model"]:
        """What the unembedding reads, at the chosen positions."""
        rows: list[Tensor] = []

        def take(_name: str, activation: Tensor, _routed: None = None) -> None:
            rows.append(activation[at.to(activation.device)])

        self.run(batch, ["unembed.in"], take)
        return rows[0]

    @torch.no_grad()
    def next_logits(
        self, tokens: Int[Tensor, "batch pos"], seen: Any = None
    ) -> tuple[Float[Tensor, "batch d_vocab"], Any]:
        """Logits of what comes next, and Hugging Face's cache of what was seen, where it holds all of that.

        Between some releases of transformers and TransformerLens the cache comes back empty.
        """
        n_before = 0 if seen is None else seen.get_seq_length()
        options: dict[str, Any] = {} if seen is None else {"past_key_values": seen}
        with _without_dropout(self.model), warnings.catch_warnings():
            # TransformerLens hands the cache on under the name that it had before transformers 5.24.
            warnings.filterwarnings("ignore", "`past_key_values` is deprecated", FutureWarning)
            logits, cache = self.model(
                tokens.to(self._device), use_cache=True, return_type="logits_and_cache", **options
            )
        if _length(cache) == n_before + tokens.shape[1]:
            return logits[:, -1], cache
        if n_before:
            raise RuntimeError(
                f"the cache of {self.info.name!r} holds {_length(cache)} tokens, where {n_before} and then "
                f"{tokens.shape[1]} were seen"
            )
        _say_that_nothing_is_kept()
        return logits[:, -1], None

    @torch.no_grad()
    def unembed(self, rows: Float[Tensor, "n d_model"]) -> Float[Tensor, "n d_vocab"]:
        """Next-token logits, with whatever scale or cap the model's own forward pass puts on them.

        The model runs over a single token, and its unembedding reads the rows in place of that token's.
        """

        def replace(_module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any]) -> Any:
            return (rows[None].to(args[0].device), *args[1:]), kwargs

        with hooked([(self.model.unembed, replace, PRE_HOOK)]), _without_dropout(self.model):
            return self.model(torch.zeros(1, 1, dtype=torch.long, device=self._device))[0]

    @property
    def _device(self) -> torch.device:
        return wrapped(self.model.embed).weight.device

    @torch.no_grad()
    def _pass(self, batch: Batch) -> None:
        # Padding is on the right, where causal attention keeps it from what counts: a mask would change nothing, and
        # makes TransformerLens's bridge of the first GPT attend to what comes after.
        mask = None if self.model.adapter.supports_causal_loss else batch.attention_mask.long().to(self._device)
        if type(self.model.original_model).__name__.endswith("ForMaskedLM") and not batch.attention_mask.all():
            raise ValueError(
                f"{self.info.name!r} attends in both directions, so padding would reach the tokens that count: give "
                f"examples of one length, or batch_size=1"
            )
        with suppress(Stopped), _without_dropout(self.model):
            # No use_cache=False, although nothing is generated: OLMo-2 in bf16 runs with its cache only.
            self.model(batch.tokens.to(self._device), return_type=None, attention_mask=mask)

    def _stop_after(self, inputs: Collection[str]) -> Hook:
        behind = self._blocks_needed(inputs)
        # The unembedding's own module stands behind the hook that reads its input.
        stop = self.model.blocks[behind] if behind < self.n_layers else wrapped(self.model.unembed)

        def end(*_: object) -> None:
            raise Stopped

        return stop, end, PRE_HOOK

    def _hooks(self, inputs: Collection[str], note: Record) -> Iterator[Hook]:
        """The hooks that hand inputs on."""
        experts: dict[int, set[str]] = {}
        for name in inputs:
            if name == "unembed.in":
                yield _pre_hook(wrapped(self.model.unembed), name, note)
                continue
            layer, kind = int(name.split(".")[1]), name.split(".", 2)[2]
            if kind.startswith("mlp.experts."):
                experts.setdefault(layer, set()).add(name)
            else:
                yield _hook(self.model.blocks[layer], name, kind, note)
        for layer, names in experts.items():
            yield experts_hook(experts_of(self.model.blocks[layer]), layer, names, note)

    def cache_names(self, inputs: Collection[str]) -> list[str]:
        """The activations that `run_with_cache` must keep for these inputs.

        Raises:
            NotImplementedError: an expert's input, which no cached activation holds.
        """
        refuse_experts(inputs)
        return [self._cached_at(name) for name in inputs]

    def _cached_at(self, name: str) -> str:
        if name == "unembed.in":
            return "unembed.hook_in"
        layer, kind = name.split(".", 2)[1:]
        if kind == "mlp.in" and _multiplies_by_itself(self.model.blocks[int(layer)]):
            return f"blocks.{layer}.mlp.hook_in"
        return f"blocks.{layer}.{_CACHED[kind].format(name_prefix(self.model.blocks[int(layer)]._modules.get('mlp')))}"

    def from_cache(self, name: str, cache: dict[str, Tensor]) -> Float[Tensor, "*batch_pos d"]:
        """One input from a cache, heads side by side."""
        activation = cache[self._cached_at(name)]
        return activation.flatten(-2) if name.endswith("attn.z") and activation.dim() == 4 else activation


def _length(seen: Any) -> int:
    """How many tokens Hugging Face's cache holds."""
    return 0 if seen is None else int(seen.get_seq_length())


@cache
def _say_that_nothing_is_kept() -> None:
    """Warn, once."""
    logger.warning(
        "transformers %s and transformer-lens %s lose the key/value cache between them: answers are right, and every "
        "token of them is computed from the start", version("transformers"), version("transformer-lens"),
    )  # fmt: skip


def _modules(model: TransformerBridge) -> list[nn.Module]:
    """A bridge's modules and its Hugging Face model's, which it does not count among its own."""
    return list(dict.fromkeys([*model.modules(), *model.original_model.modules()]))


@contextmanager
def _without_dropout(model: TransformerBridge) -> Iterator[None]:
    """Evaluation mode for the length of the block: a bridge around a model made in memory starts in training mode."""
    training = [module for module in _modules(model) if module.training]
    try:
        for module in training:
            module.training = False
        yield
    finally:
        for module in training:
            module.training = True


def _rebound(function: FunctionType, twins: Mapping[int, nn.Module]) -> FunctionType:
    """A function with the modules it closes over replaced.

    TransformerLens gives some modules a `forward` of their own (Falcon's linear layers), which a copy would share with
    the original, and so run with the original's weights.
    """
    held = [cell.cell_contents for cell in function.__closure__ or ()]
    cells = tuple(CellType(twins.get(id(one), one)) for one in held)
    rebound = FunctionType(function.__code__, function.__globals__, function.__name__, function.__defaults__, cells)
    rebound.__kwdefaults__ = function.__kwdefaults__
    return rebound


def _name(name_or_path: str) -> str:
    """A model's name for people, of a folder its last part."""
    return Path(name_or_path).name if Path(name_or_path).is_dir() else name_or_path


def _multiplies_by_itself(block: nn.Module) -> bool:
    """Whether a block's gated MLP multiplies by its processed weights without its modules."""
    return bool(getattr(block._modules.get("mlp"), "_use_processed_weights", False))


def _join_processed_weights(block: nn.Module) -> None:
    """Make a gated MLP multiply by its modules' own tensors, which a copied bridge has beside its processed ones."""
    if not _multiplies_by_itself(block):
        return
    mlp: Any = block._modules["mlp"]
    for component, linear in linears_of(block, "mlp").items():
        for kind in ("W", "b"):
            tensor = linear.weight if kind == "W" else linear.bias
            if tensor is not None:
                setattr(mlp, f"_processed_{kind}_{component.removeprefix('W_')}", tensor.data)


def _pre_hook(module: nn.Module, name: str, note: Record) -> Hook:
    return module, lambda _m, args, _kwargs: note(name, args[0]), PRE_HOOK


def _hook(block: nn.Module, name: str, kind: str, note: Record) -> Hook:
    place, _, _ = kind.partition(".")
    container: Any = block._modules[place]
    if place == "mlp" and _multiplies_by_itself(block):
        point = container.hook_in if kind == "mlp.in" else container.out.hook_in
        return point, lambda _m, _args, activation: note(name, activation), HOOK
    return _pre_hook(linears_of(block, place)[_READERS[kind]], name, note)


def _refuse_settings(model: TransformerBridge) -> None:
    name = model.cfg.model_name
    for part in ("embed", "blocks", "unembed"):
        if part not in model._modules:
            raise NotImplementedError(f"{name!r} has no {part}: only language models that are one stack of blocks do")
    refuse_split_inputs(model)
    if not multiplies(wrapped(model.unembed)):
        raise NotImplementedError(f"the unembedding of {name!r} is not a linear layer")
