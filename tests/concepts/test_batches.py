import pytest
import torch

from engram_interp.concepts import batches as module
from engram_interp.concepts.batches import batch_ends, batches, encode_groups
from engram_interp.concepts.concept import TokenExample
from engram_interp.concepts.encoding import Encoder
from tests.conftest import tokens


def test_batches_hold_every_example_once_in_its_group():
    encoder = Encoder(None, False, 50, None)
    groups = {
        name: [TokenExample(row[:length], row[:length] > 5) for row, length in zip(tokens(7, 9, seed=seed), lengths)]
        for seed, (name, lengths) in enumerate({"a": [9, 2, 5, 7, 3, 8, 4], "b": [6, 6, 9, 2]}.items())
    }
    encoded = encode_groups(groups, encoder)
    seen = []
    for batch in batches(encoded, 4, progress=False, describe=""):
        for row, name in enumerate(batch.examples):
            group, index = name.rstrip("]").split("[")
            example = groups[group][int(index)]
            real = batch.attention_mask[row]
            assert torch.equal(batch.tokens[row][real], example.tokens)
            assert torch.equal(batch.counts[row][real], example.counts)
            assert not batch.counts[row][~real].any()
            assert batch.groups[row] == list(groups).index(group)
            seen.append(name)
    assert sorted(seen) == sorted(f"{name}[{i}]" for name, examples in groups.items() for i in range(len(examples)))


def test_a_group_in_which_nothing_counts_is_refused():
    silent = TokenExample(torch.tensor([1, 2]), torch.tensor([False, False]))
    with pytest.raises(ValueError, match="b .*counts.* 1 "):
        encode_groups({"b": [silent]}, Encoder(None, False, 9, None))


def test_a_batch_holds_at_least_one_example():
    with pytest.raises(ValueError, match="batch_size.*1.*0"):
        next(batches({}, 0, False, ""))


def test_a_batch_holds_as_many_tokens_as_fit_and_never_less_than_an_example(monkeypatch):
    monkeypatch.setattr(module, "TOKENS", 10)
    # 3 x 3 and then 2 x 4 and 2 x 5 tokens; the longest alone is more than a batch.
    assert batch_ends([1, 2, 3, 4, 4, 5, 5, 30], None) == [0, 3, 5, 7, 8]
    assert batch_ends([2, 2, 2], None, longer=4) == [0, 1, 2, 3]
    assert batch_ends([], None) == [0]


def test_a_batch_ends_before_it_holds_much_padding(monkeypatch):
    monkeypatch.setattr(module, "PADDING", 6)
    # Beside a 5, 2 + 2 tokens of padding for two 3s, and 3 + 3 + 1 with a 6: one too many.
    assert batch_ends([3, 3, 5, 6], None) == [0, 3, 4]
    assert batch_ends([3, 3, 5, 6], None, longer=1) == [0, 4]
    assert batch_ends([3, 3, 5, 6], batch_size=4) == [0, 4]
