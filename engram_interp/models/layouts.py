"""How does a parameter become the matrix `[out in]` of the formulas?

TransformerLens writes `x @ W` and keeps heads apart, a convolution keeps its kernel's axes apart; the paper writes
`W x`. A layout has the axes of both, and they say where heads (or channels) lie: in blocks of rows or of columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import einops
from jaxtyping import Float
from torch import Tensor

from engram_interp.linalg.norms import Heads


@dataclass(frozen=True)
class Layout:
    """How a parameter and the matrix `[out in]` that it holds are laid out.

    Attributes:
        parameter_axes: the axes of the parameter.
        matrix_axes: the axes of the matrix. An axis `head` of its rows or columns says where its units lie: heads of an
            attention matrix, channels of a convolution.
        n_heads: how many units there are, where the parameter has no axis of its own for them.
    """

    parameter_axes: str
    matrix_axes: str
    n_heads: int | None = None

    @property
    def is_flat(self) -> bool:
        """Whether the parameter has no axis for each of heads and their dimensions, so that its bias has none."""
        return not {"head", "d_head"} <= set(self.parameter_axes.split())

    @property
    def has_heads(self) -> bool:
        """Whether the matrix falls into heads."""
        return "head" in self.matrix_axes

    @property
    def bias_has_heads(self) -> bool:
        """Whether the bias, a number for each output, falls into heads too."""
        return self.matrix_axes.removeprefix("(").startswith("head")

    def heads(self, parameter: Float[Tensor, "..."]) -> Heads | None:
        """Where heads lie in the matrix that a parameter holds; None for a matrix without heads."""
        if not self.has_heads:
            return None
        return Heads(self._sizes(parameter)["head"], "rows" if self.bias_has_heads else "columns")

    def to_matrix(self, parameter: Float[Tensor, "..."]) -> Float[Tensor, "out in"]:
        """A parameter as the paper writes it, `[out in]`."""
        return einops.rearrange(parameter, f"{self.parameter_axes} -> {self.matrix_axes}", **self._sizes(parameter))

    def to_parameter(self, matrix: Float[Tensor, "out in"], like: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """A matrix `[out in]` in the shape of the parameter `like`."""
        return einops.rearrange(matrix, f"{self.matrix_axes} -> {self.parameter_axes}", **self._sizes(like))

    def head_norms(self, parameter: Float[Tensor, "..."]) -> Float[Tensor, "head"]:
        """Frobenius norm of every head of a parameter, in float64; a matrix without heads counts as one."""
        matrix = self.to_matrix(parameter.double())
        heads = self.heads(parameter)
        return matrix.flatten()[None].norm(dim=1) if heads is None else heads.of(matrix).flatten(1).norm(dim=1)

    def _sizes(self, parameter: Float[Tensor, "..."]) -> dict[str, int]:
        """The size of every axis that the parameter shows."""
        if self.n_heads is not None:
            return {"head": self.n_heads}
        return dict(zip(self.parameter_axes.split(), parameter.shape, strict=True))
