import pytest
from hypothesis import given
from hypothesis import strategies as st

from engram_interp.unlearning.metrics import harmonic_mean, relative, rescaled

SHARES = st.floats(0, 1)


def test_harmonic_mean_by_hand():
    # 3 / (1 + 2 + 4) and, with a zero floored at 1e-10, 2 / (1e10 + 1)
    assert harmonic_mean([1.0, 0.5, 0.25]) == pytest.approx(3 / 7)
    assert harmonic_mean([0.0, 1.0]) == pytest.approx(2e-10)


def test_the_papers_tables_are_harmonic_means():
    # Table 6, Engram with the adaptive alpha: Memorization from EM, ES, PP and TR; Privacy from four attacks; Overall.
    memorization = harmonic_mean([1 - 0.0276, 1 - 0.0201, 1 - 0.0842, 1 - 0.0138])
    privacy = harmonic_mean([0.7688, 0.7255, 0.6905, 0.4829])
    utility = harmonic_mean([0.8616, 1.0])
    assert memorization == pytest.approx(0.9627, abs=1e-3)
    assert privacy == pytest.approx(0.6453, abs=1e-3)
    assert utility == pytest.approx(0.9256, abs=1e-3)
    assert harmonic_mean([memorization, privacy, utility]) == pytest.approx(0.8177, abs=1e-3)


@given(st.lists(SHARES, min_size=1, max_size=5))
def test_a_harmonic_mean_lies_between(scores):
    assert min(scores) * (1 - 1e-9) <= harmonic_mean(scores) <= max(*scores, 1e-10) * (1 + 1e-9)


def test_rescaled_by_hand():
    assert rescaled(0.6, full=1.0, retain=0.5) == pytest.approx(0.2)
    # What goes below the retain model differs from it too.
    assert rescaled(0.4, full=1.0, retain=0.5) == pytest.approx(0.2)
    assert rescaled(0.0, full=0.6, retain=0.5) == 1.0


@given(SHARES, SHARES)
def test_full_and_retain_are_the_ends_of_the_scale(full, retain):
    if full == retain:
        with pytest.raises(ValueError, match=f"full and retain.*{full}"):
            rescaled(0.5, full, retain)
        return
    assert rescaled(full, full, retain) == 1.0
    assert rescaled(retain, full, retain) == 0.0


def test_relative_by_hand():
    assert relative(0.3, 0.6) == 0.5
    assert relative(0.9, 0.6) == 1.0
    with pytest.raises(ValueError, match=r"full .*0\.0"):
        relative(0.5, 0.0)


def test_no_scores_have_no_mean():
    with pytest.raises(ValueError, match="scores .*none"):
        harmonic_mean([])
