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


def with_an_outlier(d: int = 50) -> torch.Tensor:
    """A moment with eigenvalues 1 to `d`, and one of them a million."""
    generator = torch.Generator().manual_seed(0)
    Q, _ = torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64))
    lam = torch.arange(1.0, d + 1).double()
    lam[-1] = 1e6
    return (Q * lam) @ Q.T


def test_one_huge_eigenvalue_hides_what_it_puts_below_the_cut():
    every = spectrum(with_an_outlier(), 0.0)
    # 1e-3 of a million is above all others; of 49, it is below all of them.
    assert every.above(1e-3).rank == 1
    assert every.hidden(1e-3) == 49
    assert every.hidden(1e-7) == 0
    cut = every.without_outliers(1e-3, outliers=0.01)
    assert cut == pytest.approx(1e-3 * 49 / 1e6)
    assert every.above(cut).rank == 50


def test_without_outliers_the_cut_is_the_same():
    every = spectrum(with_an_outlier(), 0.0)
    assert every.without_outliers(None, 0.0) == pytest.approx(50 * 2.0**-23)
    assert every.above(every.without_outliers(1e-3, 0.0)).rank == every.above(1e-3).rank


@given(outliers=st.floats(0, 0.99), rtol=st.floats(0, 0.5))
@settings(deadline=None)
def test_setting_more_aside_never_drops_more(outliers, rtol):
    every = spectrum(with_an_outlier(), 0.0)
    assert every.above(every.without_outliers(rtol, outliers)).rank >= every.above(rtol).rank
