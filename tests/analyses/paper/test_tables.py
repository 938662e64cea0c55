import pandas as pd
import pytest

from analyses.paper.tables import compared, set_to


def test_a_setting_at_the_end_of_what_was_tried_has_a_star():
    tried = [{"learning_rate": rate, "beta": beta} for rate in (1e-4, 3e-4, 1e-3) for beta in (0.1, 0.5)]
    assert set_to({"learning_rate": 1e-3, "beta": 0.5}, tried) == r"rate 0.001\*, beta 0.5"
    assert set_to({"learning_rate": 3e-4, "beta": 0.1}, tried) == "rate 0.0003, beta 0.1"
    scales = [{"alpha": "w-norm", "scale": s} for s in (1, 6, 16)]
    assert set_to({"alpha": "w-norm", "scale": 6.0}, scales) == "scale 6"


def test_settings_of_what_forgets_nothing_are_left_out_and_either_privacy_is_there():
    scores = {
        "overall": 0.8,
        "memorization": 1.0,
        "utility": 1.0,
        "privacy": 0.5,
        "em": 0.1,
        "privacy_against_retain": 0.25,
    }
    rows = [
        {"method": method, "score": score, "value": factor * value, "low": 0.0, "high": 1.0}
        for method, factor in {"NPO": 1.0, "UCE": 0.0}.items()
        for score, value in scores.items()
    ]
    tried = [{"method": method, "options": {"alpha": 2.0}, "overall": 0.5} for method in ("NPO", "UCE")]
    text = compared({"scores": pd.DataFrame(rows), "tried": pd.DataFrame(tried)}, paper={})
    # 3 / (1 + 1 + 4) = 0.5
    assert "| NPO | alpha 2 | 0.800 [0.000, 1.000] | 0.500 | 1.000 | 1.000 | 0.500 | 0.100 |" in text
    assert "| UCE |  | 0.000 [" in text


def test_results_of_other_models_are_not_put_in_one_table():
    rows = [{"method": "full", "score": "overall", "value": value, "low": 0.0, "high": 1.0} for value in (0.0, 0.1)]
    tried = pd.DataFrame([{"method": "NPO", "options": {}, "overall": 0.5}])
    with pytest.raises(ValueError, match="not of the same models"):
        compared({"scores": pd.DataFrame(rows), "tried": tried}, paper={})
