"""Few rows, few directions: what is found among `n` columns is what an eigendecomposition of all of `S` finds."""

import pytest
import torch

from engram_interp.linalg.low_rank import FEW, directions_of_few
from engram_interp.linalg.spectrum import spectrum

D, N = 320, 100


def rows(seed: int = 0, decay: float = 2.0, massive: float = 1.0) -> torch.Tensor:
    X = torch.randn(N, D, generator=torch.Generator().manual_seed(seed)).double() * torch.logspace(0, -decay, D)
    X[0] *= massive
    return X


@pytest.mark.parametrize("massive", [1.0, 300.0])
@pytest.mark.parametrize("in_float32", [False, True])
def test_the_directions_above_a_cut_are_those_of_a_whole_eigendecomposition(massive: float, in_float32: bool) -> None:
    X = rows(massive=massive)
    S = (X.float().T @ X.float()).double() if in_float32 else X.T @ X
    assert directions_of_few(S, N) is not None
    for rtol in (None, 1e-2, 1e-5):
        few, all_of_it = spectrum(S, rtol, n_rows=N), spectrum(S, rtol)
        assert few.rank == all_of_it.rank
        torch.testing.assert_close(few.lam, all_of_it.lam, rtol=1e-7, atol=0)
        torch.testing.assert_close(few.Pi, all_of_it.Pi, rtol=0, atol=1e-6)


def test_rounding_is_no_direction() -> None:
    X = rows().float()
    S = (X.T @ X).double()
    assert spectrum(S, 0.0).rank > N
    assert spectrum(S, 0.0, n_rows=N).rank <= N


def test_a_moment_of_more_rows_than_said_is_not_trusted() -> None:
    X = rows()
    assert directions_of_few(X.T @ X, N // 2) is None
    # 50 of 100 rows: half of the directions would be missing.
    assert spectrum(X.T @ X, n_rows=N // 2).rank == spectrum(X.T @ X).rank > N // 2


@pytest.mark.parametrize("n_rows", [0, int(FEW * D) + 1])
def test_no_rows_and_many_rows_are_left_to_the_whole_eigendecomposition(n_rows: int) -> None:
    X = rows()
    assert directions_of_few(X.T @ X, n_rows) is None


def test_zeros_have_no_directions() -> None:
    S = torch.zeros(D, D).double()
    assert directions_of_few(S, N) is None
    assert spectrum(S, n_rows=N).rank == 0


def test_the_ridge_is_added_in_the_directions_of_the_rows() -> None:
    X = rows()
    few, all_of_it = (spectrum(X.T @ X, ridge=0.5, n_rows=n) for n in (N, None))
    assert few.rank == all_of_it.rank == N
    torch.testing.assert_close(few.lam, all_of_it.lam)
