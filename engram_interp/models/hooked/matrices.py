"""Which matrices does a `HookedTransformer` have, what does each read, and which parameter holds it?"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import Tensor, nn
from transformer_lens import HookedTransformer, HookedTransformerConfig

from engram_interp.models.components import ATTENTION, MLP
from engram_interp.models.experts import expert_sites
from engram_interp.models.memory import share_memory
from engram_interp.models.sites import Input, Site, expert_of, lens_site

_READS = {"W_O": "attn.z", "W_out": "mlp.post", "W_gate": "mlp.in", "W_in": "mlp.in"}
_GROUPED = {"W_K": "_W_K", "W_V": "_W_V", "b_K": "_b_K", "b_V": "_b_V"}


def is_shortformer(cfg: HookedTransformerConfig) -> bool:
    """Whether Q and K read positions that V does not read."""
    return cfg.positional_embedding_type == "shortformer"


def block_sites(cfg: HookedTransformerConfig, layer: int) -> Iterator[Site]:
    """The matrices of one block."""
    for component in (*ATTENTION, *_dense_mlp(cfg)):
        yield lens_site(component, layer, Input(_reads(cfg, component), layer), has_bias=_has_bias(cfg, component))
    if cfg.num_experts and not cfg.attn_only:
        yield from expert_sites(layer, cfg.num_experts)


def _dense_mlp(cfg: HookedTransformerConfig) -> tuple[str, ...]:
    if cfg.attn_only or cfg.num_experts:
        return ()
    return MLP if cfg.gated_mlp else ("W_in", "W_out")


def _reads(cfg: HookedTransformerConfig, component: str) -> str:
    if component == "W_V" and is_shortformer(cfg):
        return "attn.v_in"
    return _READS.get(component, "attn.in")


def _has_bias(cfg: HookedTransformerConfig, component: str) -> bool:
    # A gated MLP adds b_in after the product with the gate: it is part of W_out's input, not W_in's bias.
    return component != "W_gate" and not (component == "W_in" and cfg.gated_mlp)


def parameter(model: HookedTransformer, key: str) -> Tensor:
    """The parameter at a path. An expert's is transposed to TransformerLens's shape.

    With grouped queries, `W_K` is the stored `_W_K`, not its repeated copy.

    Raises:
        ValueError: if the model has no such parameter.
    """
    path, _, name = key.rpartition(".")
    if model.cfg.n_key_value_heads is not None:
        name = _GROUPED.get(name, name)
    try:
        if expert_of(key) is not None:
            return model.get_parameter(f"{path}.{name}.weight").T
        return model.get_parameter(f"{path}.{name}")
    except AttributeError as error:
        raise ValueError(f"{model.cfg.model_name!r} has no parameter {key}") from error


def untie(model: HookedTransformer) -> Callable[[], None]:
    """Give the unembedding a weight of its own if somebody made it the embedding's.

    Returns:
        A function that ties the two again.
    """
    unembed = model.unembed
    tied = unembed.W_U
    if not share_memory(tied, model.embed.W_E):
        return lambda: None
    unembed.W_U = nn.Parameter(tied.detach().clone(), requires_grad=tied.requires_grad)

    def tie_again() -> None:
        unembed.W_U = tied

    return tie_again
