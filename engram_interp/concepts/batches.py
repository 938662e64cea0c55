"""How do examples go through a model together? In padded batches, with masks of real and of counted positions.

Text is put into batches here; other data come in batches of their own: see `data.py`.
"""

from __future__ import annotations

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
from engram_interp.options import Read

Examples: TypeAlias = Sequence[Any]
"""A group's examples as models read them: of `TokenExample`, of `DataExample`, or `Data`."""
TOKENS = 4096
"""Tokens in a batch, padding included, where no number of examples is given."""
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
    if not isinstance(groups, Mapping):
        raise TypeError(f"groups must be lists of examples by name, {{'facts': [...]}}; got a {type(groups).__name__}")
    listed = {
        group: token_examples(examples, group) if isinstance(examples, Data) else listed_examples(examples, group)
        for group, examples in groups.items()
    }
    encoded = {group: encoder.encode_all(examples, group, read) for group, examples in listed.items()}
    for group, examples in encoded.items():
        if not any(bool(example.counts.any()) for example in examples):
            raise ValueError(f"{group} must have a position that counts; none of its {len(examples)} examples has one")
    return encoded


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
    if isinstance(examples, Data) or any(isinstance(one, DataExample) for one in examples):
        return None
    return sum(int(one.counts.sum()) for one in cast("Sequence[TokenExample]", examples))


AnyBatch: TypeAlias = Batch | DataBatch


def any_batches(
    encoded: Mapping[str, Examples], batch_size: int | None, progress: bool | None, describe: str
) -> Iterator[AnyBatch]:
    """Yields every example once: see `batches` for text, and `data_batches` for other data."""
    if any(isinstance(some, Data) or isinstance(next(iter(some), None), DataExample) for some in encoded.values()):
        return data_batches(encoded, batch_size, progress, describe)
    return batches(cast("dict[str, list[TokenExample]]", dict(encoded)), batch_size, progress, describe)


def batches(
    encoded: dict[str, list[TokenExample]], batch_size: int | None, progress: bool | None, describe: str
) -> Iterator[Batch]:
    """Yields every example once, in batches of examples of similar length, so that there is little padding.

    Args:
        encoded: token examples by group.
        batch_size: examples in a batch. None takes as many as make up `TOKENS` tokens, with little padding.
        progress: True shows a bar, False hides it. None shows it in a terminal and in a notebook.
        describe: what the bar says.
    """
    flat = [
        (example, group, i, f"{name}[{i}]")
        for group, (name, examples) in enumerate(encoded.items())
        for i, example in enumerate(examples)
    ]
    flat.sort(key=lambda item: len(item[0].tokens))
    ends = batch_ends([len(example.tokens) for example, *_ in flat], batch_size)
    for start, stop in bar(list(pairwise(ends)), progress, describe, "batch"):
        yield _pad(flat[start:stop])


def batch_ends(lengths: Sequence[int], batch_size: int | None, longer: int = 0) -> list[int]:
    """Where batches of examples begin and end.

    Args:
        lengths: tokens of each example, ascending.
        batch_size: examples in a batch. None takes as many as make up `TOKENS` tokens with their padding, at least one,
            and no more than `PADDING` tokens of padding for each pass.
        longer: how many tokens each example will grow by, in as many more passes.

    Example:
        >>> batch_ends([1000, 1100, 2000, 9000], None)
        [0, 2, 3, 4]
        >>> batch_ends([1, 1, 1], batch_size=2)
        [0, 2, 3]
    """
    if batch_size is not None:
        return [*range(0, len(lengths), whole(batch_size, "batch_size", at_least=1)), len(lengths)]
    ends, padding = [0], 0
    for place, length in enumerate(lengths):
        n = place - ends[-1]
        padding += n * (length - lengths[place - 1]) if n else 0
        if n and ((n + 1) * (length + longer) > TOKENS or padding > PADDING * (1 + longer)):
            ends.append(place)
            padding = 0
    return [*ends, len(lengths)] if lengths else [0]


def _pad(items: list[tuple[TokenExample, int, int, str]]) -> Batch:
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
