"""What does a side look like? A few pieces of text around the tokens that fire most, as text and as HTML."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Bool
from torch import Tensor

from engram_interp.sae.rule import Reading

Decode: TypeAlias = Callable[[list[int]], str]
"""From tokens to text."""

INCOMPLETE = "\N{REPLACEMENT CHARACTER}"
WINDOW = 40
"""How many tokens of an example are shown, at most: those around the one that fires most."""


@dataclass(frozen=True)
class Snippet:
    """A piece of an example as it is shown.

    Attributes:
        side: `target` or `reference`.
        pieces: the text, token by token.
        activation: the activation at every token.
        belongs: whether the position of a token belongs to that side.
    """

    side: str
    pieces: list[str]
    activation: list[float]
    belongs: list[bool]


def ranked(readings: Sequence[Reading], judged: Sequence[Tensor]) -> list[int]:
    """The examples that have a position in their mask `[pos]`, the ones with the largest activation there first."""
    peaks = {
        index: float(reading.strongest[mask].max())
        for index, (reading, mask) in enumerate(zip(readings, judged, strict=True))
        if mask.any()
    }
    return sorted(peaks, key=lambda index: -peaks[index])


def evenly(indices: list[int], n: int) -> list[int]:
    """`n` of the indices at even distances, the first and the last among them.

    Example:
        >>> evenly([0, 1, 2, 3, 4], 3)
        [0, 2, 4]
    """
    if n >= len(indices):
        return indices
    return [indices[round(place)] for place in torch.linspace(0, len(indices) - 1, n).tolist()]


def near_and_far(indices: list[int], n: int) -> list[int]:
    """`n` of the indices: the first half from the beginning, the others from all over the rest in ascending order.

    Example:
        >>> near_and_far([7, 3, 9, 1, 5], 4)
        [7, 3, 1, 9]
    """
    nearest = indices[: n // 2]
    return nearest + evenly(sorted(set(indices) - set(nearest)), n - len(nearest))


def snippet(
    side: str, reading: Reading, belongs: Bool[Tensor, "pos"], judged: Bool[Tensor, "pos"], decode: Decode | None
) -> Snippet:
    """The piece of an example around its largest activation.

    Args:
        side: the side that it is shown for.
        reading: the example.
        belongs: the positions that belong to the side.
        judged: the positions among which the largest activation is sought.
        decode: from tokens to text. None shows the numbers of the tokens.
    """
    peak = int(reading.strongest.where(judged, -torch.inf).argmax())
    start = max(0, min(peak - WINDOW // 2, len(reading.tokens) - WINDOW))
    shown = slice(start, start + WINDOW)
    activation = reading.strongest.where(reading.text, 0.0)
    return Snippet(
        side, pieces(reading.tokens[shown].tolist(), decode), activation[shown].tolist(), belongs[shown].tolist()
    )


def pieces(tokens: list[int], decode: Decode | None) -> list[str]:
    """The text of every token, as it reads after the tokens before it."""
    if decode is None:
        return [f" {token}" for token in tokens]
    found, shown = [], ""
    for stop in range(1, len(tokens) + 1):
        text = decode(tokens[:stop])
        # A character of several tokens is shown at the last of them: until then it decodes to a placeholder.
        complete = shown if text.endswith(INCOMPLETE) and stop < len(tokens) else text
        found.append(complete[len(shown) :])
        shown = complete
    return found
