"""A moment known by its rows does what the same moment does that is known by itself."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engram_interp.linalg import total
from engram_interp.linalg.engram import engram_matrix, engram_steps
from engram_interp.linalg.second_moment import SecondMoment
from engram_interp.linalg.spectrum import spectrum, spectrum_of_rows
from engram_interp.linalg.total import Total


def rows(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_by_hand() -> None:
    # X = [[1, 2], [3, 4]]: X^T X = [[10, 14], [14, 20]].
    found = SecondMoment(rows=torch.tensor([[1.0, 2.0], [3.0, 4.0]]).double())
    assert found.S.tolist() == [[10, 14], [14, 20]]
    assert (found + SecondMoment(torch.eye(2).double())).S.tolist() == [[11, 14], [14, 21]]
    both = found + SecondMoment(rows=torch.tensor([[0.0, 2.0]]).double())
    assert both.rows is not None
    assert both.S.tolist() == [[10, 14], [14, 24]]
    assert found.few_rows(1.0) is found.rows
    assert found.few_rows() is both.few_rows(1.0) is SecondMoment(torch.eye(2)).few_rows(1.0) is None


def test_it_needs_one_of_the_two() -> None:
    with pytest.raises(TypeError, match="S or rows"):
        SecondMoment()


@given(n=st.integers(0, 20), m=st.integers(1, 40), d=st.integers(2, 24), out=st.integers(1, 9), seed=st.integers(0, 99))
@settings(deadline=None)
def test_an_engram_is_the_same_from_rows(n: int, m: int, d: int, out: int, seed: int) -> None:
    X_plus, X_minus, W = rows(n, d, seed), rows(m, d, seed + 100), rows(out, d, seed + 200)
    known = SecondMoment(X_plus.T @ X_plus), SecondMoment(X_plus.T @ X_plus + X_minus.T @ X_minus)
    by_rows = SecondMoment(rows=X_plus), SecondMoment(rows=torch.cat([X_plus, X_minus]))
    (target, all_of_it), (own, every) = known, by_rows
    whole, few = Total(all_of_it).solution(1e-9), Total(every).solution(1e-9)
    assert few.rank == whole.rank
    torch.testing.assert_close(engram_matrix(W, own, few), engram_matrix(W, target, whole), rtol=1e-6, atol=1e-7)
    sizes = [engram_steps(W, *both)[0].norm() for both in ((own, few), (target, whole))]
    torch.testing.assert_close(*sizes, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("massive", [1.0, 300.0])
def test_the_directions_of_few_rows_are_those_of_their_moment(massive: float) -> None:
    X = rows(100, 320) * torch.logspace(0, -2, 320).double()
    X[0] *= massive
    for rtol in (None, 1e-2, 1e-5):
        few, all_of_it = spectrum_of_rows(X, rtol), spectrum(X.T @ X, rtol)
        assert few.rank == all_of_it.rank
        torch.testing.assert_close(few.lam, all_of_it.lam, rtol=1e-7, atol=0)
        torch.testing.assert_close(few.Pi, all_of_it.Pi, rtol=0, atol=1e-6)
        torch.testing.assert_close(few.U.T @ few.U, torch.eye(few.rank).double(), rtol=0, atol=1e-12)


def test_rounding_is_no_direction_of_few_rows() -> None:
    X = rows(10, 40).float()
    assert spectrum((X.T @ X).double(), 0.0).rank > 10
    assert Total(SecondMoment(rows=X.double())).every.rank == 10


def test_the_ridge_is_added_in_the_directions_of_the_rows() -> None:
    X = rows(10, 40)
    few, all_of_it = spectrum_of_rows(X, ridge=0.5), spectrum(X.T @ X, ridge=0.5)
    assert few.rank == all_of_it.rank == 10
    torch.testing.assert_close(few.lam, all_of_it.lam)


@pytest.mark.parametrize("n", [0, 1])
def test_no_rows_and_rows_of_zeros_have_no_directions(n: int) -> None:
    found = Total(SecondMoment(rows=torch.zeros(n, 6).double()))
    assert found.solution(None).rank == found.every.rank == 0
    assert Total(found.moment, ridge=0.5).every.rank == 0
    assert not found.solution(None).solve(torch.ones(2, 6).double()).any()


def test_many_rows_are_left_to_their_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(total, "spectrum_of_rows", lambda X, *_: seen.append(len(X)) or spectrum(X.T @ X, 0.0))
    for n in (30, 31):  # of 40: three fourths, and more
        assert Total(SecondMoment(rows=rows(n, 40))).every.rank >= n
    assert seen == [30]


def test_rows_that_are_not_finite_are_refused() -> None:
    X = torch.tensor([[1.0, float("inf"), 0.0]]).double()
    with pytest.raises(ValueError, match="size 3 are not finite"):
        spectrum_of_rows(X)
    with pytest.raises(ValueError, match="size 3 is not finite"):
        Total(SecondMoment(rows=X)).solution(None)
