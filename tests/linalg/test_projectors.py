import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engram_interp.linalg.engram import soft_projector
from engram_interp.linalg.filters import hard
from engram_interp.linalg.ownership import ownership
from engram_interp.linalg.projectors import at_cuts, norms_at_cuts, passes, properties, stretch
from engram_interp.linalg.spectrum import spectrum
from tests.linalg.test_ownership import DATA, inputs

sizes = st.integers(1, 30)
widths = st.integers(1, 12)
seeds = st.integers(0, 999)
kinds = st.sampled_from(sorted(DATA))
CUTS = (1e-6, 0.03, 0.3)


def moments(n: int, m: int, d: int, seed: int, kind: str = "full") -> tuple[torch.Tensor, torch.Tensor]:
    X_plus, X_minus = DATA[kind](n, d, seed), DATA[kind](m, d, seed + 1000)
    return X_plus.T @ X_plus, X_minus.T @ X_minus


def test_an_oblique_projector_by_hand():
    # P^2 = P and tr P = 1, but |P|_F = |P|_2 = sqrt(2); of (1, 1) it makes (2, 0), of energy 4 out of 2.
    P = torch.tensor([[1.0, 1.0], [0.0, 0.0]], dtype=torch.float64)
    S_plus, S_minus = torch.ones(2, 2).double(), torch.diag(torch.tensor([1.0, 3.0])).double()
    assert properties(P, S_plus, S_minus) == pytest.approx(
        {
            "owned": 1, "effective_rank": 1, "idempotence_defect": 0, "obliqueness": math.sqrt(2),
            "target_passes": 2, "reference_passes": 1,
        }
    )  # fmt: skip
    assert stretch(P) == pytest.approx(math.sqrt(2))


def test_equal_shares_of_three_directions_have_rank_three():
    P = 0.25 * torch.diag(torch.tensor([1.0, 1, 1, 0])).double()
    found = properties(P, torch.eye(4).double(), torch.eye(4).double())
    assert (found["owned"], found["effective_rank"]) == (0.75, 3)
    assert found["idempotence_defect"] == pytest.approx(0.75)  # |x^2 - x| / x at x = 1/4
    assert found["target_passes"] == pytest.approx(3 / 16 / 4)


@given(n=sizes, m=sizes, d=st.integers(2, 12), seed=seeds, kind=kinds)
@settings(deadline=None)
def test_properties_follow_from_the_shares(n, m, d, seed, kind):
    S_plus, S_minus = moments(n, m, d, seed, kind)
    owned = ownership(S_plus, spectrum(S_plus + S_minus))
    P, x = soft_projector(S_plus, S_plus + S_minus), owned.share
    found = properties(P, S_plus, S_minus)
    assert found["owned"] == pytest.approx(float(x.sum()))
    assert found["effective_rank"] == pytest.approx(float(x.sum() ** 2 / (x**2).sum()))
    assert found["obliqueness"] == pytest.approx(float(P.norm() / x.norm()))
    assert found["obliqueness"] >= 1 - 1e-9
    assert stretch(P) == pytest.approx(float(torch.linalg.matrix_norm(P, 2)), rel=1e-6)


@given(n=sizes, m=sizes, d=widths, seed=seeds, kind=kinds)
@settings(deadline=None)
def test_every_cut_is_that_of_the_pseudo_inverse(n, m, d, seed, kind):
    S_plus, S_minus = moments(n, m, d, seed, kind)
    S = S_plus + S_minus
    for rtol, row in zip(CUTS, at_cuts(S_plus, spectrum(S, 0.0), CUTS), strict=True):
        P = S_plus @ torch.linalg.pinv(S, rtol=rtol, hermitian=True)
        for name, value in properties(P, S_plus, S_minus).items():
            assert row[name] == pytest.approx(value, rel=1e-6, abs=1e-9), name
        assert (row["rtol"], row["rank"]) == (rtol, int(torch.linalg.matrix_rank(S, rtol=rtol, hermitian=True)))


@given(n=sizes, m=sizes, d=st.integers(2, 12), seed=seeds, kind=kinds, absorbed=st.booleans())
@settings(deadline=None)
def test_norms_at_cuts_are_those_of_the_engrams(n, m, d, seed, kind, absorbed):
    S_plus, S_minus = moments(n, m, d, seed, kind)
    W, every = inputs(5, d, seed + 2000), spectrum(S_plus + S_minus, 0.0)
    ranks = [len(every.above(rtol).lam) for rtol in CUTS]
    for rtol, found in zip(CUTS, norms_at_cuts(W, S_plus, every, ranks, absorbed), strict=True):
        engram = W @ soft_projector(S_plus, S_plus + S_minus, rtol)
        expected = float((engram[:, :-1] if absorbed else engram).norm())
        assert found == pytest.approx(expected, rel=1e-6, abs=1e-7)


@given(n=sizes, m=sizes, d=widths, seed=seeds)
@settings(deadline=None)
def test_no_wnorm_exceeds_the_stretch(n, m, d, seed):
    S_plus, S_minus = moments(n, m, d, seed)
    P, W = soft_projector(S_plus, S_plus + S_minus), inputs(3, d, seed + 2000)
    assert float((W @ P).norm() / W.norm()) <= stretch(P) * (1 + 1e-9)


def test_the_stretch_is_found_where_the_rows_of_p_sum_to_nothing():
    # |P|_2 = sqrt(2), and P (1, 1) = 0.
    P = torch.tensor([[1.0, -1.0], [0.0, 0.0]]).double()
    assert stretch(P) == pytest.approx(math.sqrt(2))
    centring = torch.eye(6).double() - 1 / 6
    assert {stretch(centring) for _ in range(50)} == {1.0}


def test_where_p_is_symmetric_it_stretches_nothing():
    # Target and reference along the same axes: S+ and S commute.
    S_plus, S_minus = torch.diag(torch.tensor([3.0, 0, 1])).double(), torch.diag(torch.tensor([1.0, 2, 3])).double()
    P = soft_projector(S_plus, S_plus + S_minus)
    assert properties(P, S_plus, S_minus)["obliqueness"] == pytest.approx(1)
    assert stretch(P) == pytest.approx(3 / 4)


def test_a_hard_filter_has_no_idempotence_defect():
    S_plus, S_minus = moments(20, 30, 8, 0)
    P = ownership(S_plus, spectrum(S_plus + S_minus)).projector(hard(0.4))
    found = properties(P, S_plus, S_minus)
    assert found["idempotence_defect"] == pytest.approx(0, abs=1e-10)
    assert found["effective_rank"] == pytest.approx(found["owned"])


def test_nothing_owned_is_nothing_at_all():
    nothing = torch.zeros(3, 3).double()
    assert properties(nothing, nothing, torch.eye(3).double()) == {
        "owned": 0, "effective_rank": 0, "idempotence_defect": 0, "obliqueness": 1, "target_passes": 0,
        "reference_passes": 0,
    }  # fmt: skip
    assert stretch(nothing) == 0
    assert passes(torch.eye(3).double(), nothing) == 0
    (row,) = at_cuts(nothing, spectrum(nothing, 0.0), [0.1])
    assert (row["rank"], row["condition"], row["owned"]) == (0, 1, 0)
