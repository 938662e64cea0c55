"""Tiny random Hugging Face models of many families, and every module's engram by brute force.

The names of a family's modules, and how it fuses matrices, are taken from Hugging Face's modelling code. Nothing here
uses TransformerLens or this package's own formulas.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import einops
import torch
import transformers
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from engram_interp.testbed.model import TOKENIZER

SPECIAL = dict(bos_token_id=1, eos_token_id=2, pad_token_id=0)
SIZES = dict(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, vocab_size=60,
    max_position_embeddings=32, **SPECIAL,
)  # fmt: skip
GPT_SIZES = dict(n_embd=32, n_layer=2, n_head=4, n_inner=48, vocab_size=60, n_positions=32, **SPECIAL)
GROUPED = dict(**SIZES, num_key_value_heads=2)
FAMILIES: dict[str, tuple[str, dict]] = {
    "GPT-2": ("GPT2Config", GPT_SIZES),
    "GPT-J": ("GPTJConfig", dict(**GPT_SIZES, rotary_dim=4)),
    "GPT-NeoX": ("GPTNeoXConfig", SIZES),
    "OPT": ("OPTConfig", {**SIZES, "ffn_dim": 48, "word_embed_proj_dim": 32}),
    "BLOOM": ("BloomConfig", dict(hidden_size=32, n_layer=2, n_head=4, vocab_size=60, **SPECIAL)),
    "Llama": ("LlamaConfig", GROUPED),
    "Mistral": ("MistralConfig", dict(**GROUPED, head_dim=8)),
    "Qwen2": ("Qwen2Config", GROUPED),
    "Qwen3": ("Qwen3Config", dict(**GROUPED, head_dim=16)),
    "Gemma": ("GemmaConfig", dict(**SIZES, num_key_value_heads=1, head_dim=8)),
    "Gemma-2": ("Gemma2Config", dict(**GROUPED, head_dim=8, query_pre_attn_scalar=8)),
    "Phi": ("PhiConfig", SIZES),
    "Phi-3": ("Phi3Config", GROUPED),
    "OLMo-2": ("Olmo2Config", GROUPED),
    "StableLM": ("StableLmConfig", GROUPED),
    "Falcon": ("FalconConfig", dict(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, ffn_hidden_size=48, vocab_size=60, **SPECIAL,
    )),
    "Mixtral": ("MixtralConfig", dict(**GROUPED, num_local_experts=4)),
}  # fmt: skip
DENSE = [family for family in FAMILIES if family != "Mixtral"]
# TransformerLens 3.9 turns these into a HookedTransformer without the hub, GPT-2 with a configuration written by hand.
HOOKED = ["GPT-2", "GPT-NeoX", "OPT", "BLOOM", "Llama", "Mistral", "Qwen2", "Qwen3", "Phi-3", "Mixtral"]

_MODULES = {
    "q_proj": "W_Q", "k_proj": "W_K", "v_proj": "W_V", "o_proj": "W_O", "out_proj": "W_O", "attn.c_proj": "W_O",
    "attention.dense": "W_O", "self_attention.dense": "W_O", "self_attn.dense": "W_O",
    "gate_proj": "W_gate", "up_proj": "W_in", "down_proj": "W_out", "fc1": "W_in", "fc2": "W_out", "fc_in": "W_in",
    "fc_out": "W_out", "mlp.c_fc": "W_in", "mlp.c_proj": "W_out", "dense_h_to_4h": "W_in", "dense_4h_to_h": "W_out",
    "lm_head": "W_U", "embed_out": "W_U",
}  # fmt: skip
_SHAPES = {
    "W_Q": "(h e) d -> h d e", "W_K": "(h e) d -> h d e", "W_V": "(h e) d -> h d e", "W_O": "d (h e) -> h e d",
    "b_Q": "(h e) -> h e", "b_K": "(h e) -> h e", "b_V": "(h e) -> h e",
}  # fmt: skip


def make(family: str, dtype: torch.dtype = torch.float32, seed: int = 0, **overrides: object) -> PreTrainedModel:
    """A random model in which no gain is one and no bias of the architecture is zero."""
    name, options = FAMILIES[family]
    config = getattr(transformers, name)(**{**options, **overrides})
    torch.manual_seed(seed)
    hf = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in hf.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        is_gain = name.endswith("weight") and any(part in name for part in ("norm", "ln_", "layer_norm"))
        parameter.data = (1 if is_gain and "Gemma" not in family else 0) + 0.3 * noise
    hf.config.architectures = [type(hf).__name__]
    return hf.to(dtype)


def save(hf: PreTrainedModel, folder: Path) -> Path:
    """The model with a tokenizer, as a checkpoint on disk."""
    hf.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(TOKENIZER).save_pretrained(folder)
    return folder


def as_hooked_transformer(family: str, hf: PreTrainedModel, folder: Path) -> nn.Module:
    """The same weights in a HookedTransformer, unprocessed."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig, loading_from_pretrained
    from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights

    if family == "GPT-2":
        cfg = HookedTransformerConfig(
            n_layers=2, d_model=32, n_heads=4, d_head=8, d_mlp=48, n_ctx=32, d_vocab=60, device="cpu",
            act_fn="gelu_new", normalization_type="LN", eps=1e-5,
        )  # fmt: skip
        weights = convert_gpt2_weights(hf, cfg)
    else:
        cfg = loading_from_pretrained.get_pretrained_model_config(str(folder), device="cpu")
        weights = loading_from_pretrained.get_pretrained_state_dict(str(folder), cfg, hf)
    model = HookedTransformer(cfg)
    model.load_and_process_state_dict(
        weights, fold_ln=False, center_writing_weights=False, center_unembed=False, fold_value_biases=False
    )
    return model


