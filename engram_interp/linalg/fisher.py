"""`F = S (x) G`, the Fisher metric of a linear layer, in which an engram is a projection and a step (paper, Section 6).

`S = E[x x^T]` is the second moment of a layer's inputs, and `G = E[g g^T]` that of the gradients at its outputs
(K-FAC). In this metric the loss of Eq. 2 is the squared distance from `W+`, up to a constant (Theorem 6.1), and
`W - W+` is one natural-gradient step that forgets (Corollary 6.3). The paper uses the identity for `G`. If forgetting
is measured with `G` too, `G` cancels.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from engram_interp.linalg.gram import strips
from engram_interp.linalg.solution import Solution


def squared_length(
    A: Float[Tensor, "*head out d"], S: Float[Tensor, "*#head d d"], G: Float[Tensor, "out out"] | None = None
) -> Float[Tensor, "*head"]:
    """`vec(A)^T (S (x) G) vec(A) = tr(G A S A^T)`, in float64. Without `G` this is `|A X|_F^2`.

    Args:
        A: a change of a weight.
        S: second moment of its inputs.
        G: second moment of the gradients at its outputs; the identity by default.

    Example:
        >>> A = torch.tensor([[1.0, 2.0]])
        >>> squared_length(A, torch.eye(2)).item(), squared_length(A, torch.eye(2), torch.tensor([[3.0]])).item()
        (5.0, 15.0)
    """
    A, S = A.double(), S.double()
    weighted = A if G is None else G.double() @ A
    # S is symmetric: what lies left of a strip's own block is what lies above it, and counts twice.
    total = A.new_zeros(A.shape[:-2])
    for start, stop in strips(S.shape[-1]):
        own = weighted[..., start:stop] @ S[..., start:stop, start:stop]
        below = weighted[..., stop:] @ S[..., stop:, start:stop]
        total += ((own + 2 * below) * A[..., start:stop]).sum((-2, -1))
    return total


def natural_gradient(
    gradient: Float[Tensor, "out d"], solution: Solution, G: Float[Tensor, "out out"] | None = None
) -> Float[Tensor, "out d"]:
    """`F^pinv` times a gradient, `G^pinv gradient S^pinv`, in float64.

    For `2 W S+`, the gradient of `|W X+|^2`, half of it is `W+` (Corollary 6.3).

    Args:
        gradient: the gradient of a loss by the weight.
        solution: of `S`.
        G: second moment of the gradients at the outputs; the identity by default.

    Example:
        >>> from engram_interp.linalg.spectrum import spectrum
        >>> W, S_plus, S = torch.ones(1, 2), torch.diag(torch.tensor([1.0, 0.0])), torch.diag(torch.tensor([4.0, 2.0]))
        >>> (natural_gradient(2 * W @ S_plus, spectrum(S)) / 2).tolist()
        [[0.25, 0.0]]
    """
    step = solution.solve(gradient.double())
    return step if G is None else torch.linalg.pinv(G.double(), hermitian=True) @ step
