"""A pass that watches its map ends when the map is settled, and at the same batch each time."""

import logging

import pytest
import torch

from engram_interp import Concept, collect, localize
from engram_interp.models import adapt
from engram_interp.statistics import convergence
from engram_interp.statistics.convergence import N_BLOCKS, Watch
from engram_interp.statistics.sharing.ranks import Ranks
from engram_interp.statistics.statistics import Statistics
from tests.conftest import token_concept, tokens


@pytest.fixture
def concept() -> Concept:
    """Random tokens: every example is like every other, so that a map settles."""
    return Concept.from_tokens(tokens(300, 12, seed=1), tokens(900, 12, seed=2))


def test_it_stops_early_where_the_map_is_settled_and_says_so(llama, concept, caplog):
    with caplog.at_level(logging.INFO, "engram_interp"):
        found = collect(llama, concept, until=0.1, batch_size=10)
    whole = collect(llama, concept)
    assert sum(found.counts.values()) < sum(whole.counts.values())
    assert "that is enough" in caplog.text
    # Both sides are read in proportion, so the share of the target is that of all examples.
    assert found.token_share() == pytest.approx(whole.token_share(), abs=0.02)
    mine, others = localize(llama, found), localize(llama, whole)
    assert max(abs(mine[key] - others[key]) for key in others) < 0.1


def test_a_narrower_interval_reads_more(llama, concept):
    counts = [sum(collect(llama, concept, until=until, batch_size=10).counts.values()) for until in (0.2, 0.05)]
    assert counts[0] < counts[1]


def test_the_same_call_stops_at_the_same_batch(llama, concept, tmp_path):
    one, other = (collect(llama, concept, until=0.1, batch_size=10) for _ in range(2))
    stored = collect(llama, concept, until=0.1, batch_size=10, store=tmp_path / "a", budget="70KB", checkpoint_every=0)
    for found in (other, stored):
        assert found.counts == one.counts
        assert all(
            torch.equal(found.groups[g][n].second, one.groups[g][n].second) for g in one.groups for n in one.inputs
        )


def test_an_interval_that_is_never_reached_reads_all(llama):
    concept = token_concept()
    assert collect(llama, concept, until=1e-9).counts == collect(llama, concept).counts


def test_blocks_add_up_to_the_whole(llama, concept):
    adapter = adapt(llama)
    sites, encoded = adapter.sites("gate"), adapter.encode_concept(concept)
    watch = Watch(adapter, sites, encoded, 0.1)
    from engram_interp.options import Run
    from engram_interp.statistics.passes import batches_of, one_pass

    one_pass(adapter, sites, batches_of(encoded, Run(), in_order=True), watch.record)
    whole = collect(llama, concept, components="gate")
    for name in whole.inputs:
        for group in whole.groups:
            blocks = watch._moments(name, group)
            assert len(blocks) == N_BLOCKS
            expected = whole.groups[group][name].matrix(ones=False)
            torch.testing.assert_close(torch.stack([*blocks.values()]).sum(0), expected, rtol=1e-5, atol=1e-3)


def test_the_interval_is_that_of_a_bootstrap_by_hand(llama, concept):
    adapter = adapt(llama)
    sites, encoded = adapter.sites("K", 1), adapter.encode_concept(concept)
    watch = Watch(adapter, sites, encoded, 0.1)
    from engram_interp.options import Run
    from engram_interp.statistics.passes import batches_of, one_pass

    one_pass(adapter, sites, batches_of(encoded, Run(), in_order=True), watch.record)
    generator = torch.Generator().manual_seed(0)
    name, W = sites[0].input, adapter.weight(sites[0]).detach().double()
    values = []
    for _ in range(convergence.N_DRAWS):
        drawn = {}
        for group in ("target", "reference"):
            chosen = torch.randint(N_BLOCKS, (N_BLOCKS,), generator=generator)
            drawn[group] = sum(watch._moments(name, group)[int(i)] for i in chosen)
        P = drawn["target"] @ torch.linalg.pinv(drawn["target"] + drawn["reference"], hermitian=True)
        values.append(float((W @ P).norm() / W.norm()))
    by_hand = 2 * 1.96 * float(torch.tensor(values, dtype=torch.float64).std())
    found = watch._widths(["target", "reference"])
    assert found[sites[0].key] == pytest.approx(by_hand, rel=1e-6)


def test_a_side_that_was_read_to_its_end_is_as_it_is(llama):
    few = Concept.from_tokens(tokens(4, 12, seed=1), tokens(900, 12, seed=2))
    adapter = adapt(llama)
    watch = Watch(adapter, adapter.sites("K", 1), adapter.encode_concept(few), 0.1)
    assert watch._left == {"target": 4, "reference": 900}
    assert convergence._draw(["reference"], torch.Generator())("target").tolist() == [1.0] * N_BLOCKS


def test_several_processes_cannot_watch(llama, monkeypatch, concept):
    monkeypatch.setattr(Ranks, "here", classmethod(lambda cls: cls(0, 2)))
    with pytest.raises(ValueError, match="until.*2"):
        collect(llama, concept, until=0.1)


@pytest.mark.parametrize("until", [0, -0.1])
def test_a_width_must_be_above_zero(llama, until):
    with pytest.raises(ValueError, match=str(until)):
        collect(llama, token_concept(), until=until)
    assert isinstance(collect(llama, token_concept()), Statistics)
