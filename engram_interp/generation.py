"""What does the model answer? Greedy continuations of prompts, to read before and after an edit."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from tqdm.auto import tqdm

from engram_interp.concept import BATCH_SIZE, TokenExample, batches, encode_groups
from engram_interp.models import Adapter, adapt


def greedy_answers(
    model: nn.Module,
    prompts: Sequence[str],
    max_new_tokens: int = 16,
    *,
    batch_size: int = BATCH_SIZE,
    progress: bool | None = False,
) -> list[str]:
    """The model's greedy answer to every prompt, up to its end-of-sequence token.

    Every token is another pass over the whole text so far, which serves answers of a few sentences, in every class of
    model alike.

    Args:
        model: a model with a tokenizer.
        prompts: questions, as the prompts of a `Concept`.
        max_new_tokens: where to cut an answer that does not end by itself; the end of the context cuts it too.
        batch_size: prompts at a time.
        progress: True or False shows or hides the bar; None shows it in a terminal only.

    Example:
        >>> from engram_interp import testbed
        >>> greedy_answers(testbed.load("full"), ["What is the capital of Norway?"])
        ['Oslo']
    """
    adapter = adapt(model)
    encoded = encode_groups({"prompt": prompts}, adapter.encoder)["prompt"]
    shortest_first = sorted(range(len(encoded)), key=lambda i: len(encoded[i].tokens))
    answers: dict[int, str] = {}
    starts = range(0, len(encoded), batch_size)
    disable = None if progress is None else not progress
    for start in tqdm(starts, desc="answering", unit="batch", leave=False, disable=disable):
        some = shortest_first[start : start + batch_size]
        texts = _continued(adapter, [encoded[i].tokens.tolist() for i in some], max_new_tokens)
        for i, text in zip(some, texts, strict=True):
            answers[i] = adapter.encoder.decode(text[len(encoded[i].tokens) :]).strip()
    return [answers[i] for i in range(len(encoded))]


def _continued(adapter: Adapter, texts: list[list[int]], max_new_tokens: int) -> list[list[int]]:
    """Texts with the model's first choices after them, each until it ends."""
    n_ctx, eos = adapter.encoder.n_ctx, adapter.encoder.eos
    texts = [list(text) for text in texts]
    going = list(range(len(texts)))
    for _ in range(max_new_tokens):
        going = [i for i in going if n_ctx is None or len(texts[i]) < n_ctx]
        if not going:
            break
        for i, token in zip(going, _next_tokens(adapter, [texts[i] for i in going]), strict=True):
            texts[i].append(token)
        going = [i for i in going if texts[i][-1] != eos]
    return texts


@torch.no_grad()
def _next_tokens(adapter: Adapter, texts: list[list[int]]) -> list[int]:
    """The model's first choice after each text."""
    tokens = [torch.tensor(text) for text in texts]
    last = [TokenExample(text, torch.arange(len(text)) == len(text) - 1) for text in tokens]
    (batch,) = batches({"prompt": last}, len(last), False, "")
    chosen = adapter.unembed(adapter.final(batch, at=batch.counts)).argmax(-1)
    return chosen[batch.numbers.argsort().to(chosen.device)].tolist()
