import logging
import math

import torch

from engram_interp.concepts.memories import Memories
from engram_interp.maps.null_sets import N_BOOTSTRAPS, random_sets, rows_of_sets, sibling_sets, warn_of_few_sets
from engram_interp.statistics.rows import Rows


def test_random_sets_are_whole_examples_as_many_as_the_target_has():
    sets = torch.stack(random_sets(n_target=4, n_examples=9, draws=50, seed=0))
    assert sets.shape == (1 + 50 + N_BOOTSTRAPS, 4)
    assert sets[0].tolist() == [0, 1, 2, 3]
    random, bootstraps = sets[1:51], sets[51:]
    assert all(len(set(row.tolist())) == 4 and row.tolist() == sorted(row.tolist()) for row in random)
    assert set(random.flatten().tolist()) == set(range(9))
    assert set(bootstraps.flatten().tolist()) == set(range(4))
    assert any(len(set(row.tolist())) < 4 for row in bootstraps)


def test_every_sibling_is_a_set_where_there_are_few():
    memories = Memories([[0, 1]], [[2], [3, 5], [4, 6, 7]], "by hand")
    sets = sibling_sets(memories, n_target=2, draws=99, seed=0)
    assert [one.tolist() for one in sets[:4]] == [[0, 1], [2], [3, 5], [4, 6, 7]]
    assert len(sets) == 4 + N_BOOTSTRAPS


def test_sets_have_as_many_memories_as_the_target_and_none_is_the_target():
    memories = Memories([[0], [1]], [[i] for i in range(2, 6)], "by hand")
    every = [tuple(one.tolist()) for one in sibling_sets(memories, 2, draws=99, seed=0)[:-N_BOOTSTRAPS]]
    assert len(every) == len(set(every)) == math.comb(6, 2)  # the target is one of them, once
    some = [tuple(one.tolist()) for one in sibling_sets(memories, 2, draws=10, seed=0)[:-N_BOOTSTRAPS]]
    assert len(some) == len(set(some)) == 11
    assert set(some) < set(every)


def test_rows_of_sets_are_those_of_their_examples():
    # Example 1 has no row of this input, as with an expert that no token of it was sent to.
    rows = Rows(torch.zeros(5, 2), torch.tensor([0, 0, 2, 2, 3]), torch.tensor([2, 2, 2, 2]))
    found = rows_of_sets(rows, [torch.tensor([0, 1]), torch.tensor([2, 3]), torch.tensor([1]), torch.tensor([2, 2])])
    assert found.tolist() == [[0, 1, 5, 5], [2, 3, 4, 5], [5, 5, 5, 5], [2, 3, 2, 3]]


def test_few_sets_are_said_to_be_few(caplog):
    with caplog.at_level(logging.WARNING, logger="engram_interp"):
        warn_of_few_sets(20, "twenty")
        assert not caplog.records
        warn_of_few_sets(5, "1 of the 5 memories")
    assert "only 5 sets of 1 of the 5 memories" in caplog.text
    assert "0.2" in caplog.text
