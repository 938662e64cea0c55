import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engram_interp.linalg.directions import leading, leading_shares


@given(out=st.integers(1, 6), d=st.integers(1, 6), n=st.integers(1, 9), seed=st.integers(0, 99))
@settings(deadline=None)
def test_a_direction_carries_the_energy_that_is_read_along_it(out, d, n, seed):
    generator = torch.Generator().manual_seed(seed)
    W = torch.randn(out, d, generator=generator, dtype=torch.float64)
    X = torch.randn(n, d, generator=generator, dtype=torch.float64)
    lam, U = torch.linalg.eigh(X.T @ X)
    found = leading(W, U * lam.clamp(min=0).sqrt(), 3)
    energy = (X @ W.T).square().sum()
    along = (X @ found.read).square().sum(0) / energy
    assert torch.allclose(along, found.shares, atol=1e-9)
    # No other direction carries more than the first.
    u = torch.nn.functional.normalize(torch.randn(out, generator=generator, dtype=torch.float64), dim=0)
    assert (X @ W.T @ u).square().sum() / energy <= found.shares[0] + 1e-9


def test_shares_are_those_of_the_squared_singular_values():
    A = torch.randn(5, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    s = torch.linalg.svdvals(A).square()
    for one in (A, A.T):
        assert torch.allclose(leading_shares(one, 3), (s / s.sum())[:3])


def test_nothing_has_no_shares():
    assert leading(torch.zeros(2, 3), torch.eye(3), 2).shares.tolist() == [0, 0]
