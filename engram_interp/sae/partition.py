"""`X+` is where it fires, `X-` where it is silent: a corpus split by something measured at its tokens.

What fires is a threshold on activations, of SAE features for one (`sae.py`); nothing here knows where they come from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from engram_interp.common.templates import template
from engram_interp.concepts.concept import REFERENCE, TARGET, TokenExample

TOKEN, EXAMPLE = "token", "example"
UNITS = (TOKEN, EXAMPLE)
REST, MATCHED, MATCHED_POSITIONS = "rest", "matched", "matched-positions"
REFERENCES = (REST, MATCHED, MATCHED_POSITIONS)

INCOMPLETE = "\N{REPLACEMENT CHARACTER}"
WINDOW = 40
"""Tokens shown of an example, at most: those around where it fires most."""


@dataclass(frozen=True)
class Reading:
    """What was measured at the tokens of one example.

    Attributes:
        tokens: `[pos]`, as the model reads them.
        counts: `[pos]`, true where a position may enter the second moments, as `Concept` counts.
        text: `[pos]`, true where a token is text, prompts included: where an example can fire as a whole.
        activation: `[pos feature]`.
    """

    tokens: Int[Tensor, "pos"]
    counts: Bool[Tensor, "pos"]
    text: Bool[Tensor, "pos"]
    activation: Float[Tensor, "pos feature"]

    @property
    def strongest(self) -> Float[Tensor, "pos"]:
        """The largest activation at every token."""
        return self.activation.max(dim=1).values


@dataclass(frozen=True)
class Rule:
    """What is called firing, and what it is told apart from.

    Attributes:
        per: `"token"`: a token fires or not; `"example"`: all counted tokens of an example go to one side together.
        share: of an example's tokens that must fire for it to fire; 0 is any of them.
        threshold: the least activation that is called firing; 0 is any above zero.
        quantile: in place of a threshold: that quantile of a feature's activations above zero in the corpus.
        reference: `"rest"` is every token that is silent; `"matched"` is silent tokens that are, elsewhere, firing ones
            too, and `"matched-positions"` silent tokens at positions at which others fire. Firing tokens without such a
            counterpart then leave the target. Either side may hold more of a kind than the other.
        max_tokens: how many tokens a side keeps, drawn at random; all by default.
        seed: of the draw.

    Raises:
        ValueError: an option out of range.
    """

    per: str = TOKEN
    share: float | int = 0.0
    threshold: float | int = 0.0
    quantile: float | int | None = None
    reference: str = REST
    max_tokens: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.per not in UNITS:
            raise ValueError(f"per is one of {', '.join(UNITS)}; got {self.per!r}")
        if self.reference not in REFERENCES:
            raise ValueError(f"reference is one of {', '.join(REFERENCES)}; got {self.reference!r}")
        if not 0 <= self.share <= 1:
            raise ValueError(f"share is of an example's tokens, 0 to 1; got {self.share}")
        if self.share and self.per == TOKEN:
            raise ValueError(f"share is of an example's tokens: it goes with per='example'; got per={self.per!r}")
        if not 0 <= self.threshold < float("inf"):
            raise ValueError(
                f"threshold is the least activation that is called firing, 0 or more; got {self.threshold}"
            )
        if self.quantile is not None and not 0 <= self.quantile <= 1:
            raise ValueError(f"quantile is of the activations above zero, 0 to 1; got {self.quantile}")
        if self.quantile is not None and self.threshold:
            raise ValueError(f"either a threshold or a quantile: got {self.threshold} and {self.quantile}")
        if self.max_tokens is not None and (self.max_tokens < 1 or self.max_tokens % 1):
            raise ValueError(
                f"max_tokens is how many tokens a side keeps, a whole number from 1; got {self.max_tokens}"
            )


def thresholds(readings: Sequence[Reading], rule: Rule) -> Float[Tensor, "feature"]:
    """The least activation of every feature that is called firing."""
    n_features = readings[0].activation.shape[1]
    if rule.quantile is None:
        return torch.full((n_features,), float(rule.threshold))
    features = torch.cat([reading.activation[reading.text] for reading in readings]).T
    # NumPy's, since torch's takes no more than 2^24 numbers.
    return torch.tensor(
        [np.quantile(a[a > 0].numpy(), rule.quantile) if (a > 0).any() else 0.0 for a in features]
    ).float()


def firing(
    activation: Float[Tensor, "*pos feature"], least: Float[Tensor, "feature"] | float
) -> Bool[Tensor, "*pos feature"]:
    """Where a feature is above zero, and at its threshold or above.

    Example:
        >>> firing(torch.tensor([[0.0, 0.5, 2.0]]), 0.5).tolist()
        [[False, True, True]]
    """
    return (activation > 0) & (activation >= least)


def whole_examples(reading: Reading, fires: Bool[Tensor, "pos"], share: float | int) -> bool:
    """Whether an example fires: at one of its tokens at least, and at this share of them."""
    n = int((fires & reading.text).sum())
    return n > 0 and n >= share * int(reading.text.sum())


def called_target(readings: Sequence[Reading], least: Float[Tensor, "feature"], rule: Rule) -> list[Tensor]:
    """Of every example, `[pos]`, which of the counted positions fire."""
    fires = [firing(reading.activation, least).any(1) for reading in readings]
    if rule.per == TOKEN:
        return [reading.counts & fired for reading, fired in zip(readings, fires, strict=True)]
    return [
        reading.counts & whole_examples(reading, fired, rule.share)
        for reading, fired in zip(readings, fires, strict=True)
    ]


def _matched(readings: Sequence[Reading], sides: list[list[Tensor]], by: str) -> None:
    """Leave in both sides the positions whose token, or place in its example, the other side has too."""
    keys = [one.tokens if by == MATCHED else torch.arange(len(one.tokens)) for one in readings]
    seen = [torch.cat([k[mask] for k, mask in zip(keys, side, strict=True)]).unique() for side in sides]
    shared = seen[0][torch.isin(*seen)]
    for side in sides:
        side[:] = [mask & torch.isin(k, shared) for k, mask in zip(keys, side, strict=True)]


def _sampled(masks: list[Tensor], at_most: int, generator: torch.Generator) -> list[Tensor]:
    flat = torch.cat(masks)
    places = flat.nonzero().flatten()
    kept = places[torch.randperm(len(places), generator=generator)[:at_most]]
    chosen = torch.zeros_like(flat)
    chosen[kept] = True
    return list(chosen.split([len(mask) for mask in masks]))


@dataclass(frozen=True)
class Snippet:
    """A piece of an example as it is shown.

    Attributes:
        side: `target` or `reference`.
        pieces: the text, token by token.
        activation: at every token.
        belongs: whether a token's position is in that side.
    """

    side: str
    pieces: list[str]
    activation: list[float]
    belongs: list[bool]


@dataclass(frozen=True)
class Partition:
    """A corpus in two sides, what was called firing, and what it looks like.

    Attributes:
        what: what was measured, for people.
        thresholds: `[feature]`, the least activation that was called firing.
        rule: the options.
        readings: the corpus.
        target: by example, `[pos]`, the positions that are in the target.
        reference: the same for the reference.
        decode: tokens to text; None where the model has no tokenizer.
    """

    what: str
    thresholds: Float[Tensor, "feature"]
    rule: Rule
    readings: Sequence[Reading]
    target: list[Tensor]
    reference: list[Tensor]
    decode: Callable[[list[int]], str] | None

    def __repr__(self) -> str:
        counts = ", ".join(f"{n} {side} tokens" for side, n in self.counts.items())
        return f"Partition({self.what}, {counts} of {len(self.readings)} examples)"

    @property
    def sides(self) -> dict[str, list[Tensor]]:
        """The positions by side."""
        return {TARGET: self.target, REFERENCE: self.reference}

    @property
    def counts(self) -> dict[str, int]:
        """Tokens by side, and how many counted tokens are in neither."""
        counts = {side: sum(int(mask.sum()) for mask in masks) for side, masks in self.sides.items()}
        return {**counts, "unused": sum(int(one.counts.sum()) for one in self.readings) - sum(counts.values())}

    @property
    def firing_rate(self) -> float:
        """The share of the corpus's tokens at which anything fires."""
        fired = [firing(one.activation, self.thresholds).any(1)[one.text] for one in self.readings]
        return float(torch.cat(fired).double().mean())

    def examples(self, side: str) -> list[TokenExample]:
        """The examples that have positions in a side, with these positions as what counts."""
        return [
            TokenExample(reading.tokens, mask)
            for reading, mask in zip(self.readings, self.sides[side], strict=True)
            if mask.any()
        ]

    def to_frame(self) -> pd.DataFrame:
        """By side, how many examples and tokens it has, and the mean and largest activation that put them there."""
        rows = []
        for side, masks in self.sides.items():
            pairs = zip(self.readings, masks, strict=True)
            values = torch.cat([reading.strongest[self._judged(reading, mask)] for reading, mask in pairs])
            rows.append(
                {
                    "side": side,
                    "examples": sum(bool(mask.any()) for mask in masks),
                    "tokens": self.counts[side],
                    "mean_activation": float(values.mean()),
                    "largest_activation": float(values.max()),
                }
            )
        return pd.DataFrame(rows)

    def _judged(self, reading: Reading, mask: Bool[Tensor, "pos"]) -> Bool[Tensor, "pos"]:
        """The positions by which those of the mask came to their side: themselves, or the whole text."""
        return mask if self.rule.per == TOKEN else reading.text & mask.any()

    def snippets(self, n: int = 6) -> list[Snippet]:
        """Up to `n` pieces of either side.

        Of the target, evenly from where it fires most to where it fires least. Of the reference, half are those that
        came nearest to firing, and half are from all over the corpus.
        """
        by_target = self._ranked(self.target)
        by_reference = self._ranked(self.reference)
        nearest = by_reference[: n // 2]
        others = sorted(set(by_reference) - set(nearest))
        shown = {
            TARGET: _evenly(by_target, n),
            REFERENCE: nearest + _evenly(others, n - len(nearest)),
        }
        return [self._snippet(side, index) for side, indices in shown.items() for index in indices]

    def to_html(self, n: int = 6) -> str:
        """Counts and `n` snippets of either side, tokens shaded by activation; those of the side are underlined."""
        snippets = self.snippets(n)
        largest = max((value for snippet in snippets for value in snippet.activation), default=0.0) or 1.0
        return template("sae", "partition").render(
            what=self.what,
            rule=self._rule_in_words(),
            frame=self.to_frame(),
            unused=self.counts["unused"],
            firing_rate=self.firing_rate,
            sides={side: [one for one in snippets if one.side == side] for side in self.sides},
            largest=largest,
        )

    def _repr_html_(self) -> str:
        return self.to_html()

    def _rule_in_words(self) -> str:
        least = ", ".join(f"{value:.3g}" for value in self.thresholds.tolist())
        at = f"activation of {least} or more" if self.thresholds.any() else "any activation above 0"
        if self.rule.quantile is not None:
            at += f" (the {100 * self.rule.quantile:g} % quantile)"
        whole = (
            f"in {100 * self.rule.share:g} % of an example's tokens" if self.rule.share else "anywhere in an example"
        )
        unit = "token by token" if self.rule.per == TOKEN else f"{whole} counts for all of it"
        told_apart = {
            REST: "everything silent",
            MATCHED: "silent tokens of the same kinds",
            MATCHED_POSITIONS: "silent tokens at the same positions",
        }
        return f"Fires: {at}, {unit}. Reference: {told_apart[self.rule.reference]}."

    def _ranked(self, masks: list[Tensor]) -> list[int]:
        """Examples that have positions here, those with the largest activation first."""
        peaks = {
            index: float(reading.strongest[self._judged(reading, mask)].max())
            for index, (reading, mask) in enumerate(zip(self.readings, masks, strict=True))
            if mask.any()
        }
        return sorted(peaks, key=lambda index: -peaks[index])

    def _snippet(self, side: str, index: int) -> Snippet:
        reading, belongs = self.readings[index], self.sides[side][index]
        peak = int(reading.strongest.where(self._judged(reading, belongs), -torch.inf).argmax())
        start = max(0, min(peak - WINDOW // 2, len(reading.tokens) - WINDOW))
        shown = slice(start, start + WINDOW)
        activation = reading.strongest.where(reading.text, 0.0)
        return Snippet(
            side, self._pieces(reading.tokens[shown].tolist()), activation[shown].tolist(), belongs[shown].tolist()
        )

    def _pieces(self, tokens: list[int]) -> list[str]:
        """The text of every token, as it stands behind those before it."""
        if self.decode is None:
            return [f" {token}" for token in tokens]
        pieces, shown = [], ""
        for stop in range(1, len(tokens) + 1):
            text = self.decode(tokens[:stop])
            # A character of several tokens is shown at the last of them: until then it decodes to a placeholder.
            complete = shown if text.endswith(INCOMPLETE) and stop < len(tokens) else text
            pieces.append(complete[len(shown) :])
            shown = complete
        return pieces


def _evenly(indices: list[int], n: int) -> list[int]:
    """`n` of the indices, first and last among them."""
    if n >= len(indices):
        return indices
    return [indices[round(place)] for place in torch.linspace(0, len(indices) - 1, n).tolist()]


def partition(
    readings: Sequence[Reading],
    rule: Rule,
    features: Sequence[str],
    place: str = "",
    decode: Callable[[list[int]], str] | None = None,
) -> Partition:
    """A corpus in two sides.

    Args:
        readings: the corpus and what was measured in it.
        rule: what is called firing, and what it is told apart from.
        features: the names of what was measured.
        place: where, for errors and reports.
        decode: tokens to text, to show it.

    Raises:
        ValueError: a side is empty, or one of several features fires nowhere; the message says why.
    """
    what = ", ".join(features) + place
    least = thresholds(readings, rule)
    target = called_target(readings, least, rule)
    reference = [reading.counts & ~mask for reading, mask in zip(readings, target, strict=True)]
    _require_both(readings, target, reference, least, rule, what)
    _require_all(readings, least, features)
    sides = [target, reference]
    if rule.reference != REST:
        _matched(readings, sides, rule.reference)
        if not any(mask.any() for mask in sides[0]):
            kind = "token" if rule.reference == MATCHED else "position"
            raise ValueError(
                f"{what} fires wherever its {kind}s stand, so none of them is matched by a silent one: raise the "
                f"threshold, or take reference='rest'"
            )
    if rule.max_tokens is not None:
        generator = torch.Generator().manual_seed(rule.seed)
        for side in sides:
            side[:] = _sampled(side, rule.max_tokens, generator)
            if rule.reference != REST:
                _matched(readings, sides, rule.reference)
    return Partition(what, least, rule, readings, sides[0], sides[1], decode)


def _require_all(readings: Sequence[Reading], least: Float[Tensor, "feature"], features: Sequence[str]) -> None:
    fires = torch.stack([firing(one.activation, least)[one.text].any(0) for one in readings]).any(0)
    if silent := [name for name, fired in zip(features, fires.tolist(), strict=True) if not fired]:
        raise ValueError(f"{', '.join(silent)} fires nowhere in the corpus: leave it out of the {len(features)}")


def _require_both(
    readings: Sequence[Reading], target: list[Tensor], reference: list[Tensor], least: Tensor, rule: Rule, what: str
) -> None:
    n = sum(int(one.counts.sum()) for one in readings)
    largest = max(float(one.strongest[one.text].max()) for one in readings if one.text.any())
    if not any(mask.any() for mask in target):
        fired = any(bool(firing(one.activation, least).any(1)[one.text].any()) for one in readings)
        raise ValueError(f"{what} fires at none of the {n} tokens that count: {_why_none(fired, largest, least, rule)}")
    if not any(mask.any() for mask in reference):
        raise ValueError(
            f"{what} fires at all of the {n} tokens that count, so nothing is left for the reference: raise the "
            f"threshold (the largest activation is {largest:.3g}), or give a wider corpus"
        )


def _why_none(fired: bool, largest: float, least: Tensor, rule: Rule) -> str:
    if largest <= 0:
        return f"its largest activation is {largest:.3g}: it is dead, or the corpus holds nothing of what it stands for"
    if not fired:
        return f"its largest activation is {largest:.3g}, below the threshold of {float(least.min()):.3g}"
    if rule.per == TOKEN:
        return "it fires in prompts only, which do not count: take per='example'"
    return f"in no example with tokens that count does it fire at a share of {rule.share:g} of them"
