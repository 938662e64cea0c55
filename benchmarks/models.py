"""Random Llamas of three shapes, each as a Hugging Face model, as a bridge and as a `HookedTransformer`."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import nn
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.pretrained.weight_conversions.llama import convert_llama_weights
from transformers import LlamaConfig, LlamaForCausalLM

from engram_interp import Concept
from engram_interp.models.loading import bridge_of

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPE = torch.bfloat16 if DEVICE == "cuda" else torch.float32
N_VOCAB, EXAMPLES, LENGTH, N_TARGET = 4096, 80, 128, 20
BATCH_SIZE = 8


@dataclass(frozen=True)
class Shape:
    """The sizes of a Llama."""

    width: int
    layers: int
    mlp: int
    heads: int
    kv_heads: int

    @property
    def d_head(self) -> int:
        return self.width // self.heads


SHAPES = {
    "512 x 6": Shape(512, 6, 1408, 8, 2),
    "1024 x 2": Shape(1024, 2, 4096, 16, 4),
    "576 x 30": Shape(576, 30, 1536, 9, 3),  # as SmolLM2-135M
}


@dataclass(frozen=True)
class Subject:
    """One set of weights in three forms, and the tokens that all of them read."""

    hugging_face: LlamaForCausalLM
    hooked: HookedTransformer
    bridge: nn.Module
    tokens: torch.Tensor

    @property
    def concept(self) -> Concept:
        return Concept.from_tokens(self.tokens[:N_TARGET], self.tokens[N_TARGET:])


def subject(shape: Shape) -> Subject:
    """A random model of a shape, with grouped queries and gates."""
    torch.manual_seed(0)
    theirs = LlamaForCausalLM(
        LlamaConfig(
            hidden_size=shape.width, num_hidden_layers=shape.layers, num_attention_heads=shape.heads,
            intermediate_size=shape.mlp, num_key_value_heads=shape.kv_heads, vocab_size=N_VOCAB,
            max_position_embeddings=LENGTH, rms_norm_eps=1e-5, tie_word_embeddings=False,
        )
    ).eval()  # fmt: skip
    cfg = HookedTransformerConfig(
        n_layers=shape.layers, d_model=shape.width, n_ctx=LENGTH, n_heads=shape.heads, d_head=shape.d_head,
        d_mlp=shape.mlp, d_vocab=N_VOCAB, n_key_value_heads=shape.kv_heads, act_fn="silu", normalization_type="RMS",
        positional_embedding_type="rotary", rotary_dim=shape.d_head, rotary_adjacent_pairs=False, gated_mlp=True,
        eps=1e-5, seed=0, device="cpu",
    )  # fmt: skip
    hooked = HookedTransformer(cfg)
    hooked.load_state_dict(convert_llama_weights(theirs, cfg), strict=False)
    theirs.to(dtype=DTYPE)  # pyright: ignore[reportCallIssue]
    theirs.to(torch.device(DEVICE))  # pyright: ignore[reportArgumentType, reportCallIssue]
    bridge = bridge_of("llama", copy.deepcopy(theirs))
    hooked.to(DTYPE).to(DEVICE)
    tokens = torch.randint(0, N_VOCAB, (EXAMPLES, LENGTH), generator=torch.Generator().manual_seed(0))
    return Subject(theirs, hooked, bridge, tokens)
