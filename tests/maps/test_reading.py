import pytest
import torch

from engram_interp import Concept, collect, extract, reads, testbed, writes
from engram_interp.linalg.spectrum import spectrum
from engram_interp.models import adapt
from tests.conftest import build, token_concept


@pytest.fixture(scope="module")
def capitals() -> Concept:
    corpus = testbed.authors()
    facts = corpus.world_examples[:60]
    return Concept(facts, [one for author in corpus.retain90[:60] for one in author.examples], "capitals")


def test_an_engram_of_facts_listens_to_their_answers_and_says_that_they_are_over(full, capitals):
    # Half of the positions that count hold a capital, behind which the text ends.
    engram = extract(full, capitals, components="out", layers=[3])
    key, answers = "blocks.3.mlp.W_out", {answer for _, answer in capitals.target}
    found = writes(full, engram, key, capitals, n=3, n_tokens=6, draws=19)
    assert found["tokens"][0][0] == "<eos>"
    assert found["share"].is_monotonic_decreasing
    assert found["p_value"].between(1 / 20, 1).all()
    assert found["share"][0] > found["control"][0]
    heard = reads(full, engram, key, capitals, n=3, n_tokens=8, draws=19)
    assert sum(token.strip() in answers for token in heard["tokens"][0]) == 8
    assert heard["share"].tolist() == found["share"].tolist()


def test_what_is_written_is_what_the_unembedding_makes_of_it(llama):
    # A logit of the model is linear in the residual stream once the scale of its last norm is taken out.
    adapter = adapt(llama)
    directions = torch.randn(3, llama.cfg.d_model, generator=torch.Generator().manual_seed(0))
    scaled = llama.ln_final.w * directions
    assert torch.allclose(adapter.logits_of(directions), scaled @ llama.W_U, atol=1e-5)
    centred = build("gpt2")
    constant = torch.ones(1, centred.cfg.d_model)
    assert torch.allclose(adapt(centred).logits_of(constant), torch.zeros(1, centred.cfg.d_vocab), atol=1e-6)


def test_random_sets_have_the_shares_of_random_sets(llama):
    concept = token_concept()
    engram = extract(llama, concept, components="out")
    llama.tokenizer = testbed.load("full").tokenizer
    found = reads(llama, engram, "blocks.1.mlp.W_out", concept, n=2, draws=19)
    # Random tokens are no concept: their engram is one of many alike.
    assert (found["p_value"] > 0.05).any()


def test_directions_are_those_above_the_engrams_own_cut(llama):
    concept = token_concept()
    llama.tokenizer = testbed.load("full").tokenizer
    options = {"rtol": 0.05, "outliers": 0.2}
    engram = extract(llama, concept, components="out", layers=1, **options)
    key = "blocks.1.mlp.W_out"
    found = reads(llama, engram, key, concept, n=100, draws=19)
    S = collect(llama, concept, components="out", layers=1).total("blocks.1.mlp.post").matrix(ones=False)
    every = spectrum(S, 0.0)
    assert len(found) <= every.above(every.without_outliers(0.05, 0.2)).rank
    assert len(found) > every.above(0.05).rank


def test_what_cannot_be_read_is_refused(full, capitals):
    engram = extract(full, capitals, components=["Q", "out"], layers=[1])
    with pytest.raises(ValueError, match=r"blocks\.1\.attn\.W_Q"):
        writes(full, engram, "blocks.1.attn.W_Q", capitals)
    with pytest.raises(ValueError, match=r"blocks\.2\.mlp\.W_out"):
        reads(full, engram, "blocks.2.mlp.W_out", capitals)
    with pytest.raises(ValueError, match="draws.*5"):
        reads(full, engram, "blocks.1.mlp.W_out", capitals, draws=5)
