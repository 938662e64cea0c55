import copy
from dataclasses import replace

import pytest
import torch

from engram_interp.models import adapt
from engram_interp.sae.corpus import listed
from engram_interp.sae.reader import SaeReader
from tests.sae.saes import RUN, make


def test_padding_in_front_is_left_away(full):
    encoder = adapt(full).encoder
    bos, pad = encoder.bos, encoder.pad
    rows = torch.tensor([[bos, 20, 30, 40], [pad, pad, bos, 20], [pad, 20, 30, bos], [bos, 20, pad, pad]])
    found = listed(rows, encoder)
    assert [one.tokens.tolist() for one in found] == [[bos, 20, 30, 40], [bos, 20], [20, 30, bos], [bos, 20, pad, pad]]
    assert [int(one.counts.sum()) for one in found] == [3, 1, 2, 1]
    same = replace(encoder, tokenizer=copy.deepcopy(encoder.tokenizer))
    same.tokenizer.pad_token = same.tokenizer.bos_token
    assert [one.tokens.tolist() for one in listed(torch.tensor([[bos, bos, 20, bos]]), same)] == [[bos, 20, bos]]
    for wrong in (torch.arange(3), torch.rand(2, 2), torch.ones(2, 2, dtype=torch.bool)):
        with pytest.raises(ValueError, match=r"corpus.*torch"):
            listed(wrong, encoder)


def test_prompts_are_text_and_bos_is_not(full):
    sae = make("standard", 256)
    pair, string = ("What is the capital of Norway?", "the city of Oslo"), "in Oslo"
    readings = SaeReader(adapt(full), sae).readings([pair, string], [0], RUN)
    n = len(readings[0].tokens)
    assert readings[0].text.tolist() == [False] + [True] * (n - 1)
    assert int(readings[0].counts.sum()) == 5  # four words and the end of the sequence
    assert readings[1].text.tolist() == readings[1].counts.tolist() == [False, True, True]
