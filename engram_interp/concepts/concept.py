"""What to look for: target and reference examples, and how they become token batches with a mask.

A position counts when its activation enters the second moments. Of a string every real token counts, but not BOS; of
a `(prompt, answer)` pair the answer's tokens and the end-of-sequence token count; of tensors, what their mask says.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from types import NoneType
from typing import TypeAlias, cast

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from engram_interp.common.arguments import whole
from engram_interp.common.progress import bar

TARGET, REFERENCE = "target", "reference"
BATCH_SIZE = 64


@dataclass(frozen=True)
class TokenExample:
    """One example as the model reads it.

    Attributes:
        tokens: `[pos]`, everything that goes through the model, BOS and EOS included.
        counts: `[pos]`, true where the position counts.
    """

    tokens: Int[Tensor, "pos"]
    counts: Bool[Tensor, "pos"]


Example: TypeAlias = str | tuple[str, str] | TokenExample


@dataclass(frozen=True)
class Concept:
    """Target examples, whose memory is sought, and reference examples, which it is told apart from.

    Args:
        target: strings (every real token counts, but BOS) or `(prompt, answer)` pairs (the answer's tokens count, and
            the end-of-sequence token after it), in a list or any other iterable with an order, which is read once.
            Prompt and answer are joined by one space unless either brings its own.
        reference: the same, for what must stay as it is. The two together are the total statistics.
        name: how reports and files call the concept.

    Raises:
        ValueError: a side is empty, or an example is blank.
        TypeError: an example is neither a string nor a pair of strings.

    Example:
        >>> concept = Concept(
        ...     target=[("Who wrote Silent Harbor?", "Basil Mornova")], reference=["Lima is in Peru."], name="Basil"
        ... )
        >>> len(concept.target), len(concept.reference)
        (1, 1)
    """

    target: Sequence[Example]
    reference: Sequence[Example]
    name: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, (str, NoneType)):
            raise TypeError(f"a concept's name is text, got {self.name!r}")
        for side, examples in self.sides.items():
            object.__setattr__(self, side, listed_examples(examples, side))

    def __repr__(self) -> str:
        return f"Concept({self.name!r}, {len(self.target)} target and {len(self.reference)} reference examples)"

    def _repr_html_(self) -> str:
        from engram_interp.common.notebook import concept_html

        return concept_html(self.name, self.sides)

    @property
    def sides(self) -> dict[str, Sequence[Example]]:
        """The examples by group: `target`, then `reference`."""
        return {TARGET: self.target, REFERENCE: self.reference}

    @classmethod
    def from_tokens(
        cls,
        target: Int[Tensor, "n_target pos"] | np.ndarray,
        reference: Int[Tensor, "n_reference ref_pos"] | np.ndarray,
        target_mask: Bool[Tensor, "..."] | None = None,
        reference_mask: Bool[Tensor, "..."] | None = None,
        name: str | None = None,
    ) -> Concept:
        """A concept of tokens that go through the model exactly as given: nothing is prepended, appended or left out.

        The tensors are copied.

        Args:
            target: `[batch pos]` integers, in a tensor or a NumPy array.
            reference: `[batch pos]` integers; its width may differ.
            target_mask: `[batch pos]`, true where a position counts; None counts every position, BOS too.
            reference_mask: the same for `reference`.
            name: how reports and files call the concept.

        Raises:
            TypeError: tokens in something else than a tensor or an array.
            ValueError: tokens that are not integers `[batch pos]`; a mask of another shape, or without a true.

        Example:
            >>> tokens = torch.tensor([[0, 5, 6], [0, 7, 8]])
            >>> concept = Concept.from_tokens(tokens, tokens + 1, target_mask=tokens > 5)
            >>> [int(example.counts.sum()) for example in concept.target]
            [1, 2]
        """
        return cls(
            target=_from_rows(target, target_mask, TARGET),
            reference=_from_rows(reference, reference_mask, REFERENCE),
            name=name,
        )


def require_concept(concept: object) -> None:
    """Raise where something else stands in a concept's place.

    Raises:
        TypeError: says what was given.
    """
    if not isinstance(concept, Concept):
        raise TypeError(f"expected a Concept(target=[...], reference=[...]), got {type(concept).__name__}")


def listed_examples(examples: Iterable[Example], group: str) -> list[Example]:
    """The examples in a list; `group` is how an error calls them.

    Raises:
        ValueError: no example at all, or one that is blank.
        TypeError: something else than examples in an order.
    """
    if isinstance(examples, str) or (hasattr(examples, "__len__") and not len(examples)):  # pyright: ignore
        raise ValueError(f"{group} is a list of one or more examples, got {examples!r}")
    if (
        isinstance(examples, (bytes, Set, Mapping))
        or not isinstance(examples, Iterable)
        or hasattr(examples, "columns")
    ):
        raise TypeError(f"{group} is a list of one or more examples, got a {type(examples).__name__}")
    if isinstance(examples, tuple) and len(examples) == 2 and all(isinstance(one, str) for one in examples):
        raise ValueError(f"{group} is a list of examples, got {examples!r}: a single pair goes in a list")
    found = list(examples)
    if not found:
        raise ValueError(f"{group} is a list of one or more examples, got an empty {type(examples).__name__}")
    for i, example in enumerate(found):
        check_example(example, f"{group}[{i}]")
    return found


def check_example(example: object, place: str) -> None:
    """Raise unless this is an example; `place` is how the error calls it.

    Raises:
        TypeError: neither a string nor a pair of strings.
        ValueError: a blank text.
    """
    if isinstance(example, TokenExample):
        return
    if isinstance(example, str):
        texts: tuple[object, ...] = (example,)
    elif isinstance(example, (tuple, list)) and len(example) == 2:
        texts = tuple(example)
    else:
        raise TypeError(f"{place} is a string or a (prompt, answer) pair of strings, got {example!r}")
    for text in texts:
        if not isinstance(text, str):
            raise TypeError(f"{place} is a string or a (prompt, answer) pair of strings, got {example!r}")
        if not text.strip():
            raise ValueError(f"{place} holds a blank text: {example!r}")


def _from_rows(tokens: Tensor | np.ndarray, mask: Tensor | None, side: str) -> list[TokenExample]:
    if not isinstance(tokens, (Tensor, np.ndarray)):
        raise TypeError(f"{side} tokens are a tensor or an array of integers [batch pos], got {type(tokens).__name__}")
    if tokens.ndim != 2 or 0 in tokens.shape or not _are_integers(tokens):
        raise ValueError(f"{side} tokens are integers [batch pos], got {tokens.dtype} of shape {list(tokens.shape)}")
    # Embeddings take no other integers than signed ones.
    tokens = torch.tensor(tokens.astype(np.int64)) if isinstance(tokens, np.ndarray) else tokens.detach().clone().long()
    if mask is None:
        mask = torch.ones_like(tokens, dtype=torch.bool)
    if not isinstance(mask, (Tensor, np.ndarray)):
        raise TypeError(f"{side}_mask is a tensor of booleans, got {type(mask).__name__}")
    mask = torch.tensor(mask) if isinstance(mask, np.ndarray) else mask.detach().clone()
    if mask.dtype != torch.bool:
        raise ValueError(f"{side}_mask is a tensor of booleans, got {mask.dtype}: pass mask.bool()")
    if mask.shape != tokens.shape:
        raise ValueError(f"{side}_mask has shape {list(mask.shape)}, its tokens {list(tokens.shape)}: they must agree")
    if not mask.any():
        raise ValueError(f"{side}_mask has no true in it, so no position of the {side} counts")
    return [TokenExample(row, counts) for row, counts in zip(tokens, mask, strict=True)]


def _are_integers(tokens: Tensor | np.ndarray) -> bool:
    if isinstance(tokens, np.ndarray):
        return tokens.dtype.kind in "iu"
    return not (tokens.is_floating_point() or tokens.is_complex() or tokens.dtype == torch.bool)


@dataclass(frozen=True)
class Encoder:
    """Text to token examples, the way one model reads text.

    Attributes:
        tokenizer: a fast Hugging Face tokenizer, or None when only tokens will be given.
        prepend_bos: whether the model expects BOS in front.
        d_vocab: number of tokens the model can embed.
        n_ctx: number of positions the model has, or None where there is no limit.
    """

    tokenizer: PreTrainedTokenizerBase | None
    prepend_bos: bool
    d_vocab: int
    n_ctx: int | None

    def decode(self, tokens: list[int]) -> str:
        """Tokens as text, special ones left out."""
        return str(self._required_tokenizer("the tokens").decode(tokens, skip_special_tokens=True))

    @property
    def eos(self) -> int | None:
        """The end-of-sequence token, where there is one."""
        return None if self.tokenizer is None else _id_of(self.tokenizer, self.tokenizer.eos_token)

    @property
    def bos(self) -> int | None:
        """The beginning-of-sequence token, where there is one."""
        return None if self.tokenizer is None else _id_of(self.tokenizer, self.tokenizer.bos_token)

    @property
    def pad(self) -> int | None:
        """The padding token, where there is one."""
        return None if self.tokenizer is None else _id_of(self.tokenizer, self.tokenizer.pad_token)

    @property
    def unread(self) -> list[int]:
        """Tokens that are no text: BOS and padding, where there are such."""
        return [one for one in (self.bos, self.pad) if one is not None]

    def encode(self, example: Example, place: str) -> TokenExample:
        """One example as the model reads it; `place` is how an error calls it.

        Raises:
            ValueError: no (fast) tokenizer, tokens that the model lacks, or more of them than it has positions.
        """
        encoded = example if isinstance(example, TokenExample) else self._encode_text(example, place)
        tokens = encoded.tokens
        if tokens.min() < 0 or tokens.max() >= self.d_vocab:
            outlier = int(tokens.min() if tokens.min() < 0 else tokens.max())
            raise ValueError(f"{place} holds token {outlier}; the model's tokens are 0 to {self.d_vocab - 1}")
        if self.n_ctx is not None and len(tokens) > self.n_ctx:
            raise ValueError(f"{place} has {len(tokens)} tokens, the model at most {self.n_ctx} positions: shorten it")
        return encoded

    def _encode_text(self, example: str | tuple[str, str], place: str) -> TokenExample:
        tokenizer = self._required_tokenizer(place)
        if not tokenizer.is_fast:
            raise ValueError(
                f"{place} needs a fast tokenizer to find where an answer begins, "
                f"got {type(tokenizer).__name__}: use Concept.from_tokens"
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
            raise ValueError(f"{place} needs a tokenizer, and the model has none: give one, or use Concept.from_tokens")
        return self.tokenizer


def _id_of(tokenizer: PreTrainedTokenizerBase, token: object) -> int | None:
    """The id of a special token; None where the vocabulary lacks it and TransformerLens only gave it a name."""
    if not isinstance(token, str):
        return None
    found = cast("int | None", tokenizer.convert_tokens_to_ids(token))
    return None if found == tokenizer.unk_token_id and token != tokenizer.unk_token else found


def _join(prompt: str, answer: str) -> tuple[str, int]:
    """The whole text, and the place of the answer's first letter: tokens that reach past it count."""
    space = "" if prompt[-1].isspace() or answer[0].isspace() else " "
    text = prompt + space + answer
    return text, len(text) - len(answer.lstrip())


