import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engram_interp.linalg.engram import engram_matrix
from engram_interp.linalg.fisher import natural_gradient, squared_length
from engram_interp.linalg.second_moment import SecondMoment
from engram_interp.linalg.spectrum import Spectrum, spectrum
from engram_interp.linalg.total import Total
from tests.linalg.test_ownership import DATA, inputs

few = st.integers(1, 20)
sizes = st.integers(1, 5)
widths = st.integers(1, 6)
seeds = st.integers(0, 999)
kinds = st.sampled_from(sorted(DATA))


def layer(n: int, m: int, out: int, d: int, seed: int, kind: str = "full"):
    """`W`, `S+`, `S-`, their sum's kept directions, and `W+`."""
    X_plus, X_minus = DATA[kind](n, d, seed), DATA[kind](m, d, seed + 1000)
    W, S_plus, S_minus = inputs(out, d, seed + 2000), X_plus.T @ X_plus, X_minus.T @ X_minus
    return (
        W,
        S_plus,
        S_minus,
        spectrum(S_plus + S_minus),
        engram_matrix(W, SecondMoment(S_plus), Total(SecondMoment(S_plus + S_minus)).solution(None)),
    )


def outputs(out: int, seed: int) -> torch.Tensor:
    """A positive definite `G` that is far from the identity."""
    g = inputs(3 * out, out, seed + 3000)
    return g.T @ g + 0.1 * torch.eye(out).double()


def loss(V: torch.Tensor, W: torch.Tensor, S_plus: torch.Tensor, S_minus: torch.Tensor, G=None) -> torch.Tensor:
    """Eq. 2, in the metric of the outputs."""
    return squared_length(V - W, S_plus, G) + squared_length(V, S_minus, G)


@given(n=few, out=sizes, d=widths, seed=seeds)
@settings(deadline=None)
def test_the_quadratic_form_is_that_of_the_kronecker_product(n, out, d, seed):
    W, S_plus, *_ = layer(n, 1, out, d, seed)
    G = outputs(out, seed)
    vec = W.T.flatten()  # columns of W, one after the other
    assert float(squared_length(W, S_plus, G)) == pytest.approx(float(vec @ torch.kron(S_plus, G) @ vec))
    assert float(squared_length(W, S_plus)) == pytest.approx(float((W @ inputs(n, d, seed).T).norm() ** 2))


@given(n=few, m=few, out=sizes, d=widths, seed=seeds, kind=kinds, measured=st.booleans())
@settings(deadline=None)
def test_theorem_6_1_the_loss_is_the_fisher_distance_from_the_engram(n, m, out, d, seed, kind, measured):
    # L(V) = |V - W+|_F^2 + L(W+) for any V: the engram is a projection, whatever the metric of the outputs.
    W, S_plus, S_minus, _, W_plus = layer(n, m, out, d, seed, kind)
    G, V = outputs(out, seed) if measured else None, inputs(out, d, seed + 4000)
    expected = squared_length(V - W_plus, S_plus + S_minus, G) + loss(W_plus, W, S_plus, S_minus, G)
    assert float(loss(V, W, S_plus, S_minus, G)) == pytest.approx(float(expected), rel=1e-10, abs=1e-10)


@given(n=st.integers(1, 3), out=sizes, d=st.integers(5, 8), seed=seeds)
@settings(deadline=None)
def test_of_all_that_do_as_well_the_engram_is_the_smallest(n, out, d, seed):
    W, S_plus, S_minus, kept, W_plus = layer(n, 1, out, d, seed)
    through_null = inputs(out, d, seed + 4000) @ (torch.eye(d).double() - kept.Pi)
    other = W_plus + through_null
    assert float(loss(other, W, S_plus, S_minus)) == pytest.approx(float(loss(W_plus, W, S_plus, S_minus)), abs=1e-9)
    assert float(other.norm() ** 2) == pytest.approx(float(W_plus.norm() ** 2 + through_null.norm() ** 2))


@given(n=few, m=few, out=sizes, d=widths, seed=seeds, kind=kinds)
@settings(deadline=None)
def test_corollary_6_3_ablation_is_a_natural_gradient_step(n, m, out, d, seed, kind):
    W, S_plus, _, kept, W_plus = layer(n, m, out, d, seed, kind)
    W = W.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(squared_length(W, S_plus), W)
    torch.testing.assert_close(gradient, 2 * W.detach() @ S_plus, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(natural_gradient(gradient, kept) / 2, W_plus, rtol=1e-10, atol=1e-10)


def test_the_step_is_that_of_the_whole_fisher_matrix():
    W, S_plus, S_minus, kept, _ = layer(9, 9, 3, 4, 0)
    G, gradient = outputs(3, 0), 2 * W @ S_plus
    whole = torch.linalg.pinv(torch.kron(S_plus + S_minus, G)) @ gradient.T.flatten()
    torch.testing.assert_close(natural_gradient(gradient, kept, G), whole.reshape(4, 3).T, rtol=1e-8, atol=1e-8)


@given(n=few, m=few, out=sizes, d=widths, seed=seeds)
@settings(deadline=None)
def test_a_measured_g_drops_out_where_forgetting_is_measured_in_it(n, m, out, d, seed):
    W, S_plus, _, kept, W_plus = layer(n, m, out, d, seed)
    G, W = outputs(out, seed), W.clone().requires_grad_()
    (in_its_metric,) = torch.autograd.grad(squared_length(W, S_plus, G), W)
    torch.testing.assert_close(natural_gradient(in_its_metric, kept, G) / 2, W_plus, rtol=1e-8, atol=1e-8)
    # Of the paper's loss, |W X+|^2, it stays: the step is turned.
    (euclidean,) = torch.autograd.grad(squared_length(W, S_plus), W)
    torch.testing.assert_close(
        natural_gradient(euclidean, kept, G) / 2, torch.linalg.solve(G, W_plus), rtol=1e-8, atol=1e-8
    )


def test_no_inputs_are_no_step():
    empty = Spectrum(torch.zeros(3, 0).double(), torch.zeros(0).double())
    assert not natural_gradient(torch.ones(2, 3), empty).count_nonzero()
