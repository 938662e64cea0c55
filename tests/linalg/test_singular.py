import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engram_interp.linalg.singular import cosine, shared, singular


def matrix(rows: int, columns: int, rank: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    left, right = (torch.randn(n, rank, generator=generator).double() for n in (rows, columns))
    return left @ right.T


@given(st.integers(2, 9), st.integers(2, 9), st.integers(1, 9), st.integers(0, 99))
def test_a_matrix_is_its_singular_vectors(rows, columns, rank, seed):
    W = matrix(rows, columns, rank, seed)
    found = singular(W)
    assert torch.allclose(found.U * found.s @ found.V.T, W, atol=1e-3 * W.norm().item())
    assert len(found.s) <= min(rows, columns, rank)
    assert torch.allclose(found.V.T @ found.V, torch.eye(len(found.s)).double(), atol=1e-5)


@given(st.integers(2, 9), st.integers(2, 9), st.integers(0, 99))
def test_the_cosine_is_that_of_the_matrices(rows, columns, seed):
    A, B = matrix(rows, columns, 2, seed), matrix(rows, columns, 3, seed + 1)
    expected = float((A * B).sum() / (A.norm() * B.norm()))
    assert cosine(singular(A), singular(B)) == pytest.approx(expected, abs=1e-4)
    assert cosine(singular(A), singular(A)) == pytest.approx(1, abs=1e-6)


def test_what_is_zero_has_no_cosine_and_no_directions():
    nothing, something = singular(torch.zeros(3, 4)), singular(torch.ones(3, 4))
    assert nothing.effective_rank == 0
    assert math.isnan(cosine(nothing, something))
    assert math.isnan(shared(nothing, something))
    assert math.isnan(shared(something, nothing))


def test_shared_directions_are_counted_by_the_effective_rank_of_the_second():
    # Two directions of equal energy, of which the first matrix reads one first and the other not at all.
    two = torch.diag(torch.tensor([1.0, 1.0, 0.0]))
    one = torch.diag(torch.tensor([5.0, 0.0, 1.0]))
    assert singular(two).effective_rank == 2
    assert shared(singular(one), singular(two)) == pytest.approx(0.5)
    assert shared(singular(two), singular(two)) == pytest.approx(1)
