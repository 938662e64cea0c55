import math

import pytest
import torch

from engram_interp.linalg.rewriting import rewriting
from engram_interp.linalg.spectrum import spectrum


def data(n_plus=3, n_minus=40, d=6, out=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    W, V = (torch.randn(out, size, generator=generator, dtype=torch.float64) for size in (d, n_plus))
    plus, minus = (torch.randn(d, n, generator=generator, dtype=torch.float64) for n in (n_plus, n_minus))
    return W, V, plus, minus


def test_the_papers_equation_32():
    W, V, plus, minus = data()
    kept = spectrum(plus @ plus.T + minus @ minus.T, 0.0)
    expected = (V @ plus.T + W @ minus @ minus.T) @ torch.linalg.pinv(plus @ plus.T + minus @ minus.T)
    torch.testing.assert_close(W + rewriting(W, V, plus, kept), expected)


def test_tabula_rasa_is_v_star_of_zero():
    W, V, plus, minus = data()
    kept = spectrum(plus @ plus.T + minus @ minus.T, 0.0)
    engram = W @ kept.solve(plus @ plus.T)
    torch.testing.assert_close(rewriting(W, torch.zeros_like(V), plus, kept), -engram)


@pytest.mark.parametrize("weight", [0.1, 1.0, 30.0])
def test_a_weight_is_so_many_copies_of_the_target(weight):
    W, V, plus, minus = data()
    kept = spectrum(plus @ plus.T + minus @ minus.T, 0.0)
    heavy = weight * plus @ plus.T + minus @ minus.T
    expected = (weight * V @ plus.T + W @ minus @ minus.T) @ torch.linalg.inv(heavy)
    torch.testing.assert_close(W + rewriting(W, V, plus, kept, weight), expected)


def test_one_key_without_bound_is_romes_rank_one_update():
    W, V, plus, minus = data(n_plus=1)
    C = minus @ minus.T
    k, v = plus[:, 0], V[:, 0]
    step = torch.linalg.solve(C, k)
    rome = W + torch.outer(v - W @ k, step) / (k @ step)
    kept = spectrum(plus @ plus.T + C, 0.0)
    found = W + rewriting(W, V, plus, kept, math.inf)
    torch.testing.assert_close(found, rome)
    torch.testing.assert_close(found @ k, v)
    torch.testing.assert_close(W + rewriting(W, V, plus, kept, 1e9), rome, rtol=1e-5, atol=1e-6)


def test_without_bound_every_output_is_as_chosen_and_nothing_else_moves_more_than_it_must():
    W, V, plus, minus = data()
    kept = spectrum(plus @ plus.T + minus @ minus.T, 0.0)
    change = rewriting(W, V, plus, kept, math.inf)
    torch.testing.assert_close((W + change) @ plus, V)
    # Any other exact change moves the reference more: add what leaves the target alone.
    null = torch.eye(6, dtype=torch.float64) - plus @ torch.linalg.pinv(plus)
    other = change + 0.1 * torch.randn(4, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64) @ null
    torch.testing.assert_close((W + other) @ plus, V)
    assert (change @ minus).norm() < (other @ minus).norm()


def test_the_same_key_twice_is_no_obstacle():
    W, V, plus, minus = data(n_plus=2)
    plus, V = plus[:, [0, 0]], V[:, [0, 0]]
    kept = spectrum(plus @ plus.T + minus @ minus.T, 0.0)
    torch.testing.assert_close((W + rewriting(W, V, plus, kept, math.inf)) @ plus, V)


@pytest.mark.parametrize("weight", [0, -1.0, float("nan")])
def test_a_weight_is_above_zero(weight):
    W, V, plus, _ = data()
    with pytest.raises(ValueError, match=f"weight.*{weight}"):
        rewriting(W, V, plus, spectrum(plus @ plus.T), weight)
