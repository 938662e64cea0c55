"""A sum whose state was taken and restored ends with the same bits as one that was never interrupted."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engram_interp.linalg.triangle import pack
from engram_interp.statistics.moments import MomentOfRows, most_rows
from engram_interp.statistics.sums import GrowingSum, MomentSum, RowsKept, moment_sum, restored


def batches(d: int, n_batches: int, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(d)
    return [torch.randn(7 + i, d, generator=generator).to(dtype) + 3 for i in range(n_batches)]


def same(one, other) -> bool:
    return (
        torch.equal(one.second, other.second)
        and torch.equal(one.first, other.first)
        and (one.count, one.offered) == (other.count, other.offered)
    )


@pytest.mark.parametrize("n_rows", [None, 10, 10**6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@given(d=st.sampled_from([3, 40, 300, 800]), stop=st.integers(0, 6))
@settings(deadline=None, max_examples=12)
def test_a_restored_sum_goes_on_to_the_same_bits(n_rows, dtype, d, stop):
    rows = batches(d, 6, dtype)
    whole, begun = (moment_sum(rows[0], n_rows) for _ in range(2))
    for i, some in enumerate(rows):
        whole.add(some, len(some) + 1, i)
    for i, some in enumerate(rows[:stop]):
        begun.add(some, len(some) + 1, i)
    state = {name: one.clone() for name, one in begun.state().items()}
    again = restored(state)
    assert type(again) is type(begun)
    for i, some in enumerate(rows[stop:], stop):
        again.add(some, len(some) + 1, i)
    assert same(again.result(), whole.result())


def test_a_state_holds_half_a_matrix():
    total = MomentSum(torch.zeros(1, 100))
    total.add(torch.randn(5, 100))
    assert total.state()["squares"].shape == (5050,)


def test_a_growing_sum_becomes_a_moment_where_rows_would_be_more():
    d = 20
    total = GrowingSum(torch.zeros(1, d))
    most = most_rows(d, torch.float32)
    total.add(torch.randn(most, d))
    assert total.moment_sum is None
    assert isinstance(restored(total.state()).result(), MomentOfRows)
    total.add(torch.randn(1, d))
    assert total.moment_sum is not None


def test_kept_rows_never_take_more_room_than_their_moment():
    d = 10
    kept = RowsKept(torch.zeros(1, d), room=0)
    for _ in range(most_rows(d, torch.float32)):
        kept.add(torch.randn(1, d))
        assert kept._rows.shape[0] <= most_rows(d, torch.float32)


def test_sums_around_one_mean_can_be_merged():
    rows = batches(300, 3)
    whole, mine = MomentSum(rows[0]), MomentSum(rows[0])
    for some in rows:
        whole.add(some)
    mine.add(rows[0])
    for some in rows[1:]:
        part = MomentSum(some, mean=mine.mean)
        part.add(some)
        mine.merge(pack(part.squares), part.sums, len(some), len(some), 0)
    torch.testing.assert_close(mine.result().second, whole.result().second, rtol=1e-6, atol=1e-5)
    assert mine.result().count == whole.result().count


def test_what_others_send_that_is_not_finite_spoils_the_sum():
    total = MomentSum(torch.zeros(1, 2))
    total.add(torch.ones(1, 2))
    total.merge(torch.full((3,), float("nan")), torch.full((2,), float("nan")), 1, 1, 5)
    assert int(total.spoiled) == 5
