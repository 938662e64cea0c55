import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engram_interp.linalg import cholesky as module
from engram_interp.linalg.cholesky import Cholesky, all_above, cholesky
from engram_interp.linalg.second_moment import SecondMoment
from engram_interp.linalg.spectrum import Spectrum, default_rtol, spectrum
from engram_interp.linalg.total import Total


def with_spectrum(lam, seed: int = 0) -> torch.Tensor:
    """A random symmetric matrix with these eigenvalues."""
    lam = torch.as_tensor(lam, dtype=torch.float64)
    Q, _ = torch.linalg.qr(torch.randn(len(lam), len(lam), generator=torch.Generator().manual_seed(seed)).double())
    S = Q * lam @ Q.T
    return (S + S.T) / 2


@pytest.fixture
def narrow(monkeypatch):
    """Searches for dropped directions at any width."""
    monkeypatch.setattr(module, "WIDE", 0)


rtols = st.sampled_from([0.0, 1e-12, 1e-7, 1e-4, 1e-2])
near = st.floats(-1e-3, 1e-3) | st.floats(-1e-12, 1e-12) | st.sampled_from([0.0, -1.0, 1.0, 100.0])


@given(rtol=rtols, beside=st.lists(near, min_size=1, max_size=10), scale=st.floats(-12, 12), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=300)
def test_what_is_certified_is_what_the_eigendecomposition_keeps(rtol, beside, scale, seed):
    # Eigenvalues on the cut, beside it by rounding, by a thousandth, far above it, and at zero.
    lam = 10**scale * np.array([1.0, *(max(rtol * (1 + by), 0.0) for by in beside)])
    S, X = with_spectrum(lam, seed), with_spectrum(np.arange(len(lam)) + 1.0, seed + 100)
    for wide in (10**9, 0):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "WIDE", wide)
            found = cholesky(S, rtol)
        if found is None:
            continue
        kept = spectrum(S, rtol)
        assert found.rank == kept.rank
        # Either is as exact as the smallest kept eigenvalue, which is known to the rounding of the largest.
        close = 1e-9 + 1e-14 * kept.lam[-1].item() / kept.lam[0].item()
        largest = kept.solve(X).abs().max().item()
        torch.testing.assert_close(found.solve(X), kept.solve(X), rtol=close, atol=close * largest)


@pytest.mark.parametrize("n_dropped", [0, 1, 3, 8])
@pytest.mark.usefixtures("narrow")
def test_a_few_dropped_directions_are_found(n_dropped):
    lam = np.concatenate([np.geomspace(1e-6, 3e-5, n_dropped), np.geomspace(1e-3, 1.0, 40 - n_dropped)])
    S, X = with_spectrum(lam), with_spectrum(np.arange(40) + 1.0, 1)
    found, kept = cholesky(S, 1e-4), spectrum(S, 1e-4)
    assert isinstance(found, Cholesky)
    assert found.rank == kept.rank == 40 - n_dropped
    torch.testing.assert_close(found.solve(X), kept.solve(X), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.project(X), kept.project(X), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.whiten(X).norm(), kept.whiten(X).norm(), rtol=1e-9, atol=0)


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("null", [0.0, -1e-18])
def test_a_direction_that_the_data_does_not_have_is_found(null):
    # As of inputs that a LayerNorm centres: their mean is zero.
    S = with_spectrum([null, *np.linspace(1, 2, 20)])
    found = cholesky(S)
    assert found is not None
    assert found.rank == 20
    torch.testing.assert_close(found.solve(S), spectrum(S).Pi, rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("narrow")
def test_many_dropped_directions_are_left_to_the_eigendecomposition():
    S = with_spectrum([*np.full(9, 1e-9), *np.linspace(1, 2, 20)])
    assert cholesky(S) is None
    solution = Total(SecondMoment(S)).solution(None)
    assert isinstance(solution, Spectrum)
    assert solution.rank == 20


@pytest.mark.usefixtures("narrow")
def test_a_direction_at_the_cut_is_left_to_the_eigendecomposition():
    lam = torch.tensor([1e-4, *np.linspace(0.5, 1, 20)]).double()
    S = torch.diag(lam)
    assert cholesky(S, 1e-4) is None
    assert Total(SecondMoment(S)).solution(1e-4).rank == spectrum(S, 1e-4).rank


@pytest.mark.usefixtures("narrow")
def test_a_largest_direction_that_lanczos_does_not_see_is_no_trap():
    # Orthogonal to where an iteration from the sum of the columns would start, to the last bit.
    S = torch.eye(12).double()
    S[:2, :2] = torch.tensor([[1e6, -1e6], [-1e6, 1e6]]) + torch.eye(2)
    assert spectrum(S, 1e-6).rank == 1
    found = cholesky(S, 1e-6)
    assert found is None or found.rank == 1


def test_many_equal_directions_are_certified_by_a_bound_that_is_closer_than_the_norm():
    # |S|_F is 20 times the largest eigenvalue.
    S = with_spectrum(np.linspace(1.0, 1.1, 400))
    assert not all_above(S, 0.06 * S.norm().item())
    found = cholesky(S, 0.06)
    assert found is not None
    assert found.rank == 400


def test_all_above_is_about_every_eigenvalue():
    S = with_spectrum([0.1, 1.0, 5.0])
    assert all_above(S, 0.0999)
    assert not all_above(S, 0.1001)


def test_a_whole_second_moment_needs_no_eigendecomposition(monkeypatch):
    S = with_spectrum(np.geomspace(1e-3, 1, 30))
    monkeypatch.setattr(torch.linalg, "eigh", lambda *_: pytest.fail("an eigendecomposition"))
    assert isinstance(Total(SecondMoment(S)).solution(None), Cholesky)
    assert default_rtol(30) * S.norm() < 1e-3


def test_a_solution_does_not_depend_on_what_was_asked_before():
    S, X = with_spectrum(np.geomspace(1e-9, 1, 12)), with_spectrum(np.arange(12) + 1.0, 1)
    first, second = Total(SecondMoment(S)), Total(SecondMoment(S))
    assert second.every.rank == 12
    assert second.solution(1e-2).rank < 12
    for rtol in (None, 1e-4, 1e-12):
        assert torch.equal(first.solution(rtol).solve(X), second.solution(rtol).solve(X))
        assert first.solution(rtol) is first.solution(rtol)


def test_what_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="size 2 "):
        Total(SecondMoment(torch.tensor([[1.0, float("inf")], [0.0, 1.0]]))).solution(None)
    with pytest.raises(ValueError, match="rtol.*2"):
        Total(SecondMoment(torch.eye(2))).solution(2)
