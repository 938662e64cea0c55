"""`X+` is where it fires, `X-` is where it is silent: a corpus in two sides, by something measured at its tokens.

What fires is decided by thresholds on activations (`rule`), for example those of SAE features. Nothing here knows where
the activations come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from engram_interp.common.html import template
from engram_interp.concepts.concept import REFERENCE, TARGET, TokenExample
from engram_interp.sae.rule import (
    IN_WORDS,
    MATCHED,
    REST,
    TOKEN,
    Reading,
    Rule,
    called_target,
    firing,
    matched,
    sampled,
    thresholds,
)
from engram_interp.sae.snippets import Decode, Snippet, evenly, near_and_far, ranked, snippet

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Partition:
    """A corpus in two sides, what counted as firing, and what the sides look like.

    Attributes:
        what: what was measured, for people.
        thresholds: `[feature]`, the smallest activation that counted as firing.
        rule: the options.
        readings: the corpus.
        target: for every example, `[pos]`, the positions that belong to the target.
        reference: the same for the reference.
        decode: from tokens to text. None if the model has no tokenizer.
    """

    what: str
    thresholds: Float[Tensor, "feature"]
    rule: Rule
    readings: Sequence[Reading]
    target: list[Tensor]
    reference: list[Tensor]
    decode: Decode | None

    def __repr__(self) -> str:
        counts = ", ".join(f"{n} {side} tokens" for side, n in self.counts.items())
        return f"Partition({self.what}, {counts} of {len(self.readings)} examples)"

    @property
    def sides(self) -> dict[str, list[Tensor]]:
        """The positions by side."""
        return {TARGET: self.target, REFERENCE: self.reference}

    @property
    def counts(self) -> dict[str, int]:
        """The number of tokens on each side, and of counted tokens on neither side (`unused`)."""
        counts = {side: sum(int(mask.sum()) for mask in masks) for side, masks in self.sides.items()}
        return {**counts, "unused": sum(int(one.counts.sum()) for one in self.readings) - sum(counts.values())}

    @property
    def firing_rate(self) -> float:
        """The share of the corpus's tokens at which anything fires."""
        fired = [firing(one.activation, self.thresholds).any(1)[one.text] for one in self.readings]
        return float(torch.cat(fired).double().mean())

    def examples(self, side: str) -> list[TokenExample]:
        """The examples that have positions on a side. Only these positions count in them."""
        return [
            reading.counting(mask) for reading, mask in zip(self.readings, self.sides[side], strict=True) if mask.any()
        ]

    def to_frame(self) -> pd.DataFrame:
        """One row per side: its numbers of examples and tokens, and the mean and largest activation that decided."""
        import pandas as pd

        rows = []
        for side, masks in self.sides.items():
            judged = zip(self.readings, self._judged(side), strict=True)
            values = torch.cat([reading.strongest[mask] for reading, mask in judged])
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

    def snippets(self, n: int = 6) -> list[Snippet]:
        """Up to `n` pieces of each side.

        Those of the target reach evenly from where it fires most to where it fires least. Those of the reference are
        half the ones that came nearest to firing, and half from all over the corpus.
        """
        judged = {side: self._judged(side) for side in self.sides}
        shown = {
            TARGET: evenly(ranked(self.readings, judged[TARGET]), n),
            REFERENCE: near_and_far(ranked(self.readings, judged[REFERENCE]), n),
        }
        return [
            snippet(side, self.readings[i], self.sides[side][i], judged[side][i], self.decode)
            for side, indices in shown.items()
            for i in indices
        ]

    def to_html(self, n: int = 6) -> str:
        """Counts, and `n` snippets of each side: shaded by activation, underlined where they belong to the side."""
        found = self.snippets(n)
        reference = IN_WORDS[self.rule.reference]
        return template("sae", "partition").render(
            what=self.what,
            rule=f"Fires: {self.rule.in_words(self.thresholds)}. Reference: {reference}.",
            frame=self.to_frame(),
            unused=self.counts["unused"],
            firing_rate=self.firing_rate,
            sides={side: [one for one in found if one.side == side] for side in self.sides},
            largest=max((value for one in found for value in one.activation), default=0.0) or 1.0,
        )

    def _repr_html_(self) -> str:
        return self.to_html()

    def _judged(self, side: str) -> list[Tensor]:
        """The positions that put those of a side there: these positions themselves, or the whole text."""
        pairs = zip(self.readings, self.sides[side], strict=True)
        return [mask if self.rule.per == TOKEN else reading.text & mask.any() for reading, mask in pairs]


