from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import hmean, ks_2samp

from tests.unlearning.conftest import N


def test_the_scores_are_the_papers_formulas(runs):
    run, full, retain = (runs[name].parts for name in ("base", "full", "retain"))
    found = runs["base"].evaluate(runs, n_resamples=2)
    left = {}
    for score, column in {
        "em": "exact_memorization", "es": "extraction_strength", "pp": "paraphrased_probability", "tr": "truth",
    }.items():  # fmt: skip
        unl, top, gold = (one["forget"][column].mean() for one in (run, full, retain))
        left[score] = min(abs(unl - gold) / abs(top - gold), 1)
        assert found[score] == pytest.approx(left[score])
        assert found[f"{score}_raw"] == pytest.approx(unl)
    assert found["memorization"] == pytest.approx(hmean([max(1 - value, 1e-10) for value in left.values()]))

    def utility(parts):
        kept, facts = parts["retain"], parts["world_facts"]
        true = [1 - one["truth_ratio"].clip(upper=1) for one in (kept, facts)]
        columns = [
            kept["probability"],
            kept["rouge"],
            true[0],
            facts["normalized_probability"],
            facts["rouge"],
            true[1],
        ]
        return hmean([column.mean() for column in columns])

    assert found["mu_raw"] == pytest.approx(utility(run))
    assert found["mu"] == pytest.approx(min(utility(run) / utility(full), 1))
    assert found["utility"] == pytest.approx(found["mu"])
    private = []
    for attack in ("loss", "zlib", "min_k", "min_k_plus_plus"):
        forget, holdout = run["forget"][attack].to_numpy(), run["holdout"][attack].to_numpy()
        auc = (forget[:, None] < holdout).mean() + (forget[:, None] == holdout).mean() / 2
        private.append(1 - 2 * abs(auc - 0.5))
        assert found[f"auc_{attack}"] == pytest.approx(auc)
        assert found[f"s_{attack}"] == pytest.approx(private[-1])
    assert found["privacy"] == pytest.approx(hmean([max(one, 1e-10) for one in private]))
    parts = [found[name] for name in ("memorization", "utility", "privacy")]
    assert found["overall"] == pytest.approx(hmean(parts))
    pvalue = ks_2samp(run["forget"]["truth_ratio"], retain["forget"]["truth_ratio"]).pvalue
    assert found["fq"] == pytest.approx(np.log10(pvalue))
    assert found.missing == ("ff",)


def test_full_and_retain_are_the_ends_of_every_scale(runs):
    full, retain = (runs[name].evaluate(runs, n_resamples=2) for name in ("full", "retain"))
    assert full["memorization"] < 1e-9
    assert full["overall"] < 1e-9
    assert full["mu"] == 1
    assert [retain[name] for name in ("em", "es", "pp", "tr", "fq")] == [0] * 5
    assert retain["memorization"] == retain["privacy_against_retain"] == 1


def test_intervals_hold_their_values_and_shrink_to_none_without_spread(runs):
    for run in runs.values():
        table = run.evaluate(runs, n_resamples=100).table
        assert (table["low"] <= table["value"]).all()
        assert (table["value"] <= table["high"]).all()
    assert runs["base"].evaluate(runs, n_resamples=0).table["low"].isna().all()
    same = {part: pd.concat([frame.iloc[[0]]] * N, ignore_index=True) for part, frame in runs["base"].parts.items()}
    alike = replace(runs["base"], parts=same)
    ends = {name: replace(run, parts={p: pd.concat([f.iloc[[0]]] * N, ignore_index=True) for p, f in run.parts.items()})
            for name, run in runs.items()}  # fmt: skip
    table = alike.evaluate(ends, n_resamples=20).table
    np.testing.assert_allclose(table["low"], table["value"], atol=1e-12)
    np.testing.assert_allclose(table["high"], table["value"], atol=1e-12)


def test_the_same_seed_draws_the_same_questions(runs):
    one, two, other = (runs["base"].evaluate(runs, n_resamples=20, seed=seed).table for seed in (1, 1, 2))
    pd.testing.assert_frame_equal(one, two)
    assert not one["low"].equals(other["low"])


def test_a_scale_without_length_is_an_error(runs):
    with pytest.raises(ValueError, match="full and retain"):
        runs["base"].evaluate({"full": runs["full"], "retain": runs["full"]})
