"""`Delta_r = U_r U_r^T Delta`: the change of a matrix in the output directions in which its engram puts out most.

`U` are the left singular vectors of `Delta+ S^1/2`, what the engram of the change puts out. So `U_r U_r^T Delta+` is
the best approximation of rank `r` of that engram, in the norm of its outputs. With all directions it is the whole
change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from engram_interp.engrams.parts import Part
from engram_interp.engrams.weights import write_matrix
from engram_interp.learning.grafting.difference import Difference
from engram_interp.linalg.singular import singular


@dataclass(frozen=True)
class Directions:
    """The output directions of one matrix, largest first.

    Attributes:
        U: orthonormal. Those in which the engram puts out nothing are left out.
        energy: what the engram puts out along each, squared.
        change: the matrix's whole change, with its bias as the last column if `absorbed`.
        absorbed: whether it has such a column.
    """

    U: Float[Tensor, "out k"]
    energy: Float[Tensor, "k"]
    change: Float[Tensor, "out d"]
    absorbed: bool

    @property
    def costs(self) -> Float[Tensor, "unit"]:
        """How many numbers each further direction takes: `out + d`, and the last one what is left of the matrix.

        A matrix of so many directions that they take as many numbers as its entries is grafted whole.
        """
        out, d = self.change.shape
        n = max(1, -(-out * d // (out + d)))  # rounded up
        costs = torch.full((n,), float(out + d), dtype=torch.float64)
        costs[-1] = out * d - (n - 1) * (out + d)
        return costs

    def of_rank(self, r: int) -> Float[Tensor, "out d"]:
        """The change in the first `r` directions; the whole of it if these take as many numbers."""
        if r >= len(self.costs):
            return self.change
        U = self.U[:, :r]
        return U @ (U.T @ self.change)


def directions_of(part: Part) -> Directions:
    """The output directions of a matrix's change, as its engram ranks them."""
    kept = part.data.kept
    found = singular(part.W_plus @ (kept.U * kept.lam.sqrt()))
    return Directions(found.U, found.s.square(), part.dW, part.data.absorbed)


def ranks_within(directions: Mapping[str, Directions], share: float, n_entries: int) -> dict[str, int]:
    """How many directions each matrix gets, if all of them may take this share of `n_entries` numbers.

    Directions with more energy for each number go first; within a matrix, their order is that of their energy.

    Example:
        >>> eye = torch.eye(2).double()
        >>> big, small = (Directions(eye, torch.tensor(e).double(), eye, False) for e in ([9.0, 1.0], [4.0, 0.0]))
        >>> ranks_within({"a": big, "b": small}, 0.5, 8), ranks_within({"a": big, "b": small}, 1.0, 8)
        ({'a': 1, 'b': 0}, {'a': 1, 'b': 1})
    """
    keys, value, cost = [], [], []
    for key, one in directions.items():
        costs = one.costs
        # The last unit of a matrix has all directions that are left.
        known = nn.functional.pad(one.energy, (0, max(0, len(costs) - len(one.energy))))
        energy = torch.cat([known[: len(costs) - 1], known[len(costs) - 1 :].sum()[None]])
        keys += [key] * len(costs)
        # A running minimum, so that a cheap last unit does not come before those that it goes with.
        value.append((energy / costs).cummin(0).values)
        cost.append(costs)
    order = torch.cat(value).argsort(descending=True, stable=True)
    within = torch.cat(cost)[order].cumsum(0) <= share * n_entries + 0.5
    ranks = dict.fromkeys(directions, 0)
    for place in order[within].tolist():
        ranks[keys[place]] += 1
    return ranks


def low_rank(change: Difference, directions: Mapping[str, Directions], share: float) -> dict[str, Tensor]:
    """The graft of this share of all numbers. With all of them, it is the whole difference."""
    if int(share * change.n_entries + 0.5) == change.n_entries:
        return change.every
    ranks = ranks_within(directions, share, change.n_entries)
    found = {key: torch.zeros_like(one) for key, one in change.matrices.items()}
    for site in change.sites:
        one = directions[site.key]
        write_matrix(found, site, one.of_rank(ranks[site.key]), one.absorbed)
    return found
