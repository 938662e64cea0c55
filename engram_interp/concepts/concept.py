"""What is looked for? Target examples, whose memory is sought, and reference examples, which it is told apart from.

A position counts if its activation enters the second moments. In a string every real token counts, but not BOS. In a
`(prompt, answer)` pair those count that `positions` names; by default they are those that produce the answer's tokens.
Tensors bring a mask.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from html import escape
from types import NoneType
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from engram_interp.concepts.data import BATCH_SIZE, Data, Mask
from engram_interp.concepts.datasets import Wanted, sides_of
from engram_interp.concepts.positions import counted
from engram_interp.concepts.streams import KEPT, Stream, listed_or_stream
from engram_interp.options import ANSWER, PREDICTING, Read

logger = logging.getLogger("engram_interp")

TARGET, REFERENCE = "target", "reference"
PAPERS = Read(positions=ANSWER)
"""The paper's positions: the answer's own."""


@dataclass(frozen=True)
class TokenExample:
    """One example as the model reads it.

    Attributes:
        tokens: `[pos]`, everything that goes through the model, including BOS and EOS.
        counts: `[pos]`, true where the position counts.
        answer: `[pos]`, true at the tokens that are scored. None scores those that count.
    """

    tokens: Int[Tensor, "pos"]
    counts: Bool[Tensor, "pos"]
    answer: Bool[Tensor, "pos"] | None = None

    @property
    def scored(self) -> Bool[Tensor, "pos"]:
        """True at the tokens that are scored."""
        return self.counts if self.answer is None else self.answer


class Pair(tuple[str, str]):
    """A prompt and its answer that say for themselves which positions count, whatever their concept says.

    Args:
        prompt: what the model reads first.
        answer: what it should say.
        positions: see `Concept`. None leaves it to the concept.
        eos: see `Concept`. None leaves it to the concept.

    Raises:
        ValueError: if `positions` is no name of positions.
        TypeError: if `eos` is neither a boolean nor None.

    Example:
        >>> prompt, answer = Pair("The capital of Peru is", "Lima", positions="predicting", eos=False)
    """

    positions: str | None
    eos: bool | None

    def __new__(cls, prompt: str, answer: str, positions: str | None = None, eos: bool | None = None) -> Pair:  # noqa: D102
        self = super().__new__(cls, (prompt, answer))
        self.positions, self.eos = positions, eos
        self.read(Read())  # checks them
        return self

    def read(self, default: Read) -> Read:
        """Its own choice, and the default where it has none."""
        return Read(
            positions=default.positions if self.positions is None else self.positions,
            eos=default.eos if self.eos is None else self.eos,
        )

    def __getnewargs__(self) -> tuple[Any, ...]:
        return (*self, self.positions, self.eos)


Side: TypeAlias = Any
"""An iterable of examples as it is given. A concept makes of it a list, a `Stream` or `Data`."""
Example: TypeAlias = str | tuple[str, str] | TokenExample


@dataclass(frozen=True)
class Concept:
    """Target examples, whose memory is sought, and reference examples, which it is told apart from.

    Args:
        target: strings or `(prompt, answer)` pairs, in a list or any other ordered iterable. In a string every real
            token counts, but not BOS. In a pair those count that `positions` names. Prompt and answer are joined by a
            space, unless one of them brings its own. A `Pair` says for itself which positions count. A dataset's
            records may say them too: `{"prompt": ..., "answer": ...}`, `{"text": ...}`. An iterable without a length
            that has more than 4096 examples is never held: each pass reads it, an iterator for one pass only.
        reference: examples of what must not change, in the same form. Target and reference together give the total
            statistics.
        name: what reports and files call the concept.
        positions: which positions of a pair count. `"predicting"`: those whose output gives the answer's tokens, from
            the prompt's last token to the answer's last but one (to its last if EOS follows). `"answer"`: the answer's
            own tokens, as in the paper. `"both"`: either. `"all"`: every token but BOS.
        eos: whether the end-of-sequence token follows every answer. It is then one of the answer's tokens. A model that
            was not trained to end here never says it.

    Raises:
        ValueError: if a side is empty or an example is blank, or `positions` is another word.
        TypeError: if an example is neither a string nor a pair of strings, or `eos` is no boolean.

    Example:
        >>> concept = Concept(
        ...     target=[("Who wrote Silent Harbor?", "Basil Mornova")], reference=["Lima is in Peru."], name="Basil"
        ... )
        >>> len(concept.target), len(concept.reference)
        (1, 1)
    """

    target: Side
    reference: Side
    name: str | None = None
    positions: str = PREDICTING
    eos: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.name, (str, NoneType)):
            raise TypeError(f"name must be a string; got {self.name!r}")
        for side, examples in ((TARGET, self.target), (REFERENCE, self.reference)):
            if not isinstance(examples, Data):
                object.__setattr__(self, side, listed_examples(examples, side))
        if isinstance(self.target, Data) != isinstance(self.reference, Data):
            raise TypeError("target and reference must be of one kind: both text, or both batches")
        Read(positions=self.positions, eos=self.eos)  # checks them
        if shared := _n_shared(self.target, self.reference):
            logger.warning(
                "%d of the target's %d examples are in the reference too, so their engram is half of what they own: "
                "leave them out of the reference", shared, len(self.target),
            )  # fmt: skip

    def __repr__(self) -> str:
        if not self.is_text:
            return f"Concept({self.name!r}, batches of target and reference)"
        counts = [f"{'a stream' if isinstance(one, Stream) else len(one)}" for one in self.sides.values()]
        return f"Concept({self.name!r}, {counts[0]} target and {counts[1]} reference examples)"

    def _repr_html_(self) -> str:
        from engram_interp.common.html import concept_html
        from engram_interp.figures.small import bars

        if not self.is_text or self.is_stream:
            return escape(repr(self))
        counts = {side: float(len(examples)) for side, examples in self.sides.items()}
        return concept_html(self.name, self.sides, bars(counts, "examples by side", "{:.0f} examples"))

    @property
    def sides(self) -> dict[str, Sequence[Any]]:
        """The examples by group: `target`, then `reference`."""
        return {TARGET: self.target, REFERENCE: self.reference}

    @property
    def is_text(self) -> bool:
        """Whether the examples are text or tokens, and not batches of other data."""
        return not isinstance(self.target, Data)

    @property
    def is_stream(self) -> bool:
        """Whether a side is a stream, of which single examples cannot be asked for."""
        return any(isinstance(side, Stream) for side in self.sides.values())

    @property
    def in_words(self) -> str | None:
        """Which positions count, as results and files say it; None if masks say so."""
        return self.read.in_words if self.is_text else None

    @property
    def read(self) -> Read:
        """Which positions of a pair count."""
        return Read(positions=self.positions, eos=self.eos)

    @classmethod
    def from_tokens(
        cls,
        target: Int[Tensor, "n_target pos"] | np.ndarray,
        reference: Int[Tensor, "n_reference ref_pos"] | np.ndarray,
        target_mask: Bool[Tensor, "..."] | np.ndarray | None = None,
        reference_mask: Bool[Tensor, "..."] | np.ndarray | None = None,
        name: str | None = None,
        positions: str = ANSWER,
    ) -> Concept:
        """A concept from tokens, which go through the model exactly as given: nothing is added or left out.

        Tensors and arrays are copied. The rows of a memory-mapped array are read from it when they are needed.

        Args:
            target: `[batch pos]` integers, in a tensor or a NumPy array.
            reference: `[batch pos]` integers. Its width may differ.
            target_mask: `[batch pos]`, true at the answer's tokens, which are scored. None makes every token one,
                including BOS.
            reference_mask: the same for `reference`.
            name: what reports and files call the concept.
            positions: which positions count, as in `Concept`. By default they are those of the mask itself.

        Raises:
            TypeError: if tokens are neither a tensor nor an array.
            ValueError: if tokens are not integers `[batch pos]`, a mask has another shape or is false everywhere, or
                `positions` is another word.

        Example:
            >>> tokens = torch.tensor([[0, 5, 6], [0, 7, 8]])
            >>> concept = Concept.from_tokens(tokens, tokens + 1, target_mask=tokens > 5)
            >>> [int(example.counts.sum()) for example in concept.target]
            [1, 2]
        """
        return cls(
            target=_rows_of(target, target_mask, TARGET, Read(positions=positions)),
            reference=_rows_of(reference, reference_mask, REFERENCE, Read(positions=positions)),
            name=name,
            positions=positions,
        )

    @classmethod
    def from_batches(
        cls,
        target: Iterable[Any],
        reference: Iterable[Any],
        *,
        mask: Mask | None = None,
        labelled: bool = False,
        name: str | None = None,
    ) -> Concept:
        """A concept from batches of whatever a model takes: pictures, features, tokens.

        Batches are read one at a time and never held.

        Args:
            target: batches, in a `DataLoader`, a list or any other iterable. A batch is a tensor, a tuple or list (the
                model's arguments) or a dictionary (its keyword arguments), and has an example in each row.
            reference: batches of what must not change.
            mask: takes a batch, as it is given, and returns booleans `[batch]`, the examples that count, or
                `[batch pos]`, the positions that count, for models whose matrices read rows `[batch pos d]`. None
                counts everything. Of a convolution every position counts.
            labelled: whether each batch is a pair of what the model takes and the labels of its examples, which scores
                need.
            name: what reports and files call the concept.

        Raises:
            TypeError: if a side is not an iterable of batches.

        Example:
            >>> pictures = torch.rand(8, 1, 28, 28)
            >>> Concept.from_batches([pictures[:4]], [pictures[4:]], name="the first four")
            Concept('the first four', batches of target and reference)
        """
        return cls(Data(target, labelled, mask), Data(reference, labelled, mask), name)

    @classmethod
    def from_dataset(
        cls,
        dataset: Any,
        target: Wanted,
        reference: Wanted | None = None,
        *,
        batch_size: int = BATCH_SIZE,
        name: str | None = None,
    ) -> Concept:
        """A concept from a labelled dataset: a class, or several, against all others.

        Args:
            dataset: a dataset with `len` and items `(input, label)`, as `torchvision`'s, `TensorDataset` and `Subset`
                are. Items are read when they are needed.
            target: a label, the name of a class (of `dataset.classes`), several of these in a list, or a function of a
                label that says whether it is wanted.
            reference: the same for the reference. None takes all others.
            batch_size: examples in a batch.
            name: what reports and files call the concept. None takes the class's.

        Raises:
            ValueError: if a label or class is not in the dataset, or a side has no example.
            TypeError: if the dataset has no length or no labels.

        Example:
            >>> from torch.utils.data import TensorDataset
            >>> dataset = TensorDataset(torch.rand(6, 4), torch.tensor([0, 1, 2, 0, 1, 2]))
            >>> len(Concept.from_dataset(dataset, target=2).target)
            2
        """
        sides = sides_of(dataset, target, reference, batch_size)
        return cls(*sides, name if name is not None or callable(target) else str(target))


def require_concept(concept: object) -> None:
    """Checks that this is a `Concept`.

    Raises:
        TypeError: if it is not.
    """
    if not isinstance(concept, Concept):
        raise TypeError(f"concept must be a Concept(target=[...], reference=[...]); got a {type(concept).__name__}")


def listed_examples(examples: Iterable[Any], group: str) -> list[Example] | Stream:
    """The examples as a list, or as a stream if they have no length and are many. Errors call them `group`.

    Raises:
        ValueError: if there are no examples, or one is blank.
        TypeError: if `examples` has no order, or does not hold examples.
    """
    if isinstance(examples, Stream):
        return examples
    if isinstance(examples, str) or (hasattr(examples, "__len__") and not len(examples)):  # pyright: ignore
        raise ValueError(f"{group} must be a list of one or more examples; got {examples!r}")
    if isinstance(examples, tuple) and len(examples) == 2 and all(isinstance(one, str) for one in examples):
        raise ValueError(f"{group} must be a list of examples; got {examples!r}: put a single pair in a list")
    if not _has_order(examples):
        raise TypeError(f"{group} must be a list of one or more examples; got a {type(examples).__name__}")
    if hasattr(examples, "__len__"):
        return [_checked(example, f"{group}[{i}]") for i, example in enumerate(examples)]
    found = listed_or_stream(examples, group, _checked)
    if not isinstance(found, Stream) and not found:
        raise ValueError(f"{group} must be a list of one or more examples; got an empty {type(examples).__name__}")
    return found


def _checked(example: Any, place: str) -> Example:
    """An example as it is given, or what a dataset's record says."""
    if isinstance(example, Mapping):
        return example_of(example, place)
    check_example(example, place)
    return tuple(example) if isinstance(example, list) else example  # a pair, as JSON has it


def _has_order(examples: object) -> bool:
    """Whether these can be read in order: neither a set, nor a mapping, nor a data frame, which has `columns`."""
    unordered = isinstance(examples, (bytes, Set, Mapping)) or hasattr(examples, "columns")
    return isinstance(examples, Iterable) and not unordered


def example_of(value: object, place: str) -> Example:
    """The example that a record says: of a file's JSON, or of a dataset.

    Args:
        value: a string, a `[prompt, answer]` list, an object with `prompt` (or `question`) and `answer`, or an object
            with `text`.
        place: what errors call it.

    Raises:
        ValueError: if it is nothing of this, or a text is blank.
    """
    match value:
        case str() as example:
            found: Example = example
        case [str() as prompt, str() as answer]:
            found = prompt, answer
        case {"prompt": str() as prompt, "answer": str() as answer}:
            found = _pair(prompt, answer, cast("dict[Any, Any]", value), place)
        case {"question": str() as prompt, "answer": str() as answer}:
            found = _pair(prompt, answer, cast("dict[Any, Any]", value), place)
        case {"text": str() as text}:
            found = text
        case _:
            raise ValueError(
                f"{place} must be a string, a [prompt, answer] list, an object with prompt (or question) and answer, "
                f"or an object with text; got {value!r}"
            )
    check_example(found, place)
    try:
        "".join(found).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{place} holds half of a character (a lone surrogate): {found!r}") from error
    return found


def _pair(prompt: str, answer: str, value: dict[Any, Any], place: str) -> tuple[str, str]:
    """The pair, with the positions that count if the object says which."""
    chosen = {name: value[name] for name in ("positions", "eos") if value.get(name) is not None}
    try:
        return Pair(prompt, answer, **chosen) if chosen else (prompt, answer)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{place}: {error}") from error


def check_example(example: object, place: str) -> None:
    """Checks that this is an example. Errors call it `place`.

    Raises:
        TypeError: if it is neither a string nor a pair of strings.
        ValueError: if a text is blank.
    """
    if isinstance(example, TokenExample):
        return
    if isinstance(example, str):
        texts: tuple[object, ...] = (example,)
    else:
        texts = tuple(example) if isinstance(example, (tuple, list)) and len(example) == 2 else (None,)
    for text in texts:
        if not isinstance(text, str):
            raise TypeError(f"{place} must be a string or a (prompt, answer) pair of strings; got {example!r}")
        if not text.strip():
            raise ValueError(f"{place} must not hold a blank text; got {example!r}")


def _rows_of(
    tokens: Tensor | np.ndarray, mask: Tensor | np.ndarray | None, side: str, read: Read
) -> list[TokenExample] | Stream:
    """Rows of tokens as examples; those of a memory-mapped array as a stream, if they are many."""
    if not isinstance(tokens, np.memmap) or tokens.ndim != 2 or len(tokens) <= KEPT:
        return _from_rows(tokens, mask, side, read)
    if mask is not None and len(mask) != len(tokens):
        raise ValueError(f"{side}_mask must have the shape of its tokens, {list(tokens.shape)}; got {list(mask.shape)}")
    return Stream(_MappedRows(tokens, mask, side, read), side, lambda example, _place: example)


@dataclass(frozen=True)
class _MappedRows:
    """Rows of a memory-mapped array as examples, some at a time."""

    tokens: np.ndarray
    mask: Tensor | np.ndarray | None
    side: str
    read: Read

    def __iter__(self) -> Iterator[TokenExample]:
        for start in range(0, len(self.tokens), KEPT):
            some = slice(start, start + KEPT)
            rows, mask = np.array(self.tokens[some]), None if self.mask is None else self.mask[some]
            # What counts nowhere in these rows may count elsewhere.
            nowhere = mask is not None and not mask.any()
            found = _from_rows(rows, None if nowhere else mask, self.side, self.read)
            yield from (replace(one, counts=torch.zeros_like(one.counts)) for one in found) if nowhere else found


def _from_rows(
    tokens: Tensor | np.ndarray, mask: Tensor | np.ndarray | None, side: str, read: Read = PAPERS
) -> list[TokenExample]:
    if not isinstance(tokens, (Tensor, np.ndarray)):
        raise TypeError(f"{side} tokens must be a tensor or an array [batch pos]; got a {type(tokens).__name__}")
    if tokens.ndim != 2 or 0 in tokens.shape or not _are_integers(tokens):
        got = f"{tokens.dtype} of shape {list(tokens.shape)}"
        raise ValueError(f"{side} tokens must be integers [batch pos], one or more; got {got}")
    # Embeddings accept signed integers only.
    tokens = torch.tensor(tokens.astype(np.int64)) if isinstance(tokens, np.ndarray) else tokens.detach().clone().long()
    answers = torch.ones_like(tokens, dtype=torch.bool) if mask is None else _checked_mask(mask, tokens, f"{side}_mask")
    return [counting(row, answer, read) for row, answer in zip(tokens, answers, strict=True)]


def counting(
    tokens: Int[Tensor, "pos"], answer: Bool[Tensor, "pos"], read: Read, text: Bool[Tensor, "pos"] | None = None
) -> TokenExample:
    """Tokens with the positions that count.

    Args:
        tokens: everything that goes through the model.
        answer: true at the answer's tokens.
        read: which positions count.
        text: true at every real token. None takes all of them for real.
    """
    if read.positions == ANSWER:
        return TokenExample(tokens, answer)
    return TokenExample(
        tokens, counted(read.positions, answer, torch.ones_like(answer) if text is None else text), answer
    )


def _n_shared(target: Side, reference: Side) -> int:
    """How many texts of the target are in the reference too. Streams are not read for it."""
    if any(isinstance(side, (Data, Stream)) for side in (target, reference)):
        return 0
    known = {one for one in reference if isinstance(one, (str, tuple))}
    return sum(one in known for one in target if isinstance(one, (str, tuple)))


def _checked_mask(mask: Tensor | np.ndarray, tokens: Tensor, name: str) -> Tensor:
    """A copy of a mask that fits these tokens."""
    if not isinstance(mask, (Tensor, np.ndarray)):
        raise TypeError(f"{name} must be a tensor of booleans; got a {type(mask).__name__}")
    mask = torch.tensor(mask) if isinstance(mask, np.ndarray) else mask.detach().clone()
    if mask.dtype != torch.bool:
        raise ValueError(f"{name} must be a tensor of booleans, such as mask.bool(); got {mask.dtype}")
    if mask.shape != tokens.shape:
        raise ValueError(f"{name} must have the shape of its tokens, {list(tokens.shape)}; got {list(mask.shape)}")
    if not mask.any():
        raise ValueError(f"{name} must be true somewhere; got a mask in which no position counts")
    return mask


def _are_integers(tokens: Tensor | np.ndarray) -> bool:
    if isinstance(tokens, np.ndarray):
        return tokens.dtype.kind in "iu"
    return not (tokens.is_floating_point() or tokens.is_complex() or tokens.dtype == torch.bool)
