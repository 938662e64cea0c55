"""Which tokens of a corpus are text? Examples, or rows of tokens with BOS and padding left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from engram_interp.concepts.concept import Example, TokenExample
from engram_interp.concepts.encoding import Encoder

Corpus: TypeAlias = Sequence[Example] | Tensor
"""Examples as `Concept` takes them, or rows of tokens, `[n pos]`."""


def listed(corpus: Corpus, encoder: Encoder) -> Sequence[Example]:
    """The examples of a corpus.

    In rows of tokens, BOS and padding do not count, and padding at the start of a row is removed.

    Raises:
        ValueError: if `corpus` is a tensor, but not one of integers of shape `[n pos]`.
    """
    if not isinstance(corpus, Tensor):
        return corpus
    if corpus.dim() != 2 or corpus.is_floating_point() or corpus.dtype == torch.bool:
        raise ValueError(
            f"a corpus of tokens must be integers [n pos], got {corpus.dtype} of shape {list(corpus.shape)}"
        )
    unread = torch.tensor(encoder.unread, dtype=torch.long)
    rows = (_from_its_beginning(row, ~torch.isin(row, unread), encoder.bos) for row in corpus.long().cpu())
    return [TokenExample(row, ~torch.isin(row, unread)) for row in rows]


def text_of(given: Example, encoded: TokenExample, encoder: Encoder) -> Bool[Tensor, "pos"]:
    """Which tokens of an example are text. In an example given as tokens, these are the ones that count.

    Args:
        given: the example as the user gave it.
        encoded: its tokens.
        encoder: of the model.
    """
    if isinstance(given, TokenExample):
        return encoded.counts
    return encoded.counts | ~torch.isin(encoded.tokens, torch.tensor(encoder.unread, dtype=torch.long))


def _from_its_beginning(row: Int[Tensor, "pos"], read: Bool[Tensor, "pos"], bos: int | None) -> Int[Tensor, "kept"]:
    """A row without the padding in front of BOS, or in front of the text: a model would attend to it."""
    start = int(read.int().argmax())
    return row[start - 1 :] if start and int(row[start - 1]) == bos else row[start:]