def linear_modules(hf: PreTrainedModel) -> dict[str, nn.Module]:
    return {name: module for name, module in hf.named_modules() if type(module).__name__.endswith(("Linear", "Conv1D"))}


def weight_of(module: nn.Module) -> Tensor:
    return module.weight.detach().T if type(module).__name__ == "Conv1D" else module.weight.detach()


def _split(hf: PreTrainedModel, module: str) -> dict[str, Tensor]:
    """Which outputs of a module belong to which matrix, by component."""
    config, local = hf.config, module.rpartition(".")[2]
    n_heads = getattr(config, "num_attention_heads", None) or config.n_head
    d_head = getattr(config, "head_dim", None) or config.hidden_size // n_heads
    rows = torch.arange(len(weight_of(hf.get_submodule(module))))
    if local == "gate_up_proj":
        return dict(zip(["W_gate", "W_in"], rows.chunk(2)))
    if local in ("c_attn", "qkv_proj") or (config.model_type == "falcon" and local == "query_key_value"):
        n_q, n_kv = n_heads * d_head, (len(rows) - n_heads * d_head) // 2
        return dict(zip(["W_Q", "W_K", "W_V"], rows.split([n_q, n_kv, n_kv])))
    if local == "query_key_value":  # NeoX and BLOOM keep each head's q, k and v together
        by_head = rows.view(n_heads, 3, d_head)
        return {f"W_{name}": by_head[:, i].flatten() for i, name in enumerate("QKV")}
    (component,) = {component for suffix, component in _MODULES.items() if module.endswith(suffix)}
    return {component: rows}


def in_transformer_lens_shape(
    hf: PreTrainedModel, module: str, weight: Tensor, bias: Tensor | None
) -> Iterator[tuple[str, Tensor]]:
    """Keys and parameters of one module's weight `[out in]` and bias `[out]`, as TransformerLens keeps them."""
    config = hf.config
    n_heads = getattr(config, "num_attention_heads", None) or config.n_head
    d_head = getattr(config, "head_dim", None) or config.hidden_size // n_heads
    layer = next((part for part in module.split(".") if part.isdigit()), None)
    for component, rows in _split(hf, module).items():
        place = "unembed" if layer is None else f"blocks.{layer}.{'attn' if component[2:] in 'QKVO' else 'mlp'}"
        part, pattern = weight[rows], _SHAPES.get(component)
        yield f"{place}.{component}", part.T if pattern is None else einops.rearrange(part, pattern, e=d_head)
        if bias is not None:
            name, part = f"b_{component[2:]}", bias[rows]
            pattern = _SHAPES.get(name)
            yield f"{place}.{name}", part if pattern is None else einops.rearrange(part, pattern, e=d_head)


@contextmanager
def seen_inputs(hf: PreTrainedModel) -> Iterator[dict[str, Tensor]]:
    """What enters each linear module, by plain forward pre-hooks."""
    seen: dict[str, Tensor] = {}
    handles = [
        module.register_forward_pre_hook(lambda _, args, name=name: seen.__setitem__(name, args[0].detach()))
        for name, module in linear_modules(hf).items()
    ]
    yield seen
    for handle in handles:
        handle.remove()


