import copy
import pickle

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from engram_interp import Engram, collect, decompose, extract, filters
from engram_interp.linalg.filters import Ownership, ownership
from engram_interp.linalg.spectrum import soft_projector, spectrum
from engram_interp.models import adapt
from tests.conftest import token_concept

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


@pytest.mark.parametrize("g", CHOICES, ids=str)
def test_engrams_are_the_weights_times_the_filtered_projector(llama, g):
    statistics = collect(llama, token_concept())
    engram, key = extract(llama, statistics, filter=g), "blocks.1.mlp.W_in"
    moments = [statistics.groups[group]["blocks.1.mlp.in"].matrix(ones=False) for group in ("target", "reference")]
    P = ownership(moments[0], spectrum(sum(moments))).projector(g)
    W = adapt(llama).parameter(key).detach().double()
    torch.testing.assert_close(engram[key].double(), P.T @ W, rtol=1e-4, atol=1e-5)
    assert engram.options["filter"] == repr(g)


def test_a_bias_is_filtered_with_its_weight(gpt2):
    soft, squared = extract(gpt2, token_concept()), extract(gpt2, token_concept(), filter=filters.power(2))
    assert list(soft) == list(squared)
    assert not torch.allclose(soft["blocks.0.attn.b_Q"], squared["blocks.0.attn.b_Q"], rtol=1e-2)


def test_a_file_says_how_its_engram_was_filtered(llama, tmp_path):
    def bent(x):
        return x**3

    extract(llama, token_concept(), components="Q", ridge=0.5, filter=bent).save(tmp_path / "engram.safetensors")
    options = Engram.load(tmp_path / "engram.safetensors").options
    assert (options["filter"], options["ridge"]) == ("bent", 0.5)


def test_parts_are_filtered_when_they_are_asked_for(llama):
    concept = token_concept()
    parts = decompose(llama, {"mine": concept.target, "other": concept.reference})
    found, expected = parts.engram("mine", filter=filters.power(2)), extract(llama, concept, filter=filters.power(2))
    for key in expected:
        torch.testing.assert_close(found[key], expected[key], rtol=1e-4, atol=1e-6)
    assert found.options["filter"] == "power(2)"
    assert parts.token_share("mine") == collect(llama, concept).token_share()


@pytest.mark.parametrize(
    ("make", "given", "message"),
    [
        (filters.power, 0, "p is a finite exponent above 0, got 0"),
        (filters.power, float("inf"), "p is a finite number, got inf"),
        (filters.hard, 0, "2.-26 <= tau < 1; got 0"),
        (filters.hard, 1e-9, "2.-26 <= tau < 1; got 1e-09"),
        (filters.hard, 1.0, "2.-26 <= tau < 1; got 1.0"),
        (filters.clip, -1, "gain is a finite factor above 0, got -1"),
        (filters.over, 1, "0 <= share < 1; got 1"),
    ],
)
def test_parameters_out_of_range_are_refused(make, given, message):
    with pytest.raises(ValueError, match=message):
        make(given)


@pytest.mark.parametrize("g", CHOICES, ids=str)
def test_a_filter_is_found_by_its_name(g):
    x = torch.linspace(0, 1, 9)
    assert torch.equal(filters.named(repr(g))(x), g(x))
    assert repr(filters.named(repr(g))) == repr(g)


def test_a_name_is_exact():
    assert filters.named(repr(filters.power(1 / 3))) == filters.power(1 / 3)
    x = torch.tensor([0.12345679], dtype=torch.float64)
    assert filters.named(repr(filters.hard(0.12345678)))(x).item() == 1
    assert repr(filters.over(1e-7)) == "over(1e-07)"


@pytest.mark.parametrize("name", ["hard", "power()", "power(2) ", "soft(1)", "power(e)", "hard(+-1)", "__class__(1)"])
def test_another_name_is_refused(name):
    with pytest.raises(ValueError, match="a filter is soft, power"):
        filters.named(name)


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


def test_what_is_no_function_is_refused():
    with pytest.raises(TypeError, match=r"or a function; got 'power\(2\)': filters.named\('power\(2\)'\)"):
        filters.require_filter("power(2)")


def test_a_value_that_is_not_finite_is_named():
    found = owned(inputs(2, 4, 0), inputs(9, 4, 1))
    with pytest.raises(ValueError, match="to as many finite numbers; it gave inf for 0"):
        found.projector(lambda x: 1 / x)


@pytest.mark.parametrize("g", [lambda x: x[:1], lambda x: x + torch.nan, lambda x: 0.5])
def test_a_function_that_is_no_filter_is_refused(g):
    with pytest.raises(ValueError, match="takes 4 shares in .* to as many finite numbers"):
        owned(inputs(9, 4, 0), inputs(9, 4, 1)).projector(g)


@pytest.mark.parametrize("g", CHOICES, ids=str)
def test_a_filter_is_copied_and_pickled(g):
    x = torch.linspace(0, 1, 9, dtype=torch.float64)
    for other in (copy.deepcopy(g), pickle.loads(pickle.dumps(g))):
        assert (other, repr(other)) == (g, repr(g))
        assert torch.equal(other(x), g(x))


def test_a_copy_of_the_papers_filter_gives_the_papers_engram(llama):
    concept = token_concept()
    expected, found = (extract(llama, concept, filter=g) for g in (filters.soft, copy.deepcopy(filters.soft)))
    assert all(torch.equal(found[key], expected[key]) for key in expected)
