"""`a > 0` and `a >= t`: where does a feature fire, and which positions go to which side? No model is needed here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from engram_interp.concepts.concept import TokenExample
from engram_interp.concepts.positions import scored

TOKEN, EXAMPLE = "token", "example"
UNITS = (TOKEN, EXAMPLE)
REST, MATCHED, MATCHED_POSITIONS = "rest", "matched", "matched-positions"
REFERENCE_MODES = (REST, MATCHED, MATCHED_POSITIONS)
IN_WORDS = {
    REST: "everything silent",
    MATCHED: "silent tokens of the same kinds",
    MATCHED_POSITIONS: "silent tokens at the same positions",
}


@dataclass(frozen=True)
class Reading:
    """What was measured at the tokens of one example.

    Attributes:
        tokens: `[pos]`, as the model reads them.
        counts: `[pos]`, true where a position may enter the second moments; see `Concept`.
        text: `[pos]`, true where a token is text, prompts included. An example as a whole can fire at these.
        activation: `[pos feature]`.
        answer: `[pos]`, true at the tokens that are scored. None scores those that count.
    """

    tokens: Int[Tensor, "pos"]
    counts: Bool[Tensor, "pos"]
    text: Bool[Tensor, "pos"]
    activation: Float[Tensor, "pos feature"]
    answer: Bool[Tensor, "pos"] | None = None

    def counting(self, mask: Bool[Tensor, "pos"]) -> TokenExample:
        """The example with only some of its positions counting, and only what they produce or hold being scored."""
        if self.answer is None:
            return TokenExample(self.tokens, mask)
        return TokenExample(self.tokens, mask, scored(self.counts, mask, self.answer))

    @property
    def strongest(self) -> Float[Tensor, "pos"]:
        """The largest activation at every token."""
        return self.activation.max(dim=1).values


@dataclass(frozen=True, kw_only=True)
class Trigger:
    """What counts as firing.

    Attributes:
        per: `"token"` puts every token on a side by itself; `"example"` puts all counted tokens of an example on one
            side.
        share: with `per="example"`, the share of an example's tokens that must fire for the example to fire, in [0, 1].
            With 0, one token is enough.
        threshold: the smallest activation that counts as firing, 0 or more. With 0, any activation above zero counts.
        quantile: sets the threshold of each feature to this quantile of its activations above zero in the corpus, in
            [0, 1]. Raises ValueError if `threshold` is given too.
    """

    per: str = TOKEN
    share: float | int = 0.0
    threshold: float | int = 0.0
    quantile: float | int | None = None

    def __post_init__(self) -> None:
        if self.per not in UNITS:
            raise ValueError(f"per must be one of {', '.join(UNITS)}; got {self.per!r}")
        if not 0 <= self.share <= 1:
            raise ValueError(f"share must be in [0, 1]; got {self.share}")
        if self.share and self.per == TOKEN:
            raise ValueError(f"share needs per='example'; got share={self.share} and per={self.per!r}")
        if not 0 <= self.threshold < float("inf"):
            raise ValueError(f"threshold must be finite and 0 or more; got {self.threshold}")
        if self.quantile is not None and not 0 <= self.quantile <= 1:
            raise ValueError(f"quantile must be in [0, 1]; got {self.quantile}")
        if self.quantile is not None and self.threshold:
            raise ValueError(f"give threshold or quantile, not both; got {self.threshold} and {self.quantile}")

    def in_words(self, least: Float[Tensor, "feature"]) -> str:
        """What counts as firing, as part of a sentence.

        Args:
            least: the thresholds that were used.
        """
        values = ", ".join(f"{value:.3g}" for value in least.tolist())
        at = f"activation of {values} or more" if least.any() else "any activation above 0"
        if self.quantile is not None:
            at += f" (the {100 * self.quantile:g} % quantile)"
        if self.per == TOKEN:
            return f"{at}, token by token"
        where = f"in {100 * self.share:g} % of an example's tokens" if self.share else "anywhere in an example"
        return f"{at}, {where} counts for all of it"


@dataclass(frozen=True, kw_only=True)
class Rule(Trigger):
    """What counts as firing, and what it is compared with.

    Attributes:
        reference: `"rest"` is every silent token. `"matched"` is the silent tokens that fire elsewhere in the corpus,
            and `"matched-positions"` the silent tokens at positions at which others fire, so that the engram is not
            just that of a word or a place. Firing tokens without a silent counterpart then leave the target. The two
            sides may still hold different numbers of a kind. An edit spares only what its reference holds, so use
            matched references for maps.
        max_tokens: how many tokens each side keeps, drawn at random, 1 or more. None keeps all.
        seed: the seed of that draw.
    """

    reference: str = REST
    max_tokens: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reference not in REFERENCE_MODES:
            raise ValueError(f"reference must be one of {', '.join(REFERENCE_MODES)}; got {self.reference!r}")
        if self.max_tokens is not None and (self.max_tokens < 1 or self.max_tokens % 1):
            raise ValueError(f"max_tokens must be a whole number, 1 or more; got {self.max_tokens}")


def thresholds(readings: Sequence[Reading], trigger: Trigger) -> Float[Tensor, "feature"]:
    """The smallest activation of every feature that counts as firing."""
    n_features = readings[0].activation.shape[1]
    if trigger.quantile is None:
        return torch.full((n_features,), float(trigger.threshold))
    features = torch.cat([reading.activation[reading.text] for reading in readings]).T
    # torch.quantile takes at most 2^24 numbers, NumPy's any.
    return torch.tensor(
        [np.quantile(a[a > 0].numpy(), trigger.quantile) if (a > 0).any() else 0.0 for a in features]
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


def whole_example(reading: Reading, fires: Bool[Tensor, "pos"], share: float | int) -> bool:
    """Whether an example fires: at one of its tokens, and at this share of them."""
    n = int((fires & reading.text).sum())
    return n > 0 and n >= share * int(reading.text.sum())


def called_target(readings: Sequence[Reading], least: Float[Tensor, "feature"], trigger: Trigger) -> list[Tensor]:
    """For every example, `[pos]`, which of its counted positions belong to the target."""
    fires = [firing(reading.activation, least).any(1) for reading in readings]
    if trigger.per == TOKEN:
        return [reading.counts & fired for reading, fired in zip(readings, fires, strict=True)]
    return [
        reading.counts & whole_example(reading, fired, trigger.share)
        for reading, fired in zip(readings, fires, strict=True)
    ]


def matched(readings: Sequence[Reading], sides: Sequence[list[Tensor]], mode: str) -> list[list[Tensor]]:
    """The positions of either side whose token, or whose place in its example, occurs on the other side too."""
    keys = [one.tokens if mode == MATCHED else torch.arange(len(one.tokens)) for one in readings]
    seen = [torch.cat([k[mask] for k, mask in zip(keys, side, strict=True)]).unique() for side in sides]
    shared = seen[0][torch.isin(*seen)]
    return [[mask & torch.isin(k, shared) for k, mask in zip(keys, side, strict=True)] for side in sides]


def sampled(masks: list[Tensor], at_most: int, generator: torch.Generator) -> list[Tensor]:
    """Masks in which at most this many positions are left, drawn at random."""
    flat = torch.cat(masks)
    places = flat.nonzero().flatten()
    kept = places[torch.randperm(len(places), generator=generator)[:at_most]]
    chosen = torch.zeros_like(flat)
    chosen[kept] = True
    return list(chosen.split([len(mask) for mask in masks]))
