import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from engram_interp.linalg import filters
from engram_interp.linalg.engram import soft_projector
from engram_interp.linalg.ownership import Ownership, ownership
from engram_interp.linalg.spectrum import spectrum

CHOICES = [filters.soft, filters.power(2), filters.power(0.5), filters.hard(0.3), filters.clip(3), filters.over(0.1)]


def inputs(n: int, d: int, seed: int) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def one_token(n: int, d: int, seed: int) -> torch.Tensor:
    return inputs(1, d, seed).expand(n, d)


def dead_inputs(n: int, d: int, seed: int) -> torch.Tensor:
    X = inputs(n, d, seed)
    X[:, ::2] = 0
    return X


DATA = {"full": inputs, "one token": one_token, "dead inputs": dead_inputs}
few = st.integers(1, 30)


def owned(X_plus: torch.Tensor, X_minus: torch.Tensor, rtol: float | None = None) -> Ownership:
    S_plus, S_minus = X_plus.T @ X_plus, X_minus.T @ X_minus
    return ownership(S_plus, spectrum(S_plus + S_minus, rtol))


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def symmetric_root(S: torch.Tensor, power: float) -> torch.Tensor:
    lam, U = torch.linalg.eigh(S)
    return U * lam**power @ U.T


def test_by_hand():
    # S+ = diag(3, 0, 1), S- = diag(1, 2, 3): the target owns 3/4, 0 and 1/4.
    found = owned(torch.diag(torch.tensor([3.0, 0, 1]).sqrt()), torch.diag(torch.tensor([1.0, 2, 3]).sqrt()))
    assert found.share.tolist() == pytest.approx([0, 1 / 4, 3 / 4])
    for g, shares in {
        filters.soft: [3 / 4, 0, 1 / 4],
        filters.power(2): [9 / 16, 0, 1 / 16],
        filters.hard(0.5): [1, 0, 0],
        filters.clip(2): [1, 0, 1 / 2],
        filters.over(1 / 2): [1 / 4, 0, 0],
    }.items():
        assert found.projector(g).diagonal().tolist() == pytest.approx(shares, abs=1e-6)


@given(n=few, m=few, d=st.integers(1, 12), seed=st.integers(0, 999), kind=st.sampled_from(sorted(DATA)))
@settings(deadline=None)
def test_shares_are_the_spectrum_of_the_soft_projector(n, m, d, seed, kind):
    X_plus, X_minus = DATA[kind](n, d, seed), DATA[kind](m, d, seed + 1000)
    found = owned(X_plus, X_minus)
    assert ((found.share >= 0) & (found.share <= 1)).all()
    # Similar matrices have the same characteristic polynomial: the same sums of powers of eigenvalues.
    P = found.projector(filters.soft)
    for k in (1, 2, 3):
        close(torch.linalg.matrix_power(P, k).trace(), (found.share**k).sum())


@given(n=few, m=few, d=st.integers(1, 12), seed=st.integers(0, 999), kind=st.sampled_from(sorted(DATA)))
@settings(deadline=None)
def test_the_identity_is_the_papers_estimator(n, m, d, seed, kind):
    X_plus, X_minus = DATA[kind](n, d, seed), DATA[kind](m, d, seed + 1000)
    found, S_plus = owned(X_plus, X_minus), X_plus.T @ X_plus
    expected = soft_projector(S_plus, S_plus + X_minus.T @ X_minus)
    assert expected.isfinite().all()
    close(found.projector(filters.soft), expected)
    close(found.projector(lambda x: x), expected)
    close(found.projector(filters.power(1)), expected)


