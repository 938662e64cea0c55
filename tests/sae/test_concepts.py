import pickle
import re

import numpy as np
import pandas as pd
import pytest
import torch

from engram_interp import (
    Concept,
    SaeConcept,
    choose_feature,
    concept_from_sae,
    concepts_from_sae,
    decompose,
    extract,
    localize,
    rank_features,
    reconstruction,
    testbed,
)
from engram_interp.concepts.concept import TokenExample
from engram_interp.models import adapt

pytest.importorskip("sae_lens")

from tests.sae.test_reader import HOOK, by_hand, make

CORPUS = testbed.authors()


@pytest.fixture(scope="module")
def sae():
    return make("topk")


@pytest.fixture(scope="module")
def rows() -> torch.Tensor:
    return torch.randint(3, 50, (60, 7), generator=torch.Generator().manual_seed(5))


def activations(model, sae, rows) -> torch.Tensor:
    """`[n pos d_sae]`, example by example."""
    return torch.stack([by_hand(model, sae, HOOK, TokenExample(row, row > 0)) for row in rows])


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
    with pytest.raises(ValueError, match="nothing is left for feature 12, which fire at no token that counts, or only"):
        concepts_from_sae(llama, twins, [7, 12], rows)


def test_where_one_always_fires_there_is_no_rest(llama, rows):
    sae = make("standard")
    sae.b_enc.data[1] = 1e3
    assert list(concepts_from_sae(llama, sae, [1, 2], rows)) == ["feature 1", "feature 2"]


def test_rates_are_counted_and_ordered(llama, sae, rows):
    target, reference = rows[:20], rows[20:]
    table = rank_features(llama, sae, target, reference)
    assert table["difference"].is_monotonic_decreasing
    a, b = (activations(llama, sae, side).numpy() for side in (target, reference))
    found = table.set_index("feature")
    for feature in (0, 7, 39):
        row = found.loc[feature]
        assert row["target_rate"] == pytest.approx((a[:, :, feature] > 0).any(1).mean())
        assert row["reference_rate"] == pytest.approx((b[:, :, feature] > 0).any(1).mean())
        assert row["target_token_rate"] == pytest.approx((a[:, :, feature] > 0).mean())
        assert row["reference_activation"] == pytest.approx(b[:, :, feature].max(1).mean(), rel=1e-5)
        assert row["low"] <= row["difference"] <= row["high"]
    assert len(table) == 40
    concept = Concept.from_tokens(target, reference)
    assert rank_features(llama, sae, concept).equals(table)


def test_without_a_reference_the_most_active_come_first(llama, sae, rows):
    table = rank_features(llama, sae, rows, confidence=0.9)
    assert table["target_rate"].is_monotonic_decreasing
    assert table[["reference_rate", "difference"]].isna().all(axis=None)
    assert ((table["low"] <= table["target_rate"]) & (table["target_rate"] <= table["high"])).all()


def test_the_interval_is_newcombes():
    # Newcombe (1998), Stat. Med. 17, Table II, method 10: 56/70 - 48/80 from 0.0524 to 0.3339.
    from engram_interp.sae.concepts import _rate_table
    from engram_interp.sae.reader import Rates

    one, other = (
        Rates(n, n, torch.tensor([float(hits)]), torch.zeros(1), torch.zeros(1)) for hits, n in ((56, 70), (48, 80))
    )
    row = _rate_table({"target": one, "reference": other}, 1.959964).iloc[0]
    assert row[["difference", "low", "high"]].tolist() == pytest.approx([0.2, 0.0524, 0.3339], abs=5e-5)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"confidence": 1.0}, "confidence is of the intervals, between 0 and 1; got 1.0"),
        ({"reference": ["in Oslo"]}, "a concept brings its own reference"),
        ({"threshold": -1}, "threshold is the least activation that is called firing, 0 or more; got -1"),
    ],
)
def test_mistakes_in_ranking_are_refused(llama, sae, rows, options, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        rank_features(llama, sae, Concept.from_tokens(rows, rows), **options)


def test_dead_and_everywhere_and_nothing_here(llama, rows):
    sae = make("standard")
    sae.b_enc.data[:3] = torch.tensor([-1e3, 1e3, 0.0])
    with pytest.raises(
        ValueError, match=r"feature 0 at .* fires at none of the 420 tokens that count: .* it is dead, or"
    ):
        concept_from_sae(llama, sae, 0, rows)
    with pytest.raises(
        ValueError, match=r"feature 1 at .* fires at all of the 420 tokens that count, so nothing is left"
    ):
        concept_from_sae(llama, sae, 1, rows)
    with pytest.raises(ValueError, match="below the threshold of 1e"):
        concept_from_sae(llama, sae, 2, rows, threshold=1e6)


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
    with pytest.raises(ValueError, match="1 tokens of text have nothing to explain between them"):
        reconstruction(llama, sae, rows[:1, :1])
    with pytest.raises(NotImplementedError, match="what a transcoder SAE decodes is not, or not all of, what it reads"):
        reconstruction(llama, make("transcoder"), corpus)


def test_the_feature_chosen_stands_out_in_all_examples():
    columns = ["feature", "target_rate", "target_activation", "reference_activation"]
    rows = [(1, 1.0, 8.0, 4.0), (2, 1.0, 3.0, 0.5), (3, 0.5, 9.0, 0.1), (4, 1.0, 0.0, 0.0)]  # 2 x, 6 x, 90 x but once
    assert choose_feature(pd.DataFrame(rows, columns=columns)) == (2, 1.5)
    assert choose_feature(pd.DataFrame([*rows, (5, 1.0, 0.1, 0.0)], columns=columns)) == (5, 0.05)  # nowhere else
    with pytest.raises(ValueError, match="no feature fires in these examples"):
        choose_feature(pd.DataFrame([(4, 0.0, 0.0, 0.0)], columns=columns))
    with pytest.raises(ValueError, match="this ranking has no reference"):
        choose_feature(pd.DataFrame([(4, 1.0, 1.0, np.nan)], columns=columns))
