import pytest
import torch

from engram_interp.linalg.norms import Heads, frobenius_norms, output_norm, output_norms
from engram_interp.linalg.second_moment import SecondMoment


def test_output_norm_by_hand():
    # W X with X = diag(2, 3): |[[1, 1], [0, 2]] X|^2 = 4 + 9 + 36.
    W, X = torch.tensor([[1.0, 1.0], [0.0, 2.0]]), torch.diag(torch.tensor([2.0, 3.0]))
    assert output_norm(W, X @ X.T).item() == pytest.approx(49**0.5)


@pytest.mark.parametrize("n", [3, 40])
@pytest.mark.parametrize("by_rows", [True, False])
@pytest.mark.parametrize("along", ["rows", "columns"])
def test_the_norms_of_heads_are_those_of_their_blocks(along, by_rows, n):
    W, X = torch.randn(6, 6).double(), torch.randn(6, n).double()
    S = SecondMoment(rows=X.T) if by_rows else SecondMoment(X @ X.T)
    heads = Heads(3, along)
    for head in range(3):
        block = slice(2 * head, 2 * head + 2)
        own, inputs = (W[block], X) if along == "rows" else (W[:, block], X[block])
        assert frobenius_norms(W, heads)[1 + head].item() == pytest.approx(own.norm().item())
        assert output_norms(W, S, heads, False)[1 + head].item() == pytest.approx((own @ inputs).norm().item())
    assert output_norms(W, S, heads, False)[0].item() == pytest.approx((W @ X).norm().item())
