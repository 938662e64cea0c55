import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engram_interp.learning.grafting.difference import difference
from engram_interp.learning.grafting.places import mask_of, places_of, units_of, with_others
from engram_interp.models import adapt
from engram_interp.options import Which
from tests.conftest import build


@given(st.integers(0, 99), st.lists(st.floats(0, 1), min_size=2, max_size=4))
def test_a_graft_has_the_entries_with_the_largest_scores_and_holds_all_smaller_ones(seed, shares):
    generator = torch.Generator().manual_seed(seed)
    scores = {"a": torch.rand(3, 4, generator=generator), "b": torch.rand(5, generator=generator)}
    places, before = places_of(scores), None
    for share in sorted(shares):
        mask = mask_of(places, share)
        flat, chosen = (torch.cat([one[key].flatten() for key in ("a", "b")]) for one in (scores, mask))
        assert int(chosen.sum()) == int(share * 17 + 0.5)
        if 0 < chosen.sum() < 17:
            assert flat[chosen].min() >= flat[~chosen].max()
        assert before is None or bool((chosen | ~before).all())
        before = chosen


def test_units_go_together_and_none_exceeds_the_share():
    scores = {"a": torch.tensor([9.0, 1.0, 4.0, 4.0, 0.0])}
    units = {"a": torch.tensor([0, 0, 1, 1, 2])}
    # Means: unit 0 has 5, unit 1 has 4, unit 2 has 0.
    places = places_of(scores, units)
    assert places["a"].tolist() == [2, 2, 4, 4, 5]
    assert mask_of(places, 0.6)["a"].tolist() == [True, True, False, False, False]  # 3 entries hold one unit of two
    assert mask_of(places, 1.0)["a"].all()
    assert not mask_of(places, 0.0)["a"].any()


@pytest.mark.parametrize("variant", ["llama", "gpt2"])
def test_heads_are_units_of_their_own_with_their_biases(variant):
    fine, base = adapt(build(variant, seed=1)), adapt(build(variant, seed=0))
    change = difference(fine, base, Which())
    units, matrices = (
        {key: one.double() for key, one in units_of(change, by_head).items()} for by_head in (True, False)
    )
    for site in change.sites:
        matrix = site.matrix(units[site.path])
        heads = site.layout.heads(site.of(units[site.path]))
        n = 1 if heads is None else heads.n
        assert len(matrix.unique()) == n
        assert len(site.matrix(matrices[site.path]).unique()) == 1
        if heads is not None:
            assert all(len(one.unique()) == 1 for one in heads.of(matrix))
        if site.bias in units and site.component in ("W_Q", "W_K", "W_V"):
            assert units[site.bias].unique().tolist() == matrix.unique().tolist()
    # Units of different matrices have different numbers.
    every = [set(site.matrix(units[site.path]).unique().tolist()) for site in change.sites]
    assert len(set().union(*every)) == sum(map(len, every))


def test_what_has_no_engram_comes_last():
    fine, base = adapt(build("gpt2", seed=1)), adapt(build("gpt2", seed=0))
    change = difference(fine, base, Which())
    places = with_others(places_of({key: one.square() for key, one in change.matrices.items()}), change)
    n = sum(one.numel() for one in change.matrices.values())
    assert change.others
    assert all(int(places[key].min()) > n for key in change.others)
    assert max(int(one.max()) for one in places.values()) == change.n_entries
