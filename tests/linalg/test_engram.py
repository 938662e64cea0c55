import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engram_interp.linalg import engram
from engram_interp.linalg.engram import engram_matrix, soft_projector
from engram_interp.linalg.second_moment import SecondMoment
from engram_interp.linalg.spectrum import default_rtol, spectrum
from engram_interp.linalg.total import Total


def moment(n: int, d: int, seed: int) -> torch.Tensor:
    X = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return X.T @ X


def test_by_hand():
    # S+ = diag(3, 0), S- = diag(1, 2): the target owns 3/4 of the first direction and none of the second.
    S_plus, S_minus = torch.diag(torch.tensor([3.0, 0.0])), torch.diag(torch.tensor([1.0, 2.0]))
    solution = Total(SecondMoment(S_plus + S_minus)).solution(None)
    assert solution.solve(S_plus).tolist() == [[0.75, 0.0], [0.0, 0.0]]
    assert engram_matrix(torch.tensor([[4.0, 5.0]]), SecondMoment(S_plus), solution).tolist() == [[3.0, 0.0]]


@given(n=st.integers(1, 30), m=st.integers(1, 30), d=st.integers(1, 12), seed=st.integers(0, 999))
@settings(deadline=None)
def test_equals_the_pseudo_inverse(n, m, d, seed):
    S_plus, S_minus = moment(n, d, seed), moment(m, d, seed + 1000)
    S = S_plus + S_minus
    expected = S_plus @ torch.linalg.pinv(S, rtol=default_rtol(d), hermitian=True)
    torch.testing.assert_close(soft_projector(S_plus, S), expected, rtol=1e-6, atol=1e-8)


@given(n=st.integers(1, 30), m=st.integers(1, 30), d=st.integers(1, 12), seed=st.integers(0, 999))
@settings(deadline=None)
def test_target_and_reference_own_everything_that_the_data_has(n, m, d, seed):
    S_plus, S_minus = moment(n, d, seed), moment(m, d, seed + 1000)
    S = S_plus + S_minus
    U = spectrum(S).U
    both = soft_projector(S_plus, S) + soft_projector(S_minus, S)
    torch.testing.assert_close(both, U @ U.T, rtol=1e-6, atol=1e-8)


def test_it_minimizes_the_papers_loss():
    # Eq. 2: |(V - W) X+|^2 + |V X-|^2, stationary at V = W+.
    W = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    S_plus, S_minus = moment(20, 5, 1), moment(20, 5, 2)
    V = engram_matrix(W, SecondMoment(S_plus), Total(SecondMoment(S_plus + S_minus)).solution(None)).requires_grad_()
    loss = torch.trace((V - W) @ S_plus @ (V - W).T) + torch.trace(V @ S_minus @ V.T)
    (gradient,) = torch.autograd.grad(loss, V)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-9)


def test_no_data_owns_nothing():
    assert not soft_projector(torch.zeros(3, 3), torch.zeros(3, 3)).count_nonzero()


def test_many_rows_are_solved_for_in_blocks(monkeypatch):
    W, S_plus, S = moment(9, 9, 3), moment(20, 9, 1), moment(20, 9, 1) + moment(20, 9, 2)
    solution = Total(SecondMoment(S)).solution(None)
    whole = engram_matrix(W, SecondMoment(S_plus), solution)
    monkeypatch.setattr(engram, "ROWS", 4)
    torch.testing.assert_close(engram_matrix(W, SecondMoment(S_plus), solution), whole, rtol=1e-12, atol=1e-12)
