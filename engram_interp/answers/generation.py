"""What does the model answer? Greedy continuations of prompts, to read before and after an edit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby, pairwise, takewhile

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from engram_interp.common.arguments import whole
from engram_interp.common.progress import bar
from engram_interp.concepts.batches import batch_ends, encode_groups
from engram_interp.concepts.concept import TokenExample
from engram_interp.models import LanguageAdapter, adapt_language
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

    Keys and values are cached. Prompts of similar length run in one batch where the model takes padding in front of
    them (a bridge with rotary positions), and prompts of equal length elsewhere.

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
    adapter = adapt_language(model)
    encoded = encode_groups({"prompt": prompts}, adapter.encoder)["prompt"]
    answers: dict[int, str] = {}
    with bar(None, run.progress, "answering", "prompt", total=len(encoded)) as shown:
        for some in _together(encoded, adapter.pads_left, run.batch_size, max_new_tokens):
            tokens, real = _side_by_side([encoded[i].tokens for i in some])
            texts = continued(adapter, tokens, max_new_tokens, None if real.all() else real)
            answers |= {i: adapter.encoder.decode(text).strip() for i, text in zip(some, texts, strict=True)}
            shown.update(len(some))
    return [answers[i] for i in range(len(encoded))]


def _together(
    encoded: Sequence[TokenExample], pads: bool, batch_size: int | None, max_new_tokens: int
) -> Iterator[list[int]]:
    """The numbers of the prompts that run together, batch by batch: of similar or of equal length."""
    order = sorted(range(len(encoded)), key=lambda i: len(encoded[i].tokens))
    lengths = [len(encoded[i].tokens) for i in order]
    groups = [order] if pads else [[order[i] for i in places] for places in _runs(lengths)]
    for group in groups:
        for start, stop in pairwise(batch_ends([len(encoded[i].tokens) for i in group], batch_size, max_new_tokens)):
            yield group[start:stop]


def _runs(values: Sequence[int]) -> list[list[int]]:
    """The places of equal neighbours.

    Example:
        >>> _runs([3, 3, 5])
        [[0, 1], [2]]
    """
    return [list(places) for _, places in groupby(range(len(values)), key=lambda i: values[i])]


def _side_by_side(texts: Sequence[Int[Tensor, "_"]]) -> tuple[Int[Tensor, "batch pos"], Bool[Tensor, "batch pos"]]:
    """Texts of different lengths, padded in front, and which tokens are real."""
    tokens = torch.zeros(len(texts), max(map(len, texts)), dtype=torch.long)
    real = torch.zeros_like(tokens, dtype=torch.bool)
    for row, text in enumerate(texts):
        tokens[row, -len(text) :], real[row, -len(text) :] = text, True
    return tokens, real


def continued(
    adapter: LanguageAdapter,
    tokens: Int[Tensor, "batch pos"],
    max_new_tokens: int,
    mask: Bool[Tensor, "batch pos"] | None = None,
) -> list[list[int]]:
    """The model's first choices after each row of tokens, up to the end of its text.

    Args:
        adapter: the model.
        tokens: texts side by side, padded in front.
        max_new_tokens: where to cut what does not end by itself.
        mask: true at real tokens. None if all are.
    """
    n_ctx, eos = adapter.encoder.n_ctx, adapter.encoder.eos
    n = max_new_tokens if n_ctx is None else min(max_new_tokens, n_ctx - tokens.shape[1])
    start, seen = tokens.shape[1], None
    ended = torch.zeros(len(tokens), dtype=torch.bool)
    for _ in range(n):
        logits, seen = adapter.next_logits(tokens if seen is None else tokens[:, -1:], seen, mask)
        chosen = logits.argmax(-1).cpu()
        tokens = torch.cat([tokens, chosen[:, None]], dim=1)
        if mask is not None:
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
        ended |= chosen == eos
        if ended.all():
            break
    return [list(takewhile(lambda token: token != eos, text)) for text in tokens[:, start:].tolist()]
