"""How does a model read an example? Text becomes tokens, with a mask of the positions that count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from engram_interp.concepts.concept import Example, Pair, TokenExample, counting
from engram_interp.options import ANSWER, Read


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

    def encode_all(
        self, examples: Sequence[Example], group: str, read: Read | None = None, start: int = 0
    ) -> list[TokenExample]:
        """The examples as the model reads them. Their text goes to the tokenizer at once, which is faster.

        Args:
            examples: text or tokens.
            group: what errors call them, `group[0]` and so on.
            read: which positions of a pair count, if the pair does not say so. None takes the default.
            start: the number of the first.

        Raises:
            ValueError: if text is given without a fast tokenizer, if there are tokens that the model does not have, or
                more tokens than it has positions; if a text or an answer has no token, or the positions that produce
                an answer are asked for and no token stands before it.
        """
        places = {i: f"{group}[{start + i}]" for i in range(len(examples))}
        texts = {i: one for i, one in enumerate(examples) if not isinstance(one, TokenExample)}
        spelled = self._spelled_out({places[i]: _text_of(one) for i, one in texts.items()})
        read = read or Read()
        encoded = {i: self._encode_text(one, places[i], *spelled[places[i]], read) for i, one in texts.items()}
        encoded |= {i: one for i, one in enumerate(examples) if isinstance(one, TokenExample)}
        for i, one in encoded.items():
            self._check(one.tokens, places[i])
        return [encoded[i] for i in places]

    def _check(self, tokens: Int[Tensor, "pos"], place: str) -> None:
        """Check that the model has these tokens, and as many positions."""
        if tokens.min() < 0 or tokens.max() >= self.d_vocab:
            outlier = int(tokens.min() if tokens.min() < 0 else tokens.max())
            raise ValueError(f"{place} must hold tokens from 0 to {self.d_vocab - 1}; it holds {outlier}")
        if self.n_ctx is not None and len(tokens) > self.n_ctx:
            raise ValueError(f"{place} must have at most {self.n_ctx} tokens, the model's positions; got {len(tokens)}")

    def _encode_text(
        self, example: str | tuple[str, str], place: str, ids: list[int], ends: list[int], read: Read
    ) -> TokenExample:
        """A text or a pair, whose tokens are `ids` and end at `ends`."""
        if isinstance(example, str):
            ids, is_text = self._with_bos(ids, [end > 0 for end in ends])
            return TokenExample(torch.tensor(ids), torch.tensor(is_text))
        read = example.read(read) if isinstance(example, Pair) else read
        answer_from = _join(*example)[1]
        is_answer = [end > answer_from for end in ends]
        if not any(is_answer):
            raise ValueError(f"{place} has an answer without a token: {example[1]!r}")
        if read.positions != ANSWER and is_answer[0]:
            raise ValueError(
                f"{place} has no token before its answer, which positions = {read.positions!r} needs: its tokens are "
                f"{self._spelled(ids)}"
            )
        if read.eos and self.eos is not None and ids[-1] != self.eos:
            ids, is_answer = [*ids, self.eos], [*is_answer, True]
        ids, is_answer = self._with_bos(ids, is_answer)
        tokens, answer = torch.tensor(ids), torch.tensor(is_answer)
        return counting(tokens, answer, read, self._real(tokens))

    def _spelled_out(self, texts: dict[str, str]) -> dict[str, tuple[list[int], list[int]]]:
        """The tokens of every text, by its place, and where each of them ends in it."""
        if not texts:
            return {}
        first = next(iter(texts))
        tokenizer = self._required_tokenizer(first)
        if not tokenizer.is_fast:
            raise ValueError(
                f"{first} needs a fast tokenizer, which finds where an answer begins; got {type(tokenizer).__name__}: "
                f"use Concept.from_tokens"
            )
        encoding = tokenizer([*texts.values()], add_special_tokens=False, return_offsets_mapping=True)
        found = {}
        for place, ids, offsets in zip(texts, encoding["input_ids"], encoding["offset_mapping"], strict=True):
            if not ids:
                raise ValueError(f"{place} has no token: {texts[place]!r}")
            found[place] = list(ids), [end for _, end in offsets]
        return found

    def _with_bos(self, ids: list[int], marked: list[bool]) -> tuple[list[int], list[bool]]:
        """With BOS in front, if the model expects it. BOS is never marked, and is not put there twice."""
        if self.bos is None:
            return ids, marked
        if ids[0] == self.bos:
            return ids, [False, *marked[1:]]
        return ([self.bos, *ids], [False, *marked]) if self.prepend_bos else (ids, marked)

    def _real(self, tokens: Int[Tensor, "pos"]) -> Bool[Tensor, "pos"]:
        """Every token but a BOS in front."""
        real = torch.ones_like(tokens, dtype=torch.bool)
        real[0] = self.bos is None or int(tokens[0]) != self.bos
        return real

    def _spelled(self, ids: list[int]) -> list[str]:
        return cast("list[str]", self._required_tokenizer("the tokens").convert_ids_to_tokens(ids))

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


def _text_of(example: str | tuple[str, str]) -> str:
    return example if isinstance(example, str) else _join(*example)[0]


def _join(prompt: str, answer: str) -> tuple[str, int]:
    """The whole text, and where the answer's first letter stands in it. Tokens that reach beyond this place count."""
    space = "" if prompt[-1].isspace() or answer[0].isspace() else " "
    text = prompt + space + answer
    return text, len(text) - len(answer.lstrip())
