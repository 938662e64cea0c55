import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engram_interp.linalg import gram as module
from engram_interp.linalg.gram import add_gram, compact, gram, mirror


def rows(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


@given(n=st.integers(1, 40), d=st.integers(1, 40), seed=st.integers(0, 99))
@settings(deadline=None)
def test_it_is_the_product(n, d, seed):
    X = rows(n, d, seed)
    torch.testing.assert_close(gram(X), X.double().T @ X.double(), rtol=1e-12, atol=1e-12)


def test_many_rows_come_in_blocks():
    X = rows(2500, 9)
    torch.testing.assert_close(gram(X), X.double().T @ X.double(), rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_is_added_in_the_precision_of_the_matrix(dtype):
    total = torch.zeros(17, 17, dtype=dtype)
    parts = [rows(5, 17, seed) for seed in range(3)]
    for X in parts:
        add_gram(total, X)
    X = torch.cat(parts).double()
    torch.testing.assert_close(mirror(total).double(), X.T @ X, rtol=1e-5, atol=1e-5)
    assert torch.equal(total, total.T)


@given(out=st.integers(1, 30), d=st.integers(1, 12), seed=st.integers(0, 99), rank=st.integers(1, 12))
@settings(deadline=None)
def test_a_compact_matrix_has_the_norms_of_all_products(out, d, seed, rank):
    # Of full and of lower rank, where the Gram matrix has no Cholesky factor.
    W = rows(out, min(rank, d), seed) @ rows(min(rank, d), d, seed + 100)
    R, A = compact(W), rows(d, 5, seed + 200).double()
    assert len(R) == min(out, d)
    torch.testing.assert_close(R.T @ R, W.double().T @ W.double(), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close((R @ A).norm(), (W.double() @ A).norm(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rows_in_half_precision_are_multiplied_as_they_are_where_the_device_can(dtype, monkeypatch):
    # Simulated: only a GPU multiplies in half precision and sums in float32.
    seen = []

    def mm(left, right, out_dtype):
        seen.append((left.dtype, out_dtype))
        return left.to(out_dtype) @ right.to(out_dtype)

    monkeypatch.setattr(module, "multiplies_exactly", lambda X: True)
    monkeypatch.setattr(torch, "mm", mm)
    X, total = rows(30, 9).to(dtype), torch.zeros(9, 9).double()
    add_gram(total, X)
    torch.testing.assert_close(mirror(total), X.double().T @ X.double(), rtol=1e-6, atol=1e-6)
    assert set(seen) == {(dtype, torch.float32)}
