"""A moment held as its rows is the moment that is summed of them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engram_interp import Concept, Statistics, collect
from engram_interp.statistics.moments import (
    FLOAT64_BELOW,
    Moment,
    MomentOfRows,
    rank_of,
    rows_are_fewer,
)
from engram_interp.statistics.sums import NEVER, MomentSum, RowsKept, moment_of, moment_sum
from tests.conftest import tokens


def summed(X: torch.Tensor) -> Moment:
    total = MomentSum(X)
    total.add(X)
    return total.result()


def randn(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def assert_alike(found: Moment | MomentOfRows, expected: Moment | MomentOfRows) -> None:
    assert (found.count, found.offered, found.width) == (expected.count, expected.offered, expected.width)
    assert rank_of(found) == rank_of(expected)
    torch.testing.assert_close(found.second, expected.second, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.first, expected.first, rtol=1e-5, atol=1e-5)
    for ones in (False, True):
        torch.testing.assert_close(found.matrix(ones), expected.matrix(ones), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found.of_inputs(ones).S, expected.of_inputs(ones).S, rtol=1e-5, atol=1e-5)


@given(n=st.integers(0, 20), d=st.integers(1, 12), seed=st.integers(0, 99), every=st.integers(1, 7))
@settings(deadline=None)
def test_rows_are_their_moment(n: int, d: int, seed: int, every: int) -> None:
    X = randn(n, d, seed)
    kept = RowsKept(X, room=3)
    for rows in X.split(every):
        kept.add(rows)
    found = kept.result()
    assert torch.equal(found.X, X)
    assert_alike(found, summed(X))
    assert_alike(found + summed(X), summed(torch.cat([X, X])))
    assert_alike(summed(X) + found, summed(torch.cat([X, X])))


def test_by_hand() -> None:
    # X = [[1, 2], [3, 4]]: S = [[10, 14], [14, 20]], sums (4, 6), two rows; three times of it.
    found = MomentOfRows(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), offered=5) * 3.0
    assert found.matrix(ones=True).round(decimals=9).tolist() == [[30, 42, 12], [42, 60, 18], [12, 18, 6]]
    assert (found.count, found.offered, found.first.tolist()) == (6, 15, [12, 18])
    assert found.whole.matrix(ones=False).round(decimals=9).tolist() == [[30, 42], [42, 60]]


def test_rows_stay_rows_until_their_moment_takes_less_memory() -> None:
    # 5 dimensions of 8 bytes are 10 of 4 bytes.
    six, four = (MomentOfRows(randn(n, 5, n), n) for n in (6, 4))
    assert isinstance(six + four, MomentOfRows)
    assert_alike(six + four, summed(torch.cat([six.X, four.X])))
    assert isinstance(six + six, Moment)
    assert isinstance(six + four * 2.0, Moment)
    assert_alike(six + four * 2.0, summed(torch.cat([six.X, four.X, four.X])))
    d = FLOAT64_BELOW
    assert [rows_are_fewer(n, d, torch.float32) for n in (d, d + 1)] == [True, False]
    assert [rows_are_fewer(n, d, torch.bfloat16) for n in (2 * d, 2 * d + 1)] == [True, False]


@pytest.mark.parametrize(("n", "kind"), [(10, MomentOfRows), (11, Moment)])
def test_what_is_held_is_the_smaller(n: int, kind: type) -> None:
    X = randn(n, 5)
    total = moment_sum(X, n, n)
    total.add(X)
    for found in (total.result(), moment_of(X)):
        assert isinstance(found, kind)
        assert_alike(found, summed(X))


def test_rows_are_copied_and_fill_their_room() -> None:
    X = randn(4, 3)
    kept, before = RowsKept(X, room=4), X.clone()
    kept.add(X)
    X.zero_()
    found = kept.result().X
    assert torch.equal(found, before)
    assert found.untyped_storage().nbytes() == found.nbytes


def test_the_first_batch_that_is_not_finite_is_remembered() -> None:
    kept = RowsKept(torch.zeros(1, 2), room=1)
    for batch, value in enumerate([1.0, 2.0, float("inf"), float("nan"), 1.0]):
        assert int(kept.spoiled) == (2 if batch > 2 else NEVER)
        kept.add(torch.full((1, 2), value), batch=batch)


def test_statistics_hold_few_positions_as_rows_and_a_file_gives_them_back(llama, tmp_path) -> None:
    statistics = collect(llama, Concept.from_tokens(tokens(2, 4), tokens(30, 6, seed=2)))
    kinds = {group: {type(one) for one in moments.values()} for group, moments in statistics.groups.items()}
    assert kinds == {"target": {MomentOfRows}, "reference": {Moment}}  # 8 and 180 positions of 16 to 32 dimensions
    statistics.save(tmp_path / "it")
    loaded = Statistics.load(tmp_path / "it")
    for name, moment in statistics.groups["target"].items():
        found = loaded.groups["target"][name]
        assert isinstance(found, MomentOfRows)
        assert isinstance(moment, MomentOfRows)
        assert torch.equal(found.X, moment.X)
        assert (found.count, found.offered) == (moment.count, moment.offered)
