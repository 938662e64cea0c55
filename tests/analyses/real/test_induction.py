from typing import Any

import numpy as np
import torch

from analyses.real import induction
from analyses.real.induction import LENGTH, concept, of_map, output_norms, prefix_matching, repeated
from engram_interp import localize
from engram_interp.benchmarks.ranking import auroc
from engram_interp.concepts.concept import TokenExample
from tests.conftest import build, hooked_only, token_concept


def test_a_repetition_repeats():
    rows = repeated(3, 2000, seed=0)
    assert torch.equal(rows[:, :LENGTH], rows[:, LENGTH:])
    told = concept(2000)
    assert len(told.target) == len(told.reference)
    (once, *_) = told.reference
    assert isinstance(once, TokenExample)
    once = once.tokens
    assert not torch.equal(once[:LENGTH], once[LENGTH:])


def test_the_chance_that_a_true_head_is_ranked_above_another():
    scores = np.array([3.0, 1.0, 2.0, 0.0])
    # True heads have 3 and 0: 3 is above both others, 0 above none, so 2 of 4 pairs are right.
    assert auroc(scores, np.array([True, False, False, True])) == 0.5


@hooked_only
def test_a_head_that_looks_where_the_pattern_was_matches_prefixes():
    model: Any = build("gpt2", n_ctx=2 * LENGTH)
    tokens = torch.randint(50, (2, LENGTH)).repeat(1, 2)
    found = prefix_matching(model, tokens)
    _, cache = model.run_with_cache(tokens)
    by_hand = [cache["pattern", 1][:, 2, t, t - LENGTH + 1] for t in range(LENGTH, 2 * LENGTH - 1)]
    assert torch.allclose(found[1, 2], torch.stack(by_hand).mean(), atol=1e-6)
    norms = output_norms(model, tokens)
    z = cache["z", 1][:, LENGTH:-1, 2] @ model.W_O[1, 2]
    assert torch.allclose(norms[1, 2], z.square().mean().sqrt(), rtol=1e-5)


@hooked_only
def test_key_heads_stand_for_the_query_heads_that_share_them(llama):
    wmap = localize(llama, token_concept(), rtol=0.05)
    keys, outputs = of_map(wmap, "W_K", "wnorm"), of_map(wmap, "W_O", "wnorm")
    assert keys.shape == outputs.shape
    assert keys[0] == keys[1] != keys[2]


@hooked_only
def test_every_ranking_is_of_every_head(monkeypatch):
    model: Any = build("llama", n_ctx=2 * LENGTH)
    for name, few in (("N_SEQUENCES", 4), ("N_TRUTH", 2), ("N_ABLATED", 1), ("N_BOOTSTRAPS", 20)):
        monkeypatch.setattr(induction, name, few)
    # A random model has no induction heads: the half that attends there most stands for them.
    half = prefix_matching(model, repeated(2, 50, seed=10)).median()
    monkeypatch.setattr(induction, "MATCHES", float(half))
    tables = induction.measure(model, draws=19)
    assert len(tables["heads"]) == 8
    assert tables["heads"].notna().all().all()
    assert set(tables["ranked"]["truth"]) == {"prefix matching", "costs as much"}
    assert tables["ranked"]["auroc"].between(0, 1).all()
    assert (tables["ranked"]["low"] <= tables["ranked"]["high"]).all()
    assert "output norm, target over reference" in induction.of_heads(tables)
    assert len(induction.figure(tables).data[0].y) == len(tables["heads"].columns) - 4
