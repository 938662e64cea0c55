import pytest
import torch

from engram_interp.maps.scores import Measured, above_others, score_p_values, scores, scores_without_own


def measured(n_sets: int, n_units: int, seed: int = 0) -> Measured:
    generator = torch.Generator().manual_seed(seed)
    return Measured(*(torch.rand(n_sets, n_units, generator=generator).double() + 1 for _ in range(2)))


def by_hand(gain, passed, null_gain, null_passed):
    """The formula, one set and unit at a time."""

    def profile(row):
        ratio = row / null_passed.mean(0)
        return ratio / (ratio**2).mean() ** 0.5

    def z(x, null):
        return (x - null.mean()) / null.std()

    null_h = torch.stack([profile(row) for row in null_passed])
    h = profile(passed)
    found = []
    for i in range(len(gain)):
        raw = z(gain[i], null_gain[:, i]) + z(h[i], null_h[:, i])
        usual = torch.stack(
            [z(null_gain[r, i], null_gain[:, i]) + z(null_h[r, i], null_h[:, i]) for r in range(len(null_h))]
        )
        found.append(z(raw, usual))
    return torch.stack(found)


def test_the_score_is_the_formula():
    some, null = measured(3, 5), measured(12, 5, seed=1)
    for row in range(3):
        expected = by_hand(some.gain[row], some.passed[row], null.gain, null.passed)
        torch.testing.assert_close(scores(some, null)[row], expected)


def test_every_set_is_compared_with_all_others():
    every = measured(9, 4)
    found = scores_without_own(every)
    for i in range(9):
        others = [j for j in range(9) if j != i]
        expected = by_hand(every.gain[i], every.passed[i], every.gain[others], every.passed[others])
        torch.testing.assert_close(found[i], expected)


def test_the_size_of_a_set_and_of_a_matrix_change_nothing():
    some, null = measured(2, 6), measured(15, 6, seed=1)
    of_matrix = torch.rand(6, generator=torch.Generator().manual_seed(2)).double() + 0.5
    scaled, scaled_null = (Measured(one.gain * of_matrix, one.passed * of_matrix) for one in (some, null))
    torch.testing.assert_close(scores(scaled, scaled_null), scores(some, null))
    larger = Measured(some.gain, 7 * some.passed)  # every matrix passes seven times as much a position
    torch.testing.assert_close(scores(larger, null), scores(some, null))


def test_units_that_never_vary_score_nothing():
    null = Measured(torch.ones(5, 3), torch.ones(5, 3))
    assert scores(Measured(2 * torch.ones(1, 3), torch.ones(1, 3)), null).tolist() == [[0.0, 0.0, 0.0]]


def test_a_target_that_is_unusual_everywhere_is_found_nowhere():
    # The target is far out in every unit alike: its rank is the first, but no unit stands out.
    sets = torch.randn(40, 10, generator=torch.Generator().manual_seed(0))
    sets[0] += 20
    assert score_p_values(sets).min() > 0.05
    sets[0] -= 20
    sets[0, 3] += 20
    found = score_p_values(sets)
    assert found[3] == pytest.approx(1 / 40)
    assert found[torch.arange(10) != 3].min() > 0.05


def test_one_in_twenty_targets_like_others_gets_a_star():
    # Each of 200 sets is taken for the target once. Forty units would give nearly all of them a star at 0.05 each.
    sets = torch.randn(200, 40, generator=torch.Generator().manual_seed(0))
    starred = [bool((score_p_values(sets.roll(-i, 0)) <= 0.05).any()) for i in range(200)]
    assert sum(starred) == 10
    assert all(bool(((sets >= sets[i]).double().mean(0) <= 0.05).any()) for i in range(200) if starred[i])


def test_a_unit_beside_the_first_is_judged_by_itself():
    # Unit 0 has a place. Unit 1 is farther out than in 98 of 99 sets, though some other unit of most sets is as far.
    sets = torch.randn(100, 40, generator=torch.Generator().manual_seed(1))
    sets[0] = 0
    sets[0, 0], sets[0, 1] = 9.0, sets[1:, 1].sort().values[-2] + 0.01
    found = score_p_values(sets)
    assert found[0] == pytest.approx(0.01)
    assert found[1] == pytest.approx(0.02, abs=0.03)
    assert found[2:].min() > 0.05


def test_above_others_is_in_robust_deviations():
    # Median 0, absolute deviations 0, 1, 1, 2, 8: their median is 1, so one unit is 1.4826.
    found = above_others(torch.tensor([0.0, 1.0, -1.0, 2.0, -8.0]))
    assert found.tolist() == pytest.approx([0, 1 / 1.4826, -1 / 1.4826, 2 / 1.4826, -8 / 1.4826])
    # Scores that hardly differ are not blown up: the unit is 1 at least.
    assert above_others(torch.tensor([0.0, 0.1, -0.1])).tolist() == pytest.approx([0, 0.1, -0.1])