@given(n=few, m=few, d=st.integers(2, 12), seed=st.integers(0, 999), rtol=st.sampled_from([1e-6, 0.05, 0.4]))
@settings(deadline=None)
def test_a_filter_is_a_function_of_the_soft_projector_whatever_the_cut_drops(n, m, d, seed, rtol):
    X_plus, X_minus = inputs(n, d, seed), inputs(m, d, seed + 1000)
    found, other = owned(X_plus, X_minus, rtol), owned(X_minus, X_plus, rtol)
    P, Pi = found.projector(filters.soft), found.kept.Pi
    close(P, soft_projector(found.S_plus, found.S_plus + other.S_plus, rtol))
    close(found.projector(filters.power(2)), P @ P)
    close(found.projector(lambda x: 2 * x - 3 * x**2), 2 * P - 3 * P @ P)
    close(found.projector(torch.ones_like), Pi)
    close(found.projector(lambda x: 1 - x), other.projector(filters.soft))


@given(n=few, m=few, d=st.integers(1, 12), seed=st.integers(0, 999))
@settings(deadline=None)
def test_it_is_the_root_of_s_around_a_function_of_m(n, m, d, seed):
    X_plus, X_minus = inputs(n, d, seed), inputs(m + d, d, seed + 1000)
    S_plus = X_plus.T @ X_plus
    S = S_plus + X_minus.T @ X_minus
    assume(torch.linalg.cond(S) < 1e4)
    root, inverse_root = symmetric_root(S, 0.5), symmetric_root(S, -0.5)
    share, V = torch.linalg.eigh(inverse_root @ S_plus @ inverse_root)
    for g in CHOICES:
        gM = V * g(share.clamp(0, 1)) @ V.T
        torch.testing.assert_close(
            owned(X_plus, X_minus).projector(g), root @ gM @ inverse_root, rtol=1e-6, atol=1e-6
        )  # x^0.5 has no slope at 0


@given(n=few, m=few, d=st.integers(1, 12), seed=st.integers(0, 999), tau=st.floats(0.05, 0.95),
       rtol=st.sampled_from([None, 0.2]))  # fmt: skip
@settings(deadline=None)
def test_hard_filters_are_projectors(n, m, d, seed, tau, rtol):
    found = owned(inputs(n, d, seed), inputs(m, d, seed + 1000), rtol)
    P = found.projector(filters.hard(tau))
    # An oblique projector may be large, and the rounding of its square with it.
    assert float((P @ P - P).norm()) <= 1e-10 * max(1, float(P.norm()) ** 2)
    assert float(P.trace()) == pytest.approx(int((found.share > tau).sum()))


def test_a_target_that_has_the_data_to_itself_owns_every_direction():
    X = inputs(20, 6, 0)
    close(owned(X, torch.zeros(1, 6)).share, torch.ones(6, dtype=torch.float64))
    assert owned(torch.zeros(1, 6), X).share.tolist() == [0] * 6


def test_what_rounding_makes_of_nothing_is_no_share():
    # Five tokens own something of five directions of the twenty at most, however steep the filter is at 0.
    found = owned(inputs(5, 20, 0), inputs(200, 20, 1))
    assert int((found.share > 0).sum()) == 5
    assert float(found.projector(filters.power(0.01)).trace()) <= 5 + 1e-6


def test_a_filter_that_writes_into_its_shares_spoils_nothing():
    found = owned(inputs(9, 4, 0), inputs(9, 4, 1))
    before = found.share.clone()
    found.projector(lambda x: x.mul_(0))
    assert torch.equal(found.share, before)


def test_a_value_that_is_not_finite_is_named():
    found = owned(inputs(2, 4, 0), inputs(9, 4, 1))
    with pytest.raises(ValueError, match=r"<lambda>.*inf.* 0$"):
        found.projector(lambda x: 1 / x)


@pytest.mark.parametrize(
    ("g", "returned"), [(lambda x: x[:1], r"\[1\]"), (lambda x: x + torch.nan, "nan"), (lambda x: 0.5, "float")]
)
def test_a_function_that_is_no_filter_is_refused(g, returned):
    with pytest.raises(ValueError, match=f"<lambda>.*4.*{returned}"):
        owned(inputs(9, 4, 0), inputs(9, 4, 1)).projector(g)