@dataclass
class Inputs:
    """Everything a module reads at the counted positions, `[in n]`, over the target and over the reference."""

    target: Tensor
    reference: Tensor


def read(
    hf: PreTrainedModel, target: Tensor, reference: Tensor, target_mask: Tensor, reference_mask: Tensor
) -> dict[str, Inputs]:
    sides = []
    for tokens, mask in ((target, target_mask), (reference, reference_mask)):
        with seen_inputs(hf) as seen, torch.no_grad():
            hf(tokens)
        sides.append({name: x.reshape(*mask.shape, -1)[mask].double().T for name, x in seen.items()})
    return {name: Inputs(sides[0][name], sides[1][name]) for name in sides[0]}


def engram(W: Tensor, bias: Tensor | None, X: Inputs) -> tuple[Tensor, Tensor | None]:
    """`W X+ X+^T pinv(X X^T)` in float64; a bias is one more column of `W`, and a row of ones of `X`."""
    W, X_plus, X_minus = W.double(), X.target, X.reference
    if bias is not None:
        W = torch.cat([W, bias.double()[:, None]], dim=1)
        X_plus, X_minus = (torch.cat([side, torch.ones(1, side.shape[1])]).double() for side in (X_plus, X_minus))
    S_plus, S_minus = X_plus @ X_plus.T, X_minus @ X_minus.T
    W_plus = W @ S_plus @ torch.linalg.pinv(S_plus + S_minus, rtol=len(S_plus) * 2.0**-23, hermitian=True)
    return (W_plus, None) if bias is None else (W_plus[:, :-1], W_plus[:, -1])


def brute_force(
    hf: PreTrainedModel, target: Tensor, reference: Tensor, target_mask: Tensor, reference_mask: Tensor
) -> dict[str, Tensor]:
    """The engram of every linear module, from all of its inputs side by side."""
    engrams: dict[str, Tensor] = {}
    for name, X in read(hf, target, reference, target_mask, reference_mask).items():
        module = linear_modules(hf)[name]
        bias = None if module.bias is None else module.bias.detach()
        engrams |= in_transformer_lens_shape(hf, name, *engram(weight_of(module), bias, X))
    return engrams


def _read_by(hf: PreTrainedModel, module: nn.Module, tokens: Tensor) -> Tensor:
    read: list[Tensor] = []
    handle = module.register_forward_pre_hook(lambda _, args: read.append(args[0].detach()))
    with torch.no_grad():
        hf(tokens)
    handle.remove()
    return read[0]


def expert_inputs(
    hf: PreTrainedModel, target: Tensor, reference: Tensor, target_mask: Tensor, reference_mask: Tensor
) -> dict[str, Inputs]:
    """Everything that each expert of a Mixtral reads, `[in n]`: the tokens of which it is among the top two."""
    sides: list[dict[str, Tensor]] = []
    for tokens, mask in ((target, target_mask), (reference, reference_mask)):
        seen: dict[str, Tensor] = {}
        for layer, block in enumerate(hf.model.layers):
            x = _read_by(hf, block.mlp, tokens)[mask]
            sent = (x @ block.mlp.gate.weight.T).topk(2).indices
            for expert, gate_up in enumerate(block.mlp.experts.gate_up_proj):
                mine = x[(sent == expert).any(1)]
                gate, up = (mine @ gate_up.detach().T).chunk(2, dim=1)
                place = f"blocks.{layer}.mlp.experts.{expert}"
                seen |= {f"{place}.in": mine.double().T, f"{place}.post": (nn.functional.silu(gate) * up).double().T}
        sides.append(seen)
    return {name: Inputs(sides[0][name], sides[1][name]) for name in sides[0]}


def brute_force_experts(hf: PreTrainedModel, *given: Tensor) -> dict[str, Tensor]:
    """The engram of every expert's matrices."""
    engrams: dict[str, Tensor] = {}
    inputs = expert_inputs(hf, *given)
    for layer, block in enumerate(hf.model.layers):
        for expert, (gate_up, down) in enumerate(zip(block.mlp.experts.gate_up_proj, block.mlp.experts.down_proj)):
            place = f"blocks.{layer}.mlp.experts.{expert}"
            gate, up = gate_up.detach().chunk(2)
            for name, W, read in (("W_gate", gate, "in"), ("W_in", up, "in"), ("W_out", down.detach(), "post")):
                engrams[f"{place}.{name}"] = engram(W, None, inputs[f"{place}.{read}"])[0].T
    return engrams
