import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig

from engram_interp import plan
from engram_interp.models import adapt
from engram_interp.models.outline import outline
from engram_interp.statistics.dealing import owners_of
from engram_interp.statistics.planning.sizes import (
    batch_within,
    least_budget,
    moment_bytes,
    passes_within,
    sizes_of_inputs,
    sum_bytes,
    tokens_within,
)
from engram_interp.statistics.sharing.ranks import Ranks, owners

widths = st.dictionaries(st.text("abc", min_size=1, max_size=3), st.integers(1, 2000), min_size=1, max_size=12)


def test_bytes_by_hand():
    assert moment_bytes(576) == 576 * 576 * 8
    assert moment_bytes(1536) == 1536 * 1536 * 4
    assert sum_bytes(1536, 1536) == 1536 * 1536 * 4  # as many rows as dimensions, of four bytes each
    assert sum_bytes(1536, 1537) == 1536 * 1536 * 4
    assert sum_bytes(1536, 100, torch.bfloat16) == 100 * 1536 * 2
    assert sum_bytes(1536, None) == moment_bytes(1536)


@given(widths=widths, slack=st.floats(1, 5), n_ranks=st.integers(1, 4))
def test_every_input_is_summed_once_in_order_and_within_the_budget(widths, slack, n_ranks):
    sizes = sizes_of_inputs(widths, [1000, None], torch.float32)
    budget = int(least_budget(sizes) * slack)
    passes = passes_within(sizes, budget, n_ranks)
    assert [name for names in passes for name in names] == list(sizes)
    largest_written = max(max(one) for one in sizes.values())
    for names in passes:
        held = [0] * n_ranks
        for name, rank in owners({name: sum(sizes[name]) for name in names}, n_ranks).items():
            held[rank] += sum(sizes[name])
        assert max(held) + largest_written <= budget


def test_without_a_budget_there_is_one_pass():
    assert passes_within({"a": [1], "b": [2]}, None) == [("a", "b")]


def test_a_budget_that_does_not_hold_the_largest_input_says_what_would():
    sizes = sizes_of_inputs({"small": 10, "large": 1000}, [None, None], torch.float32)
    with pytest.raises(ValueError, match=r"12\.0 MB.*large.*5\.0 MB"):
        passes_within(sizes, 5_000_000)


def test_a_model_that_is_given_batches_has_no_tokens_to_bound():
    assert tokens_within(0, 10**7) == 4096
    assert batch_within(0, 10**7) == 0


def test_the_owners_of_a_run_are_those_of_its_plan():
    config = LlamaConfig(
        hidden_size=64, intermediate_size=175, num_hidden_layers=4, num_attention_heads=4, vocab_size=100
    )
    counts = {"target": 30, "reference": 120}  # so few that some sums are rows
    model = outline(config)
    planned = plan(model, counts, ranks=3, flops=1e9).inputs
    adapter = adapt(model)
    found = owners_of(adapter, adapter.all_sites(), counts, Ranks(0, 3))
    assert dict(zip(planned["input"], planned["rank"])) == found


def test_owners_share_the_load():
    # 9 goes to the first, 5 and 4 to the second, and 1 to the first, which then has 10 against 9.
    assert owners({"a": 1, "b": 9, "c": 5, "d": 4}, 2) == {"a": 0, "b": 0, "c": 1, "d": 1}
    assert set(owners({"a": 1}, 3).values()) == {0}
