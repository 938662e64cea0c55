import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engram_interp.linalg.spectrum import spectrum
from engram_interp.linalg.subspaces import overlaps, owned_subspace, principal_angles
from tests.linalg.test_ownership import DATA

seeds = st.integers(0, 999)
kinds = st.sampled_from(sorted(DATA))


@given(sizes=st.lists(st.integers(0, 9), min_size=2, max_size=4), d=st.integers(2, 8), seed=seeds, kind=kinds)
@settings(deadline=None)
def test_overlaps_are_those_of_the_projectors_themselves(sizes, d, seed, kind):
    roots = [DATA[kind](n, d, seed + n) for n in sizes]
    kept = spectrum(sum(X.T @ X for X in roots))
    P = [kept.solve(X.T @ X) for X in roots]
    together, norms, traces = overlaps(roots, kept)
    for i in range(len(P)):
        assert float(norms[i]) == pytest.approx(float(P[i].norm()), rel=1e-6, abs=1e-7)
        assert float(traces[i]) == pytest.approx(float(P[i].trace()), abs=1e-9)
        for j in range(len(P)):
            assert float(together[i, j]) == pytest.approx(float((P[i] @ P[j]).trace()), abs=1e-9)
    # The projectors add up to Pi: what one shares with all of them is all of itself.
    assert together.sum(1).tolist() == pytest.approx(traces.tolist(), abs=1e-9)


def test_principal_angles_by_hand():
    # In the plane of the first two axes, 30 degrees apart; and the third axis in both.
    axes = torch.eye(4).double()
    turned = axes[:, :1] * math.cos(math.pi / 6) + axes[:, 1:2] * math.sin(math.pi / 6)
    A, B = torch.cat([axes[:, :1], axes[:, 2:3]], dim=1), torch.cat([turned, axes[:, 2:3]], dim=1)
    assert principal_angles(A, B).tolist() == pytest.approx([0, 30], abs=1e-6)
    assert principal_angles(A[:, :0], B).tolist() == [90]


def test_the_owned_subspace_is_where_the_shares_are_large():
    # Shares 0.8, 0.8 and 0.001: two directions to speak of.
    Z = torch.diag(torch.tensor([0.8, 0.001, 0.8]).double().sqrt())
    assert owned_subspace(Z).abs().sum(1).tolist() == pytest.approx([1, 0, 1])
    assert owned_subspace(Z[:0]).shape == (3, 0)
