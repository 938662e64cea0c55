"""What does the model answer? Greedy continuations of prompts, to read before and after an edit."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise, takewhile

import torch
from jaxtyping import Int
from torch import Tensor, nn

from engram_interp.common.arguments import whole
from engram_interp.common.progress import bar
from engram_interp.concepts.batches import batch_ends, encode_groups
from engram_interp.models import Adapter, adapt
from engram_interp.models.exclusive import exclusive
from engram_interp.options import Run, takes


@exclusive
@takes(Run)
def greedy_answers(
    model: nn.Module,
    prompts: Sequence[str],
    max_new_tokens: int = 16,
    *,
    run: Run,
) -> list[str]:
    """The model's greedy answer to every prompt, up to its end-of-sequence token.

    Prompts of equal length run in one batch, so nothing is padded. Keys and values are cached.

    Args:
        model: a model with a tokenizer.
        prompts: questions, as the prompts of a `Concept`.
        max_new_tokens: where to cut an answer that does not end by itself, 1 or more. The end of the context cuts it
            too.

    Raises:
        ValueError: if the model cannot read a prompt, or `max_new_tokens` is below 1.
        TypeError: if a prompt is not text, or `max_new_tokens` is not a whole number.

    Example:
        >>> from engram_interp import testbed
        >>> greedy_answers(testbed.load("full"), ["What is the capital of Norway?"])
        ['Oslo']
    """
    max_new_tokens = whole(max_new_tokens, "max_new_tokens", 1)
    adapter = adapt(model)
    encoded = encode_groups({"prompt": prompts}, adapter.encoder)["prompt"]
    lengths = [len(example.tokens) for example in encoded]
    answers: dict[int, str] = {}
    with bar(None, run.progress, "answering", "prompt", total=len(encoded)) as shown:
        for length in sorted(set(lengths)):
            alike = [i for i, mine in enumerate(lengths) if mine == length]
            for start, stop in pairwise(batch_ends([length] * len(alike), run.batch_size, max_new_tokens)):
                some = alike[start:stop]
                texts = continued(adapter, torch.stack([encoded[i].tokens for i in some]), max_new_tokens)
                answers |= {i: adapter.encoder.decode(text).strip() for i, text in zip(some, texts, strict=True)}
                shown.update(len(some))
    return [answers[i] for i in range(len(encoded))]


def continued(adapter: Adapter, tokens: Int[Tensor, "batch pos"], max_new_tokens: int) -> list[list[int]]:
    """The model's first choices after each row of tokens, up to the end of its text."""
    n_ctx, eos = adapter.encoder.n_ctx, adapter.encoder.eos
    n = max_new_tokens if n_ctx is None else min(max_new_tokens, n_ctx - tokens.shape[1])
    start, seen = tokens.shape[1], None
    ended = torch.zeros(len(tokens), dtype=torch.bool)
    for _ in range(n):
        logits, seen = adapter.next_logits(tokens if seen is None else tokens[:, -1:], seen)
        chosen = logits.argmax(-1).cpu()
        tokens = torch.cat([tokens, chosen[:, None]], dim=1)
        ended |= chosen == eos
        if ended.all():
            break
    return [list(takewhile(lambda token: token != eos, text)) for text in tokens[:, start:].tolist()]
