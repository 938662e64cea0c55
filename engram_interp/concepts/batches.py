"""How do examples go through a model together? In padded batches, with masks of real and of counted positions.

Text is put into batches here; other data come in batches of their own: see `data.py`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias, cast

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from engram_interp.common.arguments import whole
from engram_interp.common.progress import bar
from engram_interp.concepts.concept import TokenExample, listed_examples
from engram_interp.concepts.data import Data, DataBatch, DataExample, data_batches
from engram_interp.concepts.encoding import Encoder
from engram_interp.concepts.streams import Stream
from engram_interp.options import Read

Examples: TypeAlias = Sequence[Any]
"""A group's examples as models read them: of `TokenExample`, of `DataExample`, or `Data`."""
TOKENS = 4096
"""Tokens in a batch, padding included, where no number of examples is given."""
WINDOW = 1024
"""So many examples of a stream are in memory at a time."""
PADDING = 256
"""Tokens of padding in such a batch, at most, for each pass over it: about what a pass costs beside its tokens."""


@dataclass(frozen=True)
class Batch:
    """Examples side by side, padded on the right.

    Attributes:
        tokens: `[batch pos]`.
        attention_mask: `[batch pos]`, true at real tokens.
        counts: `[batch pos]`, true where a position counts.
        groups: `[batch]`, the group of each example, by its place in the list of groups.
        numbers: `[batch]`, the place of each example in its group.
        examples: what errors call these examples (`target[3]`, ...).
        answer: `[batch pos]`, true at the tokens that are scored. None scores those that count.
    """

    tokens: Int[Tensor, "batch pos"]
    attention_mask: Bool[Tensor, "batch pos"]
    counts: Bool[Tensor, "batch pos"]
    groups: Int[Tensor, "batch"]
    numbers: Int[Tensor, "batch"]
    examples: tuple[str, ...]
    answer: Bool[Tensor, "batch pos"] | None = None

    @property
    def scored(self) -> Bool[Tensor, "batch pos"]:
        """True at the tokens that are scored."""
        return self.counts if self.answer is None else self.answer

    def counted(self, group: int) -> Int[Tensor, "n"]:
        """The places of a group's counted positions after the examples are laid end to end."""
        return (self.counts & (self.groups == group)[:, None]).flatten().nonzero().flatten()


def encode_groups(
    groups: Mapping[str, Iterable[Any]], encoder: Encoder, read: Read | None = None
) -> dict[str, list[TokenExample]]:
    """Every example of every group as tokens.

    Args:
        groups: examples by name.
        encoder: how the model reads text.
        read: which positions of a pair count. None takes the default.

    Raises:
        ValueError: if the model cannot read an example, or if no position of a group counts.
        TypeError: if `groups` is not a mapping, or a group does not hold examples.
    """
    found = encode_streams(groups, encoder, read)
    return {group: list(cast("Sequence[TokenExample]", examples)) for group, examples in found.items()}


def encode_streams(
    groups: Mapping[str, Iterable[Any]], encoder: Encoder, read: Read | None = None
) -> dict[str, Examples]:
    """`encode_groups`, but examples of a stream become tokens only when they are read, and are not held."""
    if not isinstance(groups, Mapping):
        raise TypeError(f"groups must be lists of examples by name, {{'facts': [...]}}; got a {type(groups).__name__}")
    encoded: dict[str, Examples] = {
        group: _encoded(examples, group, encoder, read) for group, examples in groups.items()
    }
    for group, examples in encoded.items():
        if not isinstance(examples, TokenStream) and not any(bool(example.counts.any()) for example in examples):
            raise ValueError(f"{group} must have a position that counts; none of its {len(examples)} examples has one")
    return encoded


def _encoded(
    examples: Iterable[Any], group: str, encoder: Encoder, read: Read | None
) -> list[TokenExample] | TokenStream:
    if isinstance(examples, Data):
        return encoder.encode_all(token_examples(examples, group), group, read)
    found = examples if isinstance(examples, Stream) else listed_examples(examples, group)
    return (
        TokenStream(found, group, encoder, read)
        if isinstance(found, Stream)
        else encoder.encode_all(found, group, read)
    )


