"""How does a model read an example? Text becomes tokens, with a mask of the positions that count."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from transformers import PreTrainedTokenizerBase

from engram_interp.concepts.concept import Example, TokenExample


@dataclass(frozen=True)
class Encoder:
    """Turns text into token examples, in the way that one model reads text.

    Attributes:
        tokenizer: a fast Hugging Face tokenizer, or None if only tokens will be given.
        prepend_bos: whether the model expects BOS in front.
        d_vocab: the number of tokens that the model can embed.
        n_ctx: the number of positions that the model has; None if there is no limit.
    """

    tokenizer: PreTrainedTokenizerBase | None
    prepend_bos: bool
    d_vocab: int
    n_ctx: int | None

    def decode(self, tokens: list[int]) -> str:
        """Tokens as text, without special tokens."""
        return str(self._required_tokenizer("the tokens").decode(tokens, skip_special_tokens=True))

    @property
    def eos(self) -> int | None:
        """The end-of-sequence token; None if there is none."""
        return None if self.tokenizer is None else _id_of(self.tokenizer, self.tokenizer.eos_token)

    @property
    def bos(self) -> int | None:
        """The beginning-of-sequence token; None if there is none."""
        return None if self.tokenizer is None else _id_of(self.tokenizer, self.tokenizer.bos_token)

    @property
    def pad(self) -> int | None:
        """The padding token; None if there is none."""
        return None if self.tokenizer is None else _id_of(self.tokenizer, self.tokenizer.pad_token)

    @property
    def unread(self) -> list[int]:
        """The tokens that are not text: BOS and padding, as far as the tokenizer has them."""
        return [one for one in (self.bos, self.pad) if one is not None]

    def encode(self, example: Example, place: str) -> TokenExample:
        """One example as the model reads it. Errors call it `place`.

        Raises:
            ValueError: if text is given without a fast tokenizer, or if there are tokens that the model does not have,
                or more tokens than it has positions.
        """
        encoded = example if isinstance(example, TokenExample) else self._encode_text(example, place)
        tokens = encoded.tokens
        if tokens.min() < 0 or tokens.max() >= self.d_vocab:
            outlier = int(tokens.min() if tokens.min() < 0 else tokens.max())
            raise ValueError(f"{place} must hold tokens from 0 to {self.d_vocab - 1}; it holds {outlier}")
        if self.n_ctx is not None and len(tokens) > self.n_ctx:
            raise ValueError(f"{place} must have at most {self.n_ctx} tokens, the model's positions; got {len(tokens)}")
        return encoded

    def _encode_text(self, example: str | tuple[str, str], place: str) -> TokenExample:
        tokenizer = self._required_tokenizer(place)
        if not tokenizer.is_fast:
            raise ValueError(
                f"{place} needs a fast tokenizer, which finds where an answer begins; got {type(tokenizer).__name__}: "
                f"use Concept.from_tokens"
            )
        text, counted_from = (example, 0) if isinstance(example, str) else _join(*example)
        encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids: list[int] = list(encoding["input_ids"])
        counts = [end > counted_from for _, end in encoding["offset_mapping"]]
        if not isinstance(example, str) and self.eos is not None and ids[-1] != self.eos:
            ids, counts = [*ids, self.eos], [*counts, True]
        bos = _id_of(tokenizer, tokenizer.bos_token)
        if self.prepend_bos and bos is not None and ids[0] != bos:
            ids, counts = [bos, *ids], [False, *counts]
        if ids[0] == bos:
            counts[0] = False
        return TokenExample(torch.tensor(ids), torch.tensor(counts))

    def _required_tokenizer(self, place: str) -> PreTrainedTokenizerBase:
        if self.tokenizer is None:
            raise ValueError(f"{place} needs a tokenizer, but the model has none: give one, or use Concept.from_tokens")
        return self.tokenizer


def _id_of(tokenizer: PreTrainedTokenizerBase, token: object) -> int | None:
    """The id of a special token. It is None if TransformerLens only named the token and the vocabulary lacks it."""
    if not isinstance(token, str):
        return None
    found = cast("int | None", tokenizer.convert_tokens_to_ids(token))
    return None if found == tokenizer.unk_token_id and token != tokenizer.unk_token else found


def _join(prompt: str, answer: str) -> tuple[str, int]:
    """The whole text, and where the answer's first letter stands in it. Tokens that reach beyond this place count."""
    space = "" if prompt[-1].isspace() or answer[0].isspace() else " "
    text = prompt + space + answer
    return text, len(text) - len(answer.lstrip())
