"""Tiny bridges, raw, of any family."""

import torch
import transformers
from torch import nn
from transformers import AutoModelForCausalLM

from engram_interp import Concept
from engram_interp.models.loading import bridge_of
from tests import huggingface
from tests.conftest import tokens

CONCEPT = Concept.from_tokens(tokens(), tokens(seed=2))


def bridge(family: str = "Llama", **overrides) -> nn.Module:
    return bridge_of(f"tiny-{family}", huggingface.make(family, **overrides))


def of_config(name: str, **options) -> nn.Module:
    sizes = dict(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=48,
        vocab_size=60, max_position_embeddings=32, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    hf = AutoModelForCausalLM.from_config(getattr(transformers, name)(**{**sizes, **options})).eval()
    hf.config.architectures = [type(hf).__name__]
    return bridge_of("tiny", hf)