class TokenStream(Sequence[TokenExample]):
    """A stream's examples as tokens. They are encoded some at a time, and never held.

    Args:
        stream: the examples.
        group: what errors call them.
        encoder: how the model reads text.
        read: which positions of a pair count.
        most: how many positions that count are read. None reads all.
    """

    def __init__(
        self, stream: Stream, group: str, encoder: Encoder, read: Read | None, most: int | None = None
    ) -> None:
        self._stream, self._group, self._encoder, self._read, self._most = stream, group, encoder, read, most

    def __iter__(self) -> Iterator[TokenExample]:
        found = self._all()
        return found if self._most is None else first_tokens(found, self._most)

    def _all(self) -> Iterator[TokenExample]:
        examples, start = iter(self._stream), 0
        while some := list(itertools.islice(examples, WINDOW)):
            yield from self._encoder.encode_all(some, self._group, self._read, start)
            start += len(some)

    @property
    def is_once(self) -> bool:
        """Whether it can be read once only."""
        return self._stream.is_once

    def limited(self, most: int) -> TokenStream:
        """The same up to so many positions that count."""
        return TokenStream(self._stream, self._group, self._encoder, self._read, most)

    def __len__(self) -> int:
        return len(self._stream)

    def __bool__(self) -> bool:
        return True

    def __getitem__(self, place: Any) -> Any:
        return self._stream[place]


def first_tokens(examples: Iterable[TokenExample], most: int) -> Iterator[TokenExample]:
    """The first examples, as long as no more than so many positions count.

    Example:
        >>> some = [TokenExample(torch.tensor([3, 4]), torch.tensor([True, True]))] * 3
        >>> len(list(first_tokens(some, most=5)))
        2
    """
    taken = 0
    for place, example in enumerate(examples):
        taken += int(example.counts.sum())
        if taken > most and not place:
            raise ValueError(f"max_tokens must be {taken} or more, as the first example has; got {most}")
        if taken > most:
            return
        yield example


def limited(encoded: Mapping[str, Examples], most: int | None) -> dict[str, Examples]:
    """Groups of examples, each up to so many positions that count. None takes all.

    Raises:
        ValueError: if the first example of a group has more.
    """
    if most is None:
        return dict(encoded)
    found: dict[str, Examples] = {}
    for group, examples in encoded.items():
        if isinstance(examples, (TokenStream, Data)):
            found[group] = examples.limited(most)
        else:
            found[group] = list(first_tokens(examples, most))
    return found


def token_examples(data: Data, group: str) -> list[TokenExample]:
    """Batches of tokens, as examples of a language model.

    A batch is integers `[batch pos]`, or a dictionary with these as `input_ids`, and with an `attention_mask`, true at
    real tokens, if there is padding, which must be on the right. What is no padding counts where the batch's mask says
    so.

    Raises:
        TypeError: if a batch is anything else.
        ValueError: if there is padding on the left.
    """
    found = []
    for batch in data_batches({group: data}, None, False, ""):
        given = batch.kwargs if isinstance(batch.inputs, Mapping) else {"input_ids": batch.args[0]}
        tokens = given.get("input_ids")
        if not isinstance(tokens, Tensor) or tokens.dim() != 2 or tokens.is_floating_point():
            raise TypeError(f"a language model reads text, or integers [batch pos] as batches; got {batch.examples[0]}")
        real = given.get("attention_mask")
        real = torch.ones_like(tokens, dtype=torch.bool) if real is None else real.bool()
        for row, is_real, counts in zip(tokens.cpu().long(), real.cpu(), batch.counts.expand_as(tokens), strict=True):
            n = int(is_real.sum())
            if not is_real[:n].all():
                raise ValueError(f"padding must be on the right; {batch.examples[0]} has some on the left")
            found.append(TokenExample(row[:n], counts[:n] & is_real[:n]))
    return found


def n_counted(examples: Examples) -> int | None:
    """How many positions count, over all examples; None if nobody knows before they are read.

    Example:
        >>> n_counted([TokenExample(torch.tensor([3, 4]), torch.tensor([False, True]))] * 2)
        2
    """
    if isinstance(examples, (Data, TokenStream)) or any(isinstance(one, DataExample) for one in examples):
        return None
    return sum(int(one.counts.sum()) for one in cast("Sequence[TokenExample]", examples))


AnyBatch: TypeAlias = Batch | DataBatch
Item: TypeAlias = tuple[TokenExample, int, int, str]
"""An example, its group, its place there, and what errors call it."""


def any_batches(
    encoded: Mapping[str, Examples],
    batch_size: int | None,
    progress: bool | None,
    describe: str,
    tokens: int | None = None,
) -> Iterator[AnyBatch]:
    """Yields every example once: `batches` of text, `stream_batches` of streams, `data_batches` of other data."""
    if any(isinstance(some, TokenStream) for some in encoded.values()):
        return stream_batches(encoded, batch_size, progress, describe, tokens=tokens)
    if any(isinstance(some, Data) or isinstance(next(iter(some), None), DataExample) for some in encoded.values()):
        return data_batches(encoded, batch_size, progress, describe)
    return batches(cast("dict[str, list[TokenExample]]", dict(encoded)), batch_size, progress, describe, tokens)