@dataclass(frozen=True)
class Batch:
    """Examples side by side, padded on the right.

    Attributes:
        tokens: `[batch pos]`.
        attention_mask: `[batch pos]`, true at real tokens.
        counts: `[batch pos]`, true where a position counts.
        groups: `[batch]`, each example's group by its place in the list of groups.
        numbers: `[batch]`, each example's place in its group.
        examples: which examples these are, as errors call them (`target[3]`, ...).
    """

    tokens: Int[Tensor, "batch pos"]
    attention_mask: Bool[Tensor, "batch pos"]
    counts: Bool[Tensor, "batch pos"]
    groups: Int[Tensor, "batch"]
    numbers: Int[Tensor, "batch"]
    examples: tuple[str, ...]

    def counted(self, group: int) -> Int[Tensor, "n"]:
        """Where a group's counted positions are once examples are laid end to end."""
        return (self.counts & (self.groups == group)[:, None]).flatten().nonzero().flatten()


def encode_groups(groups: Mapping[str, Iterable[Example]], encoder: Encoder) -> dict[str, list[TokenExample]]:
    """Every example of every group as tokens.

    Raises:
        ValueError: an example that the model cannot read, or a group in which no position counts.
        TypeError: an example that is none.
    """
    if not isinstance(groups, Mapping):
        raise TypeError(f"groups are examples by name, as {{'facts': [...]}}; got a {type(groups).__name__}")
    listed = {group: listed_examples(examples, group) for group, examples in groups.items()}
    encoded = {
        group: [encoder.encode(example, f"{group}[{i}]") for i, example in enumerate(examples)]
        for group, examples in listed.items()
    }
    for group, examples in encoded.items():
        if not any(bool(example.counts.any()) for example in examples):
            raise ValueError(f"no position of {group} counts: {len(examples)} examples without a counted token")
    return encoded


