import pytest
import torch

from engram_interp.linalg.norms import Heads, block_norms, frobenius_norms, output_norm, output_norms


def test_output_norm_by_hand():
    # W X with X = diag(2, 3): |[[1, 1], [0, 2]] X|^2 = 4 + 9 + 36.
    W, X = torch.tensor([[1.0, 1.0], [0.0, 2.0]]), torch.diag(torch.tensor([2.0, 3.0]))
    assert output_norm(W, X @ X.T).item() == pytest.approx(49**0.5)


@pytest.mark.parametrize("along", ["rows", "columns"])
def test_the_norms_of_heads_are_those_of_their_blocks(along):
    W, X = torch.randn(6, 6).double(), torch.randn(6, 40).double()
    heads, S = Heads(3, along), X @ X.T
    for head in range(3):
        block = slice(2 * head, 2 * head + 2)
        own, inputs = (W[block], X) if along == "rows" else (W[:, block], X[block])
        assert frobenius_norms(W, heads)[1 + head].item() == pytest.approx(own.norm().item())
        assert output_norms(W, S, heads, False)[1 + head].item() == pytest.approx((own @ inputs).norm().item())
    assert output_norms(W, S, heads, False)[0].item() == pytest.approx((W @ X).norm().item())


def test_block_norms_by_brute_force_with_something_between():
    A, B, H = torch.randn(5, 4), torch.randn(5, 3), torch.randn(2, 3, 3)
    index = torch.tensor([[0, 1, 2], [1, 3, 3]])
    found = block_norms(A, B, index, 2, lambda chunk: H)
    for one, rows in enumerate(index):
        product = A[rows].T @ H[one] @ B[rows]
        expected = [product.norm(), product[:2].norm(), product[2:].norm()]
        assert found[one].tolist() == pytest.approx([value.item() for value in expected], rel=1e-5)
