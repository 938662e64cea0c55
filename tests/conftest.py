"""Tiny models made in memory, one of every shape that TransformerLens gives a HookedTransformer, and text for them."""

import pytest
import torch
from transformer_lens import HookedTransformer, HookedTransformerConfig

from engram_interp import Concept, testbed

COMMON = dict(
    n_layers=2, d_model=16, n_heads=4, d_head=8, d_mlp=24, n_ctx=32, d_vocab=50, act_fn="gelu_new", device="cpu", seed=0
)  # fmt: skip
LLAMA = dict(
    normalization_type="RMS", positional_embedding_type="rotary", rotary_dim=8, gated_mlp=True, act_fn="silu",
    n_key_value_heads=2,
)  # fmt: skip
VARIANTS = {
    "llama": LLAMA,
    "gpt2": dict(normalization_type="LN"),
    "parallel": dict(normalization_type="LN", parallel_attn_mlp=True, positional_embedding_type="rotary", rotary_dim=4),
    "attn_only": dict(normalization_type="LN", attn_only=True),
    "unnormalized": dict(normalization_type=None),
    "shortformer": dict(normalization_type="LN", positional_embedding_type="shortformer"),
    "solu": dict(normalization_type="LN", act_fn="solu_ln"),
    "post_norm": {
        **LLAMA,
        "original_architecture": "Olmo2ForCausalLM",
        "n_key_value_heads": None,
        "d_head": 4,
        "rotary_dim": 4,
    },
    "sandwich": {**LLAMA, "use_normalization_before_and_after": True, "output_logits_soft_cap": 30.0},
}


def build(variant: str, seed: int = 0, **overrides) -> HookedTransformer:
    """A random model in which no gain is one and no bias of the architecture is zero."""
    model = HookedTransformer(HookedTransformerConfig(**{**COMMON, **VARIANTS[variant], "seed": seed, **overrides}))
    generator = torch.Generator().manual_seed(seed)
    llama_like = "gated_mlp" in VARIANTS[variant]
    for name, parameter in model.named_parameters():
        leaf = name.rpartition(".")[2].lstrip("_")
        noise = torch.randn(parameter.shape, generator=generator).to(parameter)
        if leaf.startswith("b") and not llama_like:
            parameter.data = 0.3 * noise
        elif leaf == "w":
            parameter.data = 1 + 0.3 * noise
        elif leaf.startswith("W"):
            parameter.data = 0.3 * noise
    return model


def folded(model: HookedTransformer) -> HookedTransformer:
    """The same function with its norms folded, writing weights and unembedding centred, value biases moved."""
    processed = HookedTransformer(HookedTransformerConfig(**model.cfg.to_dict()))
    layer_norm = model.cfg.normalization_type == "LN"
    processed.load_and_process_state_dict(
        {name: tensor.clone() for name, tensor in model.state_dict().items()},
        fold_ln=True,
        center_writing_weights=layer_norm,
        center_unembed=True,
        fold_value_biases=True,
    )
    return processed


def tokens(n: int = 12, pos: int = 9, d_vocab: int = 50, seed: int = 1) -> torch.Tensor:
    return torch.randint(0, d_vocab, (n, pos), generator=torch.Generator().manual_seed(seed))


def token_concept(n: int = 40, pos: int = 9, seed: int = 1) -> Concept:
    """Enough random tokens for full-rank statistics at width 24, with masks that leave some positions out."""
    target, reference = tokens(n, pos, seed=seed), tokens(2 * n, pos + 2, seed=seed + 1)
    return Concept.from_tokens(target, reference, target % 3 > 0, reference % 4 > 0, name="odd")


@pytest.fixture(params=VARIANTS)
def any_model(request) -> HookedTransformer:
    return build(request.param)


@pytest.fixture
def llama() -> HookedTransformer:
    return build("llama")


@pytest.fixture
def gpt2() -> HookedTransformer:
    return build("gpt2")


@pytest.fixture(scope="session")
def _full() -> HookedTransformer:
    return testbed.load("full")


@pytest.fixture
def full(_full: HookedTransformer):
    """The testbed's model; a test that leaves it changed fails."""
    before = {name: parameter.clone() for name, parameter in _full.named_parameters()}
    yield _full
    assert all(torch.equal(before[name], parameter) for name, parameter in _full.named_parameters())
