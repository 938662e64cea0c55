"""From which cached activations of a `HookedTransformer` does each input follow?

| input | in a cache |
|---|---|
| `blocks.i.attn.in` (Q, K, V) | `ln1.hook_normalized`, with its gain and bias applied |
| `blocks.i.attn.z` (O) | `attn.hook_z`, heads side by side |
| `blocks.i.mlp.in` (gate, in) | `ln2.hook_normalized`, with its gain and bias applied |
| `blocks.i.mlp.post` (out) | `mlp.hook_post` |
| `unembed.in` (U) | `ln_final.hook_normalized`, with its gain and bias applied |

Without a norm in front of a matrix, its input is the residual stream. No cache holds an expert's input in the order of
its tokens.
"""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.utilities.architectures import POST_NORM_ARCHITECTURES

from engram_interp.models.hooked.matrices import is_shortformer
from engram_interp.models.sites import Input


class Source(NamedTuple):
    """How an input follows from cached activations.

    Attributes:
        path: what stands in front of the hook point: a block or nothing.
        norm: the norm that made the activation; None if none did.
        hook: the hook point there.
        added: the hook points whose activations are added.
    """

    path: str
    norm: str | None
    hook: str
    added: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The hook points' names in a cache."""
        return ".".join(part for part in (self.path, self.norm, self.hook) if part), *self.added

    def of(self, model: HookedTransformer, cache: dict[str, Tensor]) -> Float[Tensor, "*batch_pos d"]:
        """The input, in the dtype of the model."""
        activation = cache[self.names[0]]
        if self.hook == "hook_z":
            return activation.flatten(-2)
        if self.norm is not None:
            activation = _scaled(activation.to(model.cfg.dtype), model, f"{self.path}.{self.norm}".lstrip("."))
        for added in self.added:
            activation = activation + cache[added].to(activation.device)
        return activation


def _scaled(activation: Tensor, model: HookedTransformer, norm: str) -> Tensor:
    """What a norm made, with the norm's gain and bias."""
    gain = dict(model.get_submodule(norm).named_parameters())
    activation = activation * gain["w"].to(activation.device) if "w" in gain else activation
    return activation + gain["b"].to(activation.device) if "b" in gain else activation


def source_of(cfg: HookedTransformerConfig, one: Input) -> Source:
    """Where an input comes from."""
    block = f"blocks.{one.layer}"
    match one.reads:
        case "unembed.in" if cfg.normalization_type is None:
            return Source(f"blocks.{cfg.n_layers - 1}", None, "hook_resid_post")
        case "unembed.in":
            return Source("", "ln_final", "hook_normalized")
        case "attn.z":
            return Source(f"{block}.attn", None, "hook_z")
        case "mlp.post":
            return Source(f"{block}.mlp", None, "hook_post")
        case "mlp.in":
            return _normalized(cfg, block, "ln2", "hook_resid_pre" if cfg.parallel_attn_mlp else "hook_resid_mid")
    positions = ("hook_pos_embed",) if is_shortformer(cfg) and one.reads == "attn.in" else ()
    return _normalized(cfg, block, "ln1", "hook_resid_pre")._replace(added=positions)


def _normalized(cfg: HookedTransformerConfig, block: str, norm: str, residual: str) -> Source:
    if cfg.original_architecture in POST_NORM_ARCHITECTURES or cfg.normalization_type is None:
        return Source(block, None, residual)
    return Source(block, norm, "hook_normalized")
