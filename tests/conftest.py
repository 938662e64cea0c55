"""Tiny models made in memory, one of every shape that TransformerLens gives a HookedTransformer, and text for them.

Where TransformerLens has no HookedTransformer (from 4 on), those that Hugging Face has too are bridges.
"""

import pytest
import torch
import transformers
from torch import nn
from transformer_lens.model_bridge import TransformerBridge

from engram_interp import Concept, testbed
from engram_interp.concepts.batches import Batch
from engram_interp.models import adapt
from engram_interp.models.loading import bridge_of

try:
    from transformer_lens import HookedTransformer, HookedTransformerConfig
except ImportError:
    HookedTransformer = None

hooked_only = pytest.mark.skipif(HookedTransformer is None, reason="about HookedTransformer, gone in TransformerLens 4")

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


SIZES = dict(
    hidden_size=16, num_attention_heads=4, num_hidden_layers=2, intermediate_size=24, vocab_size=50,
    max_position_embeddings=32, tie_word_embeddings=False, bos_token_id=1, eos_token_id=2, pad_token_id=0,
)  # fmt: skip
BRIDGED = {
    "llama": ("LlamaConfig", dict(num_key_value_heads=2, head_dim=8)),
    "gpt2": ("GPT2Config", {}),
    "parallel": ("GPTNeoXConfig", dict(use_parallel_residual=True)),
    "post_norm": ("Olmo2Config", {}),
    "sandwich": ("Gemma2Config", dict(num_key_value_heads=2, head_dim=8, final_logit_softcapping=30.0)),
}
RENAMED = {"n_layers": "num_hidden_layers", "d_mlp": "intermediate_size"}


def build(variant: str, seed: int = 0, **overrides) -> nn.Module:
    """A random model in which no gain is one and no bias of the architecture is zero."""
    if HookedTransformer is None:
        return _build_bridge(variant, seed, **overrides)
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


def _build_bridge(variant: str, seed: int, dtype: torch.dtype = torch.float32, **overrides) -> TransformerBridge:
    if variant not in BRIDGED or not overrides.keys() <= RENAMED.keys():
        pytest.skip(f"only a HookedTransformer is {variant} with {overrides}")
    name, options = BRIDGED[variant]
    sizes = {**SIZES, **options, **{RENAMED[key]: value for key, value in overrides.items()}}
    if variant == "gpt2":
        sizes["n_inner"] = sizes.pop("intermediate_size")
    hf = transformers.AutoModelForCausalLM.from_config(getattr(transformers, name)(**sizes)).eval()
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in hf.named_parameters():
        is_gain = name.endswith("weight") and any(part in name for part in ("norm", "ln_"))
        parameter.data = (1 if is_gain else 0) + 0.3 * torch.randn(parameter.shape, generator=generator)
    hf.config.architectures = [type(hf).__name__]
    return bridge_of(f"tiny-{variant}", hf.to(dtype))


def folded(model: nn.Module) -> nn.Module:
    """The same function with its norms folded, writing weights and unembedding centred, value biases moved."""
    if HookedTransformer is None:
        processed = adapt(model).copy()
        processed.enable_compatibility_mode(disable_warnings=True)
        return processed
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


def as_batch(rows: torch.Tensor) -> Batch:
    everything = torch.ones_like(rows, dtype=torch.bool)
    return Batch(rows, everything, everything, *torch.zeros(2, len(rows), dtype=torch.long), ("x",) * len(rows))


def skip_unless_it_runs(model: nn.Module, rows: torch.Tensor) -> None:
    """OLMo-2 in half precision does not run in TransformerLens 4.3 with transformers 5.24: its own pass raises."""
    try:
        model(rows)
    except RuntimeError as error:
        pytest.skip(f"TransformerLens itself does not run this model here: {error}")


@pytest.fixture(params=VARIANTS)
def any_model(request) -> nn.Module:
    return build(request.param)


@pytest.fixture
def llama() -> nn.Module:
    return build("llama")


@pytest.fixture
def gpt2() -> nn.Module:
    return build("gpt2")


@pytest.fixture(scope="session")
def _full() -> nn.Module:
    return testbed.load("full")


@pytest.fixture
def full(_full: nn.Module):
    """The testbed's model; a test that leaves it changed fails."""
    before = {name: parameter.clone() for name, parameter in _full.named_parameters()}
    yield _full
    assert all(torch.equal(before[name], parameter) for name, parameter in _full.named_parameters())