def batches(
    encoded: dict[str, list[TokenExample]],
    batch_size: int | None,
    progress: bool | None,
    describe: str,
    tokens: int | None = None,
) -> Iterator[Batch]:
    """Yields every example once, in batches of examples of similar length, so that there is little padding.

    Args:
        encoded: token examples by group.
        batch_size: examples in a batch. None takes as many as make up `tokens` tokens, with little padding.
        progress: True shows a bar, False hides it. None shows it in a terminal and in a notebook.
        describe: what the bar says.
        tokens: in a batch, padding included, where no number of examples is given. None takes `TOKENS`.
    """
    flat = [
        (example, group, i, f"{name}[{i}]")
        for group, (name, examples) in enumerate(encoded.items())
        for i, example in enumerate(examples)
    ]
    flat.sort(key=lambda item: len(item[0].tokens))
    for some in bar(_cut(flat, batch_size, tokens), progress, describe, "batch"):
        yield _pad(some)


def stream_batches(
    encoded: Mapping[str, Examples],
    batch_size: int | None,
    progress: bool | None,
    describe: str,
    shares: Mapping[str, int] | None = None,
    tokens: int | None = None,
) -> Iterator[Batch]:
    """Yields every example once, some of each group at a time, in batches of examples of similar length.

    Args:
        encoded: token examples by group.
        batch_size: examples in a batch. None takes as many as make up `tokens` tokens, with little padding.
        progress: True shows a bar, False hides it. None shows it in a terminal and in a notebook.
        describe: what the bar says.
        shares: how many of each group are taken at a time. None takes `WINDOW`.
        tokens: in a batch, padding included, where no number of examples is given. None takes `TOKENS`.
    """
    sources = {group: enumerate(examples) for group, examples in encoded.items()}
    with bar(None, progress, describe, "batch") as shown:
        while True:
            placed: list[tuple[float, Item]] = []
            for place, (group, source) in enumerate(sources.items()):
                some = list(itertools.islice(source, WINDOW if shares is None else shares[group]))
                # Groups are mixed among examples of one length, so that reading may stop anywhere.
                placed += [
                    ((k + 0.5) / len(some), (example, place, i, f"{group}[{i}]")) for k, (i, example) in enumerate(some)
                ]
            if not placed:
                return
            flat = [item for _, item in sorted(placed, key=lambda one: (len(one[1][0].tokens), one[0]))]
            for some in _cut(flat, batch_size, tokens):
                yield _pad(some)
                shown.update()


def _cut(flat: list[Item], batch_size: int | None, tokens: int | None) -> list[list[Item]]:
    """Examples by batch, given in ascending length; see `batch_ends`."""
    ends = batch_ends([len(example.tokens) for example, *_ in flat], batch_size, tokens=tokens)
    return [flat[start:stop] for start, stop in pairwise(ends)]


def batch_ends(lengths: Sequence[int], batch_size: int | None, longer: int = 0, tokens: int | None = None) -> list[int]:
    """Where batches of examples begin and end.

    Args:
        lengths: tokens of each example, ascending.
        batch_size: examples in a batch. None takes as many as make up `TOKENS` tokens with their padding, at least one,
            and no more than `PADDING` tokens of padding for each pass.
        longer: how many tokens each example will grow by, in as many more passes.
        tokens: in a batch, where no number of examples is given. None takes `TOKENS`.

    Example:
        >>> batch_ends([1000, 1100, 2000, 9000], None)
        [0, 2, 3, 4]
        >>> batch_ends([1, 1, 1], batch_size=2)
        [0, 2, 3]
    """
    tokens = TOKENS if tokens is None else tokens
    if batch_size is not None:
        return [*range(0, len(lengths), whole(batch_size, "batch_size", at_least=1)), len(lengths)]
    ends, padding = [0], 0
    for place, length in enumerate(lengths):
        n = place - ends[-1]
        padding += n * (length - lengths[place - 1]) if n else 0
        if n and ((n + 1) * (length + longer) > tokens or padding > PADDING * (1 + longer)):
            ends.append(place)
            padding = 0
    return [*ends, len(lengths)] if lengths else [0]


def _pad(items: list[Item]) -> Batch:
    examples, groups, numbers, names = zip(*items, strict=True)
    shape = len(examples), max(len(example.tokens) for example in examples)
    # Padding never counts, and causal attention hides it from the positions that do.
    tokens = torch.zeros(shape, dtype=torch.long)
    attention_mask = torch.zeros(shape, dtype=torch.bool)
    counts = torch.zeros(shape, dtype=torch.bool)
    answer = torch.zeros(shape, dtype=torch.bool)
    for row, example in enumerate(examples):
        n = len(example.tokens)
        tokens[row, :n] = example.tokens
        attention_mask[row, :n] = True
        counts[row, :n] = example.counts
        answer[row, :n] = example.scored
    return Batch(tokens, attention_mask, counts, torch.tensor(groups), torch.tensor(numbers), names, answer)
