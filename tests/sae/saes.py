"""SAEs with random weights, one of every kind, and what they say of unpadded text."""

import pytest
import torch

from engram_interp.concepts.concept import TokenExample
from engram_interp.models import adapt
from engram_interp.options import Run
from engram_interp.sae.reader import SaeReader
from tests.conftest import tokens

sae_lens = pytest.importorskip("sae_lens")

RUN = Run(batch_size=5, progress=False)
D_SAE = 40
HOOK = "blocks.1.hook_resid_pre"
KINDS = {
    "standard": {},
    "gated": {},
    "jumprelu": {},
    "topk": dict(k=3),
    "abstopk": dict(k=3),
    "matching_pursuit": dict(residual_threshold=0.5),
    "transcoder": dict(d_out=16, apply_b_dec_to_input=False),
    "skip_transcoder": dict(d_out=16, apply_b_dec_to_input=False),
    "jumprelu_transcoder": dict(d_out=24, apply_b_dec_to_input=False),
}
TRAINING = {
    "standard": {},
    "gated": {},
    "jumprelu": {},
    "topk": dict(k=3),
    "batchtopk": dict(k=3),
    "matryoshka_batchtopk": dict(k=3, matryoshka_widths=[10, 20, 40]),
}


def random_weights(sae, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in sae.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data = noise.abs() if "threshold" in name else noise * (0.1 if name.startswith("b") else 0.3)
    return sae


def make(kind: str, d_in: int = 16, hook: str = HOOK, **metadata):
    cls, config = sae_lens.registry.get_sae_class(kind)
    about = sae_lens.saes.sae.SAEMetadata(hook_name=hook, **metadata)
    return random_weights(cls(config(d_in=d_in, d_sae=D_SAE, metadata=about, **KINDS[kind])))


def make_training(kind: str):
    cls, config = sae_lens.registry.get_sae_training_class(kind)
    about = sae_lens.saes.sae.SAEMetadata(hook_name=HOOK)
    sae = random_weights(cls(config(d_in=16, d_sae=D_SAE, metadata=about, **TRAINING[kind])))
    if hasattr(sae, "topk_threshold"):
        sae.topk_threshold.fill_(0.4)
    return sae


def examples(n: int = 12) -> list[TokenExample]:
    """Of different lengths, a third of the positions not counted."""
    rows = [row[: 4 + i % 5] for i, row in enumerate(tokens(n))]
    return [TokenExample(row, row % 3 > 0) for row in rows]


@torch.no_grad()
def by_hand(model, sae, hook: str, example: TokenExample) -> torch.Tensor:
    _, cache = model.run_with_cache(example.tokens[None], names_filter=hook)
    return sae.encode(cache[hook])[0]


def check(model, sae, said, hook: str = HOOK) -> None:
    corpus = examples()
    features = [0, 7, 39]
    readings = SaeReader(adapt(model), sae).readings(corpus, features, RUN)
    seen = 0
    for example, reading in zip(corpus, readings, strict=True):
        expected = by_hand(model, said, hook, example)[:, features].where(example.counts[:, None], 0.0)
        assert torch.allclose(reading.activation, expected, atol=1e-5)
        assert torch.equal(reading.counts, example.counts)
        seen += int((expected != 0).sum())
    assert seen > 0


def activations(model, sae, rows) -> torch.Tensor:
    """`[n pos d_sae]`, example by example."""
    return torch.stack([by_hand(model, sae, HOOK, TokenExample(row, row > 0)) for row in rows])
