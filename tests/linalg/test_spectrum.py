import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engram_interp.linalg.engram import soft_projector
from engram_interp.linalg.spectrum import spectrum


def moment(n: int, d: int, seed: int) -> torch.Tensor:
    X = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return X.T @ X


def test_a_rank_one_moment_keeps_one_direction():
    x = torch.tensor([1.0, 2.0, 2.0], dtype=torch.float64)
    kept = spectrum(torch.outer(x, x))
    assert kept.lam.tolist() == pytest.approx([9.0])  # |x|^2
    assert kept.U[:, 0].abs().tolist() == pytest.approx([1 / 3, 2 / 3, 2 / 3])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_cut_does_not_move_with_the_dtype(dtype):
    # d = 4: the default cut is 4.8e-7 of the largest eigenvalue.
    S = torch.diag(torch.tensor([1.0, 1e-3, 6e-7, 4e-7], dtype=dtype))
    assert len(spectrum(S).lam) == 3
    assert len(spectrum(S, rtol=1e-2).lam) == 1
    assert len(spectrum(S, rtol=0.0).lam) == 4


def test_what_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="second moment.* 2 "):
        spectrum(torch.tensor([[1.0, float("inf")], [0.0, 1.0]]))


@given(n=st.integers(1, 30), d=st.integers(1, 12), seed=st.integers(0, 999), ridge=st.floats(1e-2, 10))
@settings(deadline=None)
def test_a_ridge_is_uces_inverse(n, d, seed, ridge):
    S_plus, S = moment(n, d, seed), moment(n, d, seed) + moment(n, d, seed + 1000)
    expected = S_plus @ torch.linalg.inv(S + ridge * torch.eye(d, dtype=torch.float64))
    torch.testing.assert_close(spectrum(S, ridge=ridge).solve(S_plus), expected, rtol=1e-8, atol=1e-8)


def test_a_coarser_cut_is_taken_from_a_spectrum_that_is_there():
    S = torch.diag(torch.tensor([1.0, 1e-3, 6e-7, 4e-7]))
    for rtol in (None, 1e-2, 1e-6):
        assert spectrum(S, 0.0).above(rtol).lam.tolist() == spectrum(S, rtol).lam.tolist()


@pytest.mark.parametrize("ridge", [1e-30, 1e-14, 1e-6])
def test_a_ridge_divides_no_rounding(ridge):
    # Of three tokens in eight dimensions the rest is nothing, however small a ridge stands there.
    S_plus, S = moment(2, 8, 0), moment(2, 8, 0) + moment(1, 8, 1)
    P_plus = spectrum(S, ridge=ridge).solve(S_plus)
    torch.testing.assert_close(P_plus, soft_projector(S_plus, S), rtol=1e-4, atol=1e-4)


def test_a_negative_ridge_is_refused():
    with pytest.raises(ValueError, match="ridge.*-1"):
        spectrum(torch.eye(2), ridge=-1)
