import pytest
import torch

from engram_interp import reconstruction
from engram_interp.concepts.concept import TokenExample
from tests.sae.saes import HOOK, by_hand, make


def test_reconstruction_is_what_the_sae_says_of_the_activations(llama, rows):
    sae = make("topk")
    rows[:, -1] = 0
    corpus = [TokenExample(row[: 5 + i % 3], row[: 5 + i % 3] > 0) for i, row in enumerate(rows)]
    found = reconstruction(llama, sae, corpus, batch_size=7)
    X, features = [], []
    for example in corpus:
        _, cache = llama.run_with_cache(example.tokens[None], names_filter=HOOK)
        X.append(cache[HOOK][0][example.counts])
        features.append(by_hand(llama, sae, HOOK, example)[example.counts])
    X, features = torch.cat(X).double(), torch.cat(features)
    with torch.no_grad():
        missed = X - sae.decode(features).double()
    expected = 1 - missed.square().sum() / (X - X.mean(0)).square().sum()
    assert found.explained_variance == pytest.approx(float(expected), rel=1e-5)
    assert found.l0 == pytest.approx(float((features > 0).sum(1).double().mean()))
    assert found.dead == float((~(features > 0).any(0)).double().mean())
    assert found.n_tokens == len(X)
    with pytest.raises(ValueError, match="corpus has 1 token"):
        reconstruction(llama, sae, rows[:1, :1])
    with pytest.raises(NotImplementedError, match=r"transcoder.*blocks\.1\.hook_resid_pre"):
        reconstruction(llama, make("transcoder"), corpus)
