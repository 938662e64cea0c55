import pickle

import numpy as np
import pytest
import torch

from engram_interp import (
    Concept,
    SaeConcept,
    concept_from_sae,
    concepts_from_sae,
    decompose,
    extract,
    localize,
    rank_features,
    testbed,
)
from engram_interp.models import adapt
from tests.sae.saes import HOOK, activations, make

CORPUS = testbed.authors()


def assert_same_engram(a, b) -> None:
    assert list(a) == list(b)
    for key in a:
        assert torch.allclose(a[key], b[key], atol=1e-6), key


def test_the_engram_is_that_of_the_tokens_where_it_fires(llama, sae, rows):
    concept = concept_from_sae(llama, sae, 7, rows)
    fires = activations(llama, sae, rows)[:, :, 7] > 0
    by_masks = Concept.from_tokens(rows, rows, fires, ~fires)
    assert concept.partition.counts == {"target": int(fires.sum()), "reference": int((~fires).sum()), "unused": 0}
    assert_same_engram(extract(llama, concept), extract(llama, by_masks))
    assert concept.name == "feature 7"
    assert isinstance(concept, SaeConcept)
    assert isinstance(concept, Concept)


def test_thresholds_and_quantiles(llama, sae, rows):
    a = activations(llama, sae, rows)[:, :, 7]
    for options, least in [({"threshold": 3.5}, 3.5), ({"quantile": 0.75}, float(np.quantile(a[a > 0], 0.75)))]:
        concept = concept_from_sae(llama, sae, 7, rows, **options)
        assert concept.partition.counts["target"] == int((a >= least).sum()) < int((a > 0).sum())


def test_several_features_fire_together(llama, sae, rows):
    a = activations(llama, sae, rows)
    concept = concept_from_sae(llama, sae, [7, 12], rows)
    assert concept.partition.counts["target"] == int(((a[:, :, 7] > 0) | (a[:, :, 12] > 0)).sum())
    assert concept.name == "feature 7, feature 12"
    assert concept.partition.what == f"feature 7, feature 12 at {HOOK}"


def test_whole_examples_stay_text(full):
    sae = make("topk", 256, "blocks.0.hook_resid_post")
    examples = CORPUS.world_examples[:40]
    shown = rank_features(full, sae, examples)
    feature = int(shown[shown["target_rate"].between(0.2, 0.8)]["feature"].iloc[0])
    concept = concept_from_sae(full, sae, feature, examples, per="example")
    assert set(concept.target) | set(concept.reference) == set(examples)
    assert not set(concept.target) & set(concept.reference)
    share = shown.set_index("feature")["target_rate"][feature]
    assert len(concept.target) == round(share * 40)
    capped = concept_from_sae(full, sae, feature, examples, per="example", max_tokens=5)
    assert capped.partition.counts["target"] == capped.partition.counts["reference"] == 5


def test_rows_of_tokens_count_without_bos_and_padding(full):
    sae = make("topk", 256, "blocks.0.hook_resid_post")
    (bos, pad) = adapt(full).encoder.unread
    rows = torch.tensor([[bos, 20, 30, 40], [bos, 21, 31, pad], [bos, 22, pad, pad]])
    concept = concept_from_sae(full, sae, rank_features(full, sae, rows)["feature"][0], rows, quantile=1.0)
    assert sum(concept.partition.counts.values()) == 6


def test_every_option_reaches_the_partition(llama, sae, rows):
    matched = concept_from_sae(llama, sae, 7, rows, reference="matched", max_tokens=20, seed=3, name="seven")
    assert matched.name == "seven"
    assert max(matched.partition.counts["target"], matched.partition.counts["reference"]) <= 20
    tokens = [{int(t) for one in side for t in one.tokens[one.counts]} for side in (matched.target, matched.reference)]
    assert tokens[0] == tokens[1]
    page = matched._repr_html_()
    assert "silent tokens of the same kinds" in page
    assert repr(matched).startswith("SaeConcept(Partition(feature 7 at blocks.1.hook_resid_pre, ")


def test_a_concept_is_only_text_and_numbers(full):
    sae = make("topk", 256, "blocks.0.hook_resid_post")
    examples = CORPUS.world_examples[:20]
    feature = rank_features(full, sae, examples).query("target_rate < 1").iloc[0]["feature"]
    concept = concept_from_sae(full, sae, feature, examples, per="example")
    again = pickle.loads(pickle.dumps(concept))
    assert again.partition.to_html() == concept.partition.to_html()
    assert len(pickle.dumps(concept)) < 3_000_000  # no model in it


def test_localize_is_one_line_further(llama, sae, rows):
    wmap = localize(llama, concept_from_sae(llama, sae, 7, rows))
    assert (wmap.wnorm[wmap.wnorm.isfinite()] > 0).all()


def test_features_go_into_one_decomposition(llama, sae, rows):
    a = activations(llama, sae, rows)
    groups = concepts_from_sae(llama, sae, [7, 12, 30], rows)
    typical = a[:, :, [7, 12, 30]] / a[:, :, [7, 12, 30]].amax((0, 1))
    expected = typical.argmax(2).where(typical.amax(2) > 0, 3)
    for place, (name, examples) in enumerate(groups.items()):
        assert sum(int(one.counts.sum()) for one in examples) == int((expected == place).sum()), name
    assert list(groups) == ["feature 7", "feature 12", "feature 30", "rest"]
    parts = decompose(llama, groups)
    whole = parts.engram(list(groups))
    everything = extract(llama, Concept.from_tokens(rows, rows))  # the two sides alike: half of what the data has
    for key in whole:
        assert torch.allclose(whole[key], 2 * everything[key], atol=1e-5)


def test_a_single_feature_decomposed_is_its_concept(llama, sae, rows):
    for options in ({}, {"threshold": 0.3}, {"per": "example", "share": 0.3}):
        parts = decompose(llama, concepts_from_sae(llama, sae, [7], rows, **options))
        assert_same_engram(parts["feature 7"], extract(llama, concept_from_sae(llama, sae, 7, rows, **options)))


def test_a_feature_without_tokens_of_its_own_is_named(llama, sae, rows):
    twins = make("standard")
    twins.W_enc.data[:, 12], twins.b_enc.data[12] = twins.W_enc.data[:, 7], twins.b_enc.data[7]
    with pytest.raises(ValueError, match="feature 12"):
        concepts_from_sae(llama, twins, [7, 12], rows)


def test_where_one_always_fires_there_is_no_rest(llama, rows):
    sae = make("standard")
    sae.b_enc.data[1] = 1e3
    assert list(concepts_from_sae(llama, sae, [1, 2], rows)) == ["feature 1", "feature 2"]


def test_dead_and_everywhere_and_nothing_here(llama, rows):
    sae = make("standard")
    sae.b_enc.data[:3] = torch.tensor([-1e3, 1e3, 0.0])
    with pytest.raises(ValueError, match=r"feature 0 at .* none of the 420 tokens.* dead"):
        concept_from_sae(llama, sae, 0, rows)
    with pytest.raises(ValueError, match=r"feature 1 at .* all of the 420 tokens.*reference"):
        concept_from_sae(llama, sae, 1, rows)
    with pytest.raises(ValueError, match=r"threshold.*1e\+06"):
        concept_from_sae(llama, sae, 2, rows, threshold=1e6)


@pytest.mark.parametrize("option", ["reference", "max_tokens", "seed"])
def test_options_that_a_decomposition_has_no_use_for_are_refused(llama, sae, rows, option):
    with pytest.raises(TypeError, match=option):
        concepts_from_sae(llama, sae, [7], rows, **{option: 1})
