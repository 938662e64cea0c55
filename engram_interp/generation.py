"""What does the model answer? Greedy continuations of prompts, to read before and after an edit."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from engram_interp.concept import TokenExample, batches, encode_groups
from engram_interp.models import Adapter, adapt


def greedy_answers(model: nn.Module, prompts: Sequence[str], max_new_tokens: int = 16) -> list[str]:
    """The model's greedy answer to every prompt, up to its end-of-sequence token.

    Args:
        model: a model with a tokenizer.
        prompts: questions, as the prompts of a `Concept`.
        max_new_tokens: where to cut an answer that does not end by itself; the end of the context cuts it too.

    Example:
        >>> from engram_interp import testbed
        >>> greedy_answers(testbed.load("full"), ["What is the capital of Norway?"])
        ['Oslo']
    """
    adapter = adapt(model)
    encoder = adapter.encoder
    encoded = encode_groups({"prompt": prompts}, encoder)["prompt"]
    answers = []
    for example in encoded:
        tokens = example.tokens.tolist()
        room = max_new_tokens if encoder.n_ctx is None else min(max_new_tokens, encoder.n_ctx - len(tokens))
        for _ in range(room):
            tokens.append(_next_token(adapter, tokens))
            if tokens[-1] == encoder.eos:
                break
        answers.append(encoder.decode(tokens[len(example.tokens) :]).strip())
    return answers


def _next_token(adapter: Adapter, tokens: list[int]) -> int:
    last = torch.zeros(1, len(tokens), dtype=torch.bool)
    last[0, -1] = True
    (batch,) = batches({"prompt": [TokenExample(torch.tensor(tokens), last[0])]}, 1, False, "")
    return int(adapter.unembed(adapter.final(batch, at=last)).argmax())
