"""Tiny random Hugging Face models, their weights as HookedTransformers, and every module's engram by brute force."""

from collections.abc import Iterator
from contextlib import contextmanager

import einops
import torch
from torch import Tensor, nn
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights, convert_llama_weights
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel

SIZES = dict(n_layers=2, d_model=32, n_heads=4, d_head=8, d_mlp=48, n_ctx=32, d_vocab=60, device="cpu", seed=0)
LLAMA_MODULES = {
    "self_attn.q_proj": "attn.W_Q", "self_attn.k_proj": "attn.W_K", "self_attn.v_proj": "attn.W_V",
    "self_attn.o_proj": "attn.W_O", "mlp.gate_proj": "mlp.W_gate", "mlp.up_proj": "mlp.W_in",
    "mlp.down_proj": "mlp.W_out",
}  # fmt: skip
GPT2_MODULES = {"attn.c_proj": "attn.W_O", "mlp.c_fc": "mlp.W_in", "mlp.c_proj": "mlp.W_out"}


def _randomize(model: nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        is_gain = "norm" in name or "ln_" in name
        parameter.data = (1 if is_gain and name.endswith("weight") else 0) + 0.3 * noise


def llama() -> tuple[PreTrainedModel, HookedTransformer]:
    hf = LlamaForCausalLM(
        LlamaConfig(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=48,
            vocab_size=60, max_position_embeddings=32, rms_norm_eps=1e-5, tie_word_embeddings=False,
        )
    ).eval()  # fmt: skip
    _randomize(hf)
    cfg = HookedTransformerConfig(
        **SIZES, act_fn="silu", normalization_type="RMS", positional_embedding_type="rotary", rotary_dim=8,
        rotary_adjacent_pairs=False, gated_mlp=True, n_key_value_heads=2, eps=1e-5,
    )  # fmt: skip
    model = HookedTransformer(cfg)
    model.load_state_dict(convert_llama_weights(hf, cfg), strict=False)
    return hf, model


def gpt2() -> tuple[PreTrainedModel, HookedTransformer]:
    hf = GPT2LMHeadModel(
        GPT2Config(
            n_embd=32, n_layer=2, n_head=4, n_inner=48, vocab_size=60, n_positions=32, tie_word_embeddings=False,
            resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        )
    ).eval()  # fmt: skip
    _randomize(hf)
    cfg = HookedTransformerConfig(**SIZES, act_fn="gelu_new", normalization_type="LN", eps=1e-5)
    model = HookedTransformer(cfg)
    model.load_state_dict(convert_gpt2_weights(hf, cfg), strict=False)
    return hf, model


def in_transformer_lens_shape(module: str, weight: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Keys and parameters of one module's weight `[out in]`, as TransformerLens keeps them."""
    if module == "lm_head":
        yield "unembed.W_U", weight.T
        return
    _, _, layer, local = module.split(".", 3)
    if local == "attn.c_attn":
        for name, part in zip("QKV", weight.chunk(3), strict=True):
            yield f"blocks.{layer}.attn.W_{name}", einops.rearrange(part, "(h e) d -> h d e", e=8)
        return
    key = {**LLAMA_MODULES, **GPT2_MODULES}[local]
    if key.endswith("W_O"):
        yield f"blocks.{layer}.{key}", einops.rearrange(weight, "d (h e) -> h e d", e=8)
    elif key.startswith("attn"):
        yield f"blocks.{layer}.{key}", einops.rearrange(weight, "(h e) d -> h d e", e=8)
    else:
        yield f"blocks.{layer}.{key}", weight.T


def bias_in_transformer_lens_shape(module: str, bias: Tensor) -> Iterator[tuple[str, Tensor]]:
    _, _, layer, local = module.split(".", 3)
    if local == "attn.c_attn":
        for name, part in zip("QKV", bias.chunk(3), strict=True):
            yield f"blocks.{layer}.attn.b_{name}", part.view(4, 8)
        return
    path, _, name = {**LLAMA_MODULES, **GPT2_MODULES}[local].rpartition(".")
    yield f"blocks.{layer}.{path}.b_{name.removeprefix('W_')}", bias


def linear_modules(hf: PreTrainedModel) -> dict[str, nn.Module]:
    return {name: module for name, module in hf.named_modules() if type(module).__name__ in ("Linear", "Conv1D")}


def weight_of(module: nn.Module) -> Tensor:
    return module.weight.detach().T if type(module).__name__ == "Conv1D" else module.weight.detach()


@contextmanager
def seen_inputs(hf: PreTrainedModel) -> Iterator[dict[str, list[Tensor]]]:
    """Everything that enters each module, by a forward pre-hook."""
    seen: dict[str, list[Tensor]] = {name: [] for name in linear_modules(hf)}
    handles = [
        module.register_forward_pre_hook(lambda _, args, name=name: seen[name].append(args[0].detach()))
        for name, module in linear_modules(hf).items()
    ]
    yield seen
    for handle in handles:
        handle.remove()


def brute_force(
    hf: PreTrainedModel, target: Tensor, reference: Tensor, target_mask: Tensor, reference_mask: Tensor
) -> dict[str, Tensor]:
    """`W X+ X+^T pinv(X X^T)` of every module in float64, from all inputs side by side; a bias as a row of ones."""
    inputs: dict[str, list[Tensor]] = {}
    for tokens, mask in ((target, target_mask), (reference, reference_mask)):
        with seen_inputs(hf) as seen, torch.no_grad():
            hf(tokens)
        for name, (x,) in seen.items():
            inputs.setdefault(name, []).append(x[mask].double().T)
    engrams: dict[str, Tensor] = {}
    for name, (X_plus, X_minus) in inputs.items():
        module = linear_modules(hf)[name]
        W, bias = weight_of(module).double(), module.bias
        if bias is not None:
            W = torch.cat([W, bias.detach().double()[:, None]], dim=1)
            X_plus, X_minus = (torch.cat([X, torch.ones(1, X.shape[1], dtype=X.dtype)]) for X in (X_plus, X_minus))
        S_plus, S_minus = X_plus @ X_plus.T, X_minus @ X_minus.T
        W_plus = W @ S_plus @ torch.linalg.pinv(S_plus + S_minus, rtol=len(S_plus) * 2.0**-23)
        if bias is not None:
            engrams.update(bias_in_transformer_lens_shape(name, W_plus[:, -1]))
            W_plus = W_plus[:, :-1]
        engrams.update(in_transformer_lens_shape(name, W_plus))
    return engrams
