import numpy as np
import pandas as pd
import pytest
import torch

from engram_interp import Concept, choose_feature, rank_features
from engram_interp.sae.ranking import Rates, rate_table
from tests.sae.saes import activations


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
    one, other = (
        Rates(n, n, torch.tensor([float(hits)]), torch.zeros(1), torch.zeros(1)) for hits, n in ((56, 70), (48, 80))
    )
    row = rate_table({"target": one, "reference": other}, 1.959964).iloc[0]
    assert row[["difference", "low", "high"]].tolist() == pytest.approx([0.2, 0.0524, 0.3339], abs=5e-5)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"confidence": 1.0}, r"confidence.*1\.0"),
        ({"reference": ["in Oslo"]}, "reference"),
        ({"threshold": -1}, "threshold.*-1"),
    ],
)
def test_mistakes_in_ranking_are_refused(llama, sae, rows, options, says):
    with pytest.raises(ValueError, match=says):
        rank_features(llama, sae, Concept.from_tokens(rows, rows), **options)


def test_the_feature_chosen_stands_out_in_all_examples():
    columns = ["feature", "target_rate", "target_activation", "reference_activation"]
    rows = [(1, 1.0, 8.0, 4.0), (2, 1.0, 3.0, 0.5), (3, 0.5, 9.0, 0.1), (4, 1.0, 0.0, 0.0)]  # 2 x, 6 x, 90 x but once
    assert choose_feature(pd.DataFrame(rows, columns=columns)) == (2, 1.5)
    assert choose_feature(pd.DataFrame([*rows, (5, 1.0, 0.1, 0.0)], columns=columns)) == (5, 0.05)  # nowhere else
    with pytest.raises(ValueError, match="ranked has no feature that fires"):
        choose_feature(pd.DataFrame([(4, 0.0, 0.0, 0.0)], columns=columns))
    with pytest.raises(ValueError, match="ranked has no reference"):
        choose_feature(pd.DataFrame([(4, 1.0, 1.0, np.nan)], columns=columns))