def partition(
    readings: Sequence[Reading],
    rule: Rule,
    features: Sequence[str],
    place: str = "",
    decode: Decode | None = None,
) -> Partition:
    """A corpus in two sides.

    Args:
        readings: the corpus and what was measured in it.
        rule: what counts as firing, and what it is compared with.
        features: the names of what was measured.
        place: where it was measured, for errors and reports.
        decode: from tokens to text, to show it.

    Raises:
        ValueError: if a side is empty, or if one of several features fires nowhere; the message says why.
    """
    what = ", ".join(features) + place
    least = thresholds(readings, rule)
    target = called_target(readings, least, rule)
    reference = [reading.counts & ~mask for reading, mask in zip(readings, target, strict=True)]
    _require_target(readings, target, least, rule, what)
    _require_reference(readings, reference, what)
    _require_every_feature(readings, least, features)
    sides = [target, reference]
    if rule.reference != REST:
        sides = matched(readings, sides, rule.reference)
        _require_match(sides[0], rule.reference, what)
    if rule.max_tokens is not None:
        generator = torch.Generator().manual_seed(rule.seed)
        for i in range(len(sides)):
            sides[i] = sampled(sides[i], rule.max_tokens, generator)
            if rule.reference != REST:
                sides = matched(readings, sides, rule.reference)
    return Partition(what, least, rule, readings, sides[0], sides[1], decode)


def _require_target(readings: Sequence[Reading], target: list[Tensor], least: Tensor, rule: Rule, what: str) -> None:
    if any(mask.any() for mask in target):
        return
    why = _why_none(readings, least, rule)
    raise ValueError(f"{what} fires at none of the {_n_counted(readings)} tokens that count: {why}")


def _why_none(readings: Sequence[Reading], least: Tensor, rule: Rule) -> str:
    largest = _largest(readings)
    if largest <= 0:
        return f"its largest activation is {largest:.3g}, so it is dead, or the corpus has nothing that it stands for"
    if not any(bool(firing(one.activation, least).any(1)[one.text].any()) for one in readings):
        return f"its largest activation is {largest:.3g}, below the threshold of {float(least.min()):.3g}"
    if rule.per == TOKEN:
        return "it fires only in prompts, which do not count: use per='example'"
    return f"no example with tokens that count has a share of {rule.share:g} of its tokens that fire"


def _require_reference(readings: Sequence[Reading], reference: list[Tensor], what: str) -> None:
    if any(mask.any() for mask in reference):
        return
    raise ValueError(
        f"{what} fires at all of the {_n_counted(readings)} tokens that count, so nothing is left for the reference: "
        f"raise the threshold (the largest activation is {_largest(readings):.3g}), or give a wider corpus"
    )


def _require_every_feature(readings: Sequence[Reading], least: Tensor, features: Sequence[str]) -> None:
    fires = torch.stack([firing(one.activation, least)[one.text].any(0) for one in readings]).any(0)
    if silent := [name for name, fired in zip(features, fires.tolist(), strict=True) if not fired]:
        raise ValueError(f"{', '.join(silent)} fires nowhere in the corpus: leave it out of the {len(features)}")


def _require_match(target: list[Tensor], mode: str, what: str) -> None:
    if any(mask.any() for mask in target):
        return
    kind = "token" if mode == MATCHED else "position"
    raise ValueError(
        f"{what} fires at every occurrence of its {kind}s, so no silent {kind} matches them: raise the threshold, or "
        f"use reference='rest'"
    )


def _n_counted(readings: Sequence[Reading]) -> int:
    return sum(int(one.counts.sum()) for one in readings)


def _largest(readings: Sequence[Reading]) -> float:
    return max(float(one.strongest[one.text].max()) for one in readings if one.text.any())
