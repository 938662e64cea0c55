"""`load("base" | "full" | "retain")`: a small Llama-style model, trained on the authors and shipped with the package.

It has four layers of width 256 and every kind of component: RMSNorm with trained gains, eight query heads on two
key/value heads, a gated MLP, rotary positions and an untied unembedding. Checkpoints are bf16 safetensors, and
`manifest.json` holds their sha256. The models compute in float32.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from safetensors.torch import load as load_safetensors
from torch import nn
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from engram_interp.common.randomness import unchanged_randomness
from engram_interp.models import adapt
from engram_interp.models.lens import TransformerBridge

CHECKPOINTS = ("base", "full", "retain")
LN = ("ln1", "ln2")

DATA = Path(__file__).parent / "data"
MANIFEST = DATA / "manifest.json"
TOKENIZER = DATA / "tokenizer"


def checkpoint_path(name: str) -> Path:
    """The file with a checkpoint's weights."""
    return DATA / f"{name}.safetensors"


def load(name: str) -> nn.Module:
    """A trained testbed model with its tokenizer, on the CPU, in float32, its weights unprocessed.

    `base` was trained on half of the retain authors and on the world facts. `full` and `retain` continue from it with
    the same seed and schedule, `full` on all authors and `retain` on all but `forget10`. So `retain` is the result that
    forgetting `forget10` should reach.

    Args:
        name: `base`, `full` or `retain`.

    Raises:
        ValueError: if `name` is another one, or the weights file is not the one in the manifest.

    Example:
        >>> model = load("full")
        >>> model.cfg.n_layers, model.cfg.d_model
        (4, 256)
    """
    if name not in CHECKPOINTS:
        raise ValueError(f"name must be one of {', '.join(CHECKPOINTS)}; got {name!r}")
    weights = checkpoint_path(name).read_bytes()
    expected = json.loads(MANIFEST.read_text())["checkpoints"][name]["sha256"]
    if (found := hashlib.sha256(weights).hexdigest()) != expected:
        raise ValueError(f"{checkpoint_path(name)} was changed: its sha256 is {found}, the manifest has {expected}")
    model = untrained(name)
    fill(model, load_safetensors(weights))
    return model


def untrained(name: str, seed: int = 0) -> nn.Module:
    """The testbed's architecture with random weights, and its tokenizer.

    It is a `HookedTransformer`, or a `TransformerBridge` with TransformerLens 4, which has no `HookedTransformer`.

    Args:
        name: the last part of the model's name.
        seed: the seed of the weights.
    """
    with unchanged_randomness():
        return _random(name, seed, AutoTokenizer.from_pretrained(TOKENIZER))


def _random(name: str, seed: int, tokenizer: PreTrainedTokenizerBase) -> nn.Module:
    try:
        from transformer_lens import HookedTransformer, HookedTransformerConfig
    except ImportError:
        return _bridge(name, seed, tokenizer)
    cfg = HookedTransformerConfig(
        model_name=f"testbed:{name}",
        n_layers=4,
        d_model=256,
        n_heads=8,
        d_head=32,
        n_key_value_heads=2,
        d_mlp=272,
        gated_mlp=True,
        act_fn="silu",
        n_ctx=64,
        d_vocab=len(tokenizer),
        normalization_type="RMS",
        positional_embedding_type="rotary",
        rotary_dim=32,
        seed=seed,
        device="cpu",
    )
    return HookedTransformer(cfg, tokenizer)


def llama_config(d_vocab: int, n_ctx: int = 64) -> LlamaConfig:
    """The testbed's architecture as a Hugging Face configuration, for its own vocabulary or another one."""
    return LlamaConfig(
        hidden_size=256,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=2,
        intermediate_size=272,
        vocab_size=d_vocab,
        max_position_embeddings=n_ctx,
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
    )


def _bridge(name: str, seed: int, tokenizer: PreTrainedTokenizerBase) -> nn.Module:
    torch.manual_seed(seed)
    hf = LlamaForCausalLM(llama_config(len(tokenizer))).eval()
    return TransformerBridge.boot_transformers(f"testbed:{name}", hf_model=hf, tokenizer=tokenizer, device="cpu")


def trained_parameters(model: nn.Module) -> dict[str, torch.Tensor]:
    """The parameters that training changes, under HookedTransformer's names: all but biases, which a Llama lacks."""
    if not isinstance(model, TransformerBridge):
        names = [name for name, _ in model.named_parameters() if ".b_" not in name and "._b_" not in name]
        return {name: model.get_parameter(name) for name in names}
    adapter = adapt(model)
    matrices = {site.key: adapter.parameter(site.key) for site in adapter.all_sites()}
    grouped = {key.replace(".W_K", "._W_K").replace(".W_V", "._W_V"): tensor for key, tensor in matrices.items()}
    norms = {f"blocks.{i}.{ln}.w": block.get_submodule(ln).weight for i, block in enumerate(model.blocks) for ln in LN}
    return {**grouped, **norms, "ln_final.w": model.ln_final.weight, "embed.W_E": model.embed.weight}


def fill(model: nn.Module, weights: dict[str, torch.Tensor]) -> None:
    """Writes a checkpoint's weights into a model of the testbed's architecture.

    Raises:
        ValueError: if the weights belong to another architecture.
    """
    parameters = trained_parameters(model)
    if parameters.keys() != weights.keys():
        raise ValueError(f"weights and model differ in {sorted(parameters.keys() ^ weights.keys())}")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])
