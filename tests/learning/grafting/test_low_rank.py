import pytest
import torch

from engram_interp.engrams.parts import parts, prepare
from engram_interp.learning.grafting.difference import difference
from engram_interp.learning.grafting.low_rank import Directions, directions_of, low_rank, ranks_within
from engram_interp.models import adapt
from engram_interp.options import Run, Solve, Which
from tests.conftest import build, token_concept


def made(model, base):
    solve = Solve(delta_from=base)
    prepared = prepare(model, token_concept(), Which(), solve, Run(progress=False))
    return list(parts(prepared, solve, False))


def test_the_directions_are_the_best_for_what_the_engram_puts_out():
    model, base = build("gpt2", seed=1), build("gpt2", seed=0)
    for part in made(model, base)[:4]:
        found = directions_of(part)
        root = torch.linalg.cholesky(part.data.S.double())
        Y = part.W_plus @ root
        U, s, _ = torch.linalg.svd(Y, full_matrices=False)
        k = min(len(found.energy), len(s))
        assert found.energy[:k].sqrt().tolist() == pytest.approx(s[:k].tolist(), rel=1e-3, abs=1e-4 * float(s[0]))
        assert float(s[k:].square().sum()) < 1e-8 * float(s.square().sum())
        r = 3
        best = U[:, :r] @ U[:, :r].T
        mine = found.U[:, :r] @ found.U[:, :r].T
        assert float((best - mine).norm()) < 1e-4


def test_all_directions_are_the_whole_change_and_none_is_nothing():
    model, base = build("gpt2", seed=1), build("gpt2", seed=0)
    change = difference(adapt(model), adapt(base), Which())
    directions = {part.site.key: directions_of(part) for part in made(model, base)}
    whole, nothing = low_rank(change, directions, 1.0), low_rank(change, directions, 0.0)
    assert all(torch.equal(whole[key], one) for key, one in change.every.items())
    assert not any(one.any() for one in nothing.values())
    errors = []
    for share in (0.1, 0.3, 0.6):
        taken = low_rank(change, directions, share)
        errors.append(sum(float((taken[key] - one).square().sum()) for key, one in change.matrices.items()))
        numbers = sum(
            int(torch.linalg.matrix_rank(site.matrix(taken[site.path]))) * sum(adapt(model).shape(site))
            for site in change.sites
        )
        # A matrix that takes as many numbers as it has entries is whole, at any rank.
        assert numbers <= 2.05 * share * change.n_entries + 1
    assert errors == sorted(errors, reverse=True)


def test_numbers_go_where_they_bring_most():
    eye = torch.eye(2).double()
    big, small = (
        Directions(eye, torch.tensor(e).double(), torch.ones(2, 6).double(), False) for e in ([8.0, 4.0], [6.0, 0.0])
    )
    # Each direction takes 2 + 6 = 8 of 24 numbers, and a matrix of 12 entries has room for one and a half.
    assert big.costs.tolist() == [8.0, 4.0]
    assert ranks_within({"big": big, "small": small}, 8 / 24, 24) == {"big": 1, "small": 0}
    assert ranks_within({"big": big, "small": small}, 12 / 24, 24) == {"big": 2, "small": 0}
    assert ranks_within({"big": big, "small": small}, 1.0, 24) == {"big": 2, "small": 2}
