"""`load("base" | "full" | "retain")`: a small Llama-style model, trained on the authors and shipped with the package.

Four layers of width 256 with every component there is: RMSNorm with trained gains, eight query heads on two key/value
heads, a gated MLP, rotary positions and an untied unembedding. Checkpoints are bf16 safetensors with their sha256 in
`manifest.json`; they are used in float32.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from safetensors.torch import load as load_safetensors
from transformer_lens import HookedRootModule

CHECKPOINTS = ("base", "full", "retain")

DATA = Path(__file__).parent / "data"
MANIFEST = DATA / "manifest.json"
TOKENIZER = DATA / "tokenizer"


def checkpoint_path(name: str) -> Path:
    """Where a checkpoint's weights are."""
    return DATA / f"{name}.safetensors"


def load(name: str) -> HookedRootModule:
    """A trained testbed model with its tokenizer, on the CPU, in float32, its weights unprocessed.

    `base` saw half of the retain authors and the world facts; `full` and `retain` go on from it with the same seed and
    schedule, on all authors and on all but `forget10`: `retain` is what forgetting `forget10` should arrive at.

    Args:
        name: `base`, `full` or `retain`.

    Raises:
        ValueError: another name, or a weights file that is not the one in the manifest.

    Example:
        >>> model = load("full")
        >>> model.cfg.n_layers, model.cfg.d_model
        (4, 256)
    """
    if name not in CHECKPOINTS:
        raise ValueError(f"the testbed's checkpoints are {', '.join(CHECKPOINTS)}; got {name!r}")
    weights = checkpoint_path(name).read_bytes()
    expected = json.loads(MANIFEST.read_text())["checkpoints"][name]["sha256"]
    if (found := hashlib.sha256(weights).hexdigest()) != expected:
        raise ValueError(f"{checkpoint_path(name)} was altered: its sha256 is {found}, the manifest's {expected}")
    model = untrained(name)
    fill(model, load_safetensors(weights))
    return model


def untrained(name: str, seed: int = 0) -> HookedRootModule:
    """The testbed's architecture with random weights, and its tokenizer.

    Args:
        name: the last part of the model's name.
        seed: of the random weights.
    """
    from transformer_lens import HookedTransformer, HookedTransformerConfig
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)
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


def trained_parameters(model: HookedRootModule) -> dict[str, torch.nn.Parameter]:
    """The parameters that training moves: all but the biases, which a Llama-style model does not have."""
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if not name.rpartition(".")[2].lstrip("_").startswith("b_")
    }


def fill(model: HookedRootModule, weights: dict[str, torch.Tensor]) -> None:
    """Write a checkpoint's weights into a model of the testbed's architecture.

    Raises:
        ValueError: weights of another architecture.
    """
    parameters = trained_parameters(model)
    if parameters.keys() != weights.keys():
        raise ValueError(f"the checkpoint and the model differ in {sorted(parameters.keys() ^ weights.keys())}")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])
