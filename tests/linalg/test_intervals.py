import math

import numpy as np
import pytest
import torch

from engram_interp.linalg.intervals import bootstrap_mean, family_p_values, interval, newcombe, wilson

Z = 1.959964


def test_p_values_by_hand():
    # Unit 0 of the target is the largest of five; unit 1 lies in the middle. Nothing varies in unit 2.
    excess = torch.tensor(
        [[9.0, 1.0, 0.0], [1.0, 1.1, 0.0], [1.1, 0.9, 0.0], [0.9, 1.2, 0.0], [1.0, 0.8, 0.0]], dtype=torch.float64
    )
    assert family_p_values(excess).tolist() == [pytest.approx(1 / 5), pytest.approx(3 / 5), 1.0]


def test_an_interval_by_hand():
    # Squares 3, 4, 5 have the standard deviation 1: the square 9 of 3 is within 1.96 of it. Of 1, it is from 0 on.
    squares = torch.tensor([[3.0], [4.0], [5.0]]).double()
    low, high = interval(torch.tensor([3.0]).double(), squares.sqrt())
    assert low.item() == pytest.approx((9 - 1.959964) ** 0.5)
    assert high.item() == pytest.approx((9 + 1.959964) ** 0.5)
    low, high = interval(torch.tensor([1.0]).double(), squares.sqrt())
    assert (low.item(), high.item()) == (0, pytest.approx((1 + 1.959964) ** 0.5))


def test_without_units_there_are_no_p_values():
    assert family_p_values(torch.zeros(5, 0, dtype=torch.float64)).shape == (0,)


def test_a_mean_of_zeros_and_ones_is_binomial():
    # 0.5 within 1.96 * 0.5 / sqrt(n) at 95 %.
    found, half = bootstrap_mean(np.array([0.0, 1.0] * 200), seed=0), 1.96 * 0.5 / 400**0.5
    assert (found["value"], found["n"]) == (0.5, 400)
    assert (found["low"], found["high"]) == (pytest.approx(0.5 - half, abs=0.01), pytest.approx(0.5 + half, abs=0.01))
    assert bootstrap_mean(np.array([0.0, 1.0] * 200), seed=0) == found


def test_a_single_number_has_no_interval():
    found = bootstrap_mean(np.array([3.0]), seed=0)
    assert (found["value"], found["n"]) == (3.0, 1)
    assert math.isnan(found["low"])
    assert math.isnan(found["high"])


def test_wilsons_interval_solves_its_equation():
    # Its ends are the shares p from which the one found is z standard errors away.
    hits, n = torch.tensor([3.0, 40.0, 77.0]).double(), 80
    for end in wilson(hits, n, Z):
        assert ((hits / n - end).abs() / (end * (1 - end) / n).sqrt()).tolist() == pytest.approx([Z] * 3)


@pytest.mark.parametrize("n", range(1, 40))
def test_wilsons_interval_of_none_and_of_all_holds_the_share(n):
    low, high = wilson(torch.tensor([0.0, n]), n, Z)
    assert low[0].item() == 0
    assert 1 <= high[1].item() <= 1 + 1e-6


@pytest.mark.parametrize(
    ("hits", "n", "other", "other_n", "low", "high"),
    [(56, 70, 48, 80, 0.0524, 0.3339), (9, 10, 3, 10, 0.1705, 0.8090), (10, 10, 0, 10, 0.6075, 1.0)],
)
def test_a_difference_has_the_interval_of_newcombe_1998_table_ii_method_10(hits, n, other, other_n, low, high):
    found = newcombe(torch.tensor([float(hits)]), n, torch.tensor([float(other)]), other_n, Z)
    assert [end.item() for end in found] == pytest.approx([low, high], abs=5e-5)