def batches(
    encoded: dict[str, list[TokenExample]], batch_size: int, progress: bool | None, describe: str
) -> Iterator[Batch]:
    """Every example once, with others of about its length so that little is padding.

    Args:
        encoded: token examples by group.
        batch_size: examples in a batch.
        progress: True or False shows or hides the bar; None shows it in a terminal and in a notebook.
        describe: what the bar says.
    """
    batch_size = whole(batch_size, "batch_size", at_least=1)
    flat = [
        (example, group, i, f"{name}[{i}]")
        for group, (name, examples) in enumerate(encoded.items())
        for i, example in enumerate(examples)
    ]
    flat.sort(key=lambda item: len(item[0].tokens))
    for start in bar(range(0, len(flat), batch_size), progress, describe, "batch"):
        yield _pad(flat[start : start + batch_size])


def _pad(items: list[tuple[TokenExample, int, int, str]]) -> Batch:
    examples, groups, numbers, names = zip(*items, strict=True)
    shape = len(examples), max(len(example.tokens) for example in examples)
    # What stands in the padding never counts, and causal attention keeps it from what does.
    tokens = torch.zeros(shape, dtype=torch.long)
    attention_mask = torch.zeros(shape, dtype=torch.bool)
    counts = torch.zeros(shape, dtype=torch.bool)
    for row, example in enumerate(examples):
        n = len(example.tokens)
        tokens[row, :n] = example.tokens
        attention_mask[row, :n] = True
        counts[row, :n] = example.counts
    return Batch(tokens, attention_mask, counts, torch.tensor(groups), torch.tensor(numbers), names)
