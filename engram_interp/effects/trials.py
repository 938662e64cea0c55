"""Does an edit keep enough of the reference? A part of the examples decides wherever it is enough to tell.

The number of right tokens is estimated by differences: `R(alpha) ~ R(alpha_0) + n mean(r_i(alpha) - r_i(alpha_0))`,
with `alpha_0` the nearest strength at which every example was scored, and `r_i` what is right of example `i`. If that
is `Z` standard errors from what must stay, it decides; if not, the part doubles. Near the threshold every example is
scored.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from engram_interp.answers.scoring import Score, pooled, totals
from engram_interp.concepts.concept import REFERENCE, TARGET, TokenExample
from engram_interp.models import Adapter
from engram_interp.options import Run

SHARES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)
"""The parts of the reference that are scored, each within the next."""
FEWEST = 128
"""A part has at least so many examples."""
Z = 4.0
"""So many standard errors from the threshold, a part decides. It is wrong about once in 30000 times."""


@dataclass
class Trial:
    """What one strength did.

    Attributes:
        target: `[example 3]`, right tokens, losses and tokens of the target.
        reference: the same of the reference; zero where an example was not scored.
        n_parts: how many parts of the reference were scored.
    """

    target: Float[Tensor, "n 3"]
    reference: Float[Tensor, "m 3"]
    n_parts: int = 0


class Trials:
    """Scores of a model under edits, and whether they keep enough.

    Args:
        adapter: the model. Callers edit it.
        encoded: target and reference.
        keep: the share of the reference's right tokens that must stay.
        run: how examples go through the model.
    """

    def __init__(self, adapter: Adapter, encoded: dict[str, list[TokenExample]], keep: float, run: Run) -> None:
        self._adapter, self._encoded, self._keep, self._run = adapter, encoded, keep, replace(run, progress=False)
        self._parts = parts_of([len(example.tokens) for example in encoded[REFERENCE]])
        self._trials: dict[float, Trial] = {}

    def keeps(self, alpha: float) -> bool:
        """Whether the model as it is now, edited this strongly, keeps enough, as far as is needed to tell."""
        while (decision := self._decision(alpha)) is None:
            self._score_part(alpha)
        return decision

    def keeps_surely(self, alpha: float) -> bool:
        """`keeps`, with every example scored."""
        while not self.is_whole(alpha):
            self._score_part(alpha)
        return self.keeps(alpha)

    def is_whole(self, alpha: float) -> bool:
        """Whether every example was scored at this strength."""
        return alpha in self._trials and self._trials[alpha].n_parts == len(self._parts)

    def scores(self) -> dict[float, dict[str, Score]]:
        """By strength, the scores of both sides, on what was scored of them."""
        return {
            alpha: {TARGET: pooled(TARGET, trial.target), REFERENCE: pooled(REFERENCE, trial.reference)}
            for alpha, trial in sorted(self._trials.items())
        }

    def shares(self) -> dict[float, float]:
        """By strength, which share of the reference's examples was scored."""
        n = len(self._encoded[REFERENCE])
        return {alpha: sum(map(len, self._parts[: trial.n_parts])) / n for alpha, trial in sorted(self._trials.items())}

    def _score_part(self, alpha: float) -> None:
        """Score the next part of the reference, and the target with the first."""
        if alpha not in self._trials:
            nothing = {group: torch.zeros(len(some), 3).double() for group, some in self._encoded.items()}
            self._trials[alpha] = Trial(nothing[TARGET], nothing[REFERENCE])
        trial = self._trials[alpha]
        numbers = self._parts[trial.n_parts]
        examples = {REFERENCE: [self._encoded[REFERENCE][i] for i in numbers]}
        if not trial.n_parts:
            examples[TARGET] = self._encoded[TARGET]
        found = totals(self._adapter, examples, self._run)
        trial.reference[numbers] = found[REFERENCE]
        trial.target = found.get(TARGET, trial.target)
        trial.n_parts += 1

    def _decision(self, alpha: float) -> bool | None:
        if alpha not in self._trials:
            return None
        trial = self._trials[alpha]
        whole = {other: one.reference for other, one in self._trials.items() if self.is_whole(other)}
        needed = self._keep * float(whole[0.0][:, 0].sum()) if 0.0 in whole else 0.0
        if self.is_whole(alpha):
            return float(trial.reference[:, 0].sum()) >= needed
        nearest = whole[min(whole, key=lambda other: abs(other - alpha))]
        scored = [i for numbers in self._parts[: trial.n_parts] for i in numbers]
        return decided(
            trial.reference[scored, 0] - nearest[scored, 0], len(nearest), float(nearest[:, 0].sum()), needed
        )


def decided(differences: Float[Tensor, "n"], n_examples: int, right: float | int, needed: float | int) -> bool | None:
    """Whether enough is right, judged by a part of the examples; None if that does not tell.

    Args:
        differences: for each example of the part, how many more tokens are right than where all were scored.
        n_examples: how many examples there are.
        right: how many tokens are right where all examples were scored.
        needed: how many must be.

    Example:
        >>> lost = torch.zeros(200).double()
        >>> decided(lost, 1000, right=4000, needed=3800), decided(lost, 1000, right=4000, needed=3990)
        (True, None)
    """
    n = len(differences)
    # Where no example differs, the variance is not known to be 0: as if one more token of a few examples did.
    variance = differences.var(unbiased=False).item() + Z**2 / n
    error = n_examples * (variance / n * (1 - n / n_examples)) ** 0.5
    over = right + n_examples * differences.mean().item() - needed
    return over > 0 if abs(over) > Z * error else None


def parts_of(lengths: list[int]) -> list[list[int]]:
    """The numbers of the examples that each part adds to the one before. Every part has all lengths in proportion.

    Example:
        >>> [len(part) for part in parts_of([5] * 4096)]
        [256, 256, 512, 1024, 2048]
        >>> [len(part) for part in parts_of([5] * 100)]
        [100]
    """
    shuffled = list(range(len(lengths)))
    random.Random(0).shuffle(shuffled)
    by_length = sorted(shuffled, key=lambda i: lengths[i])
    parts, taken = [], set()
    for share in SHARES:
        every = round(1 / share)
        part = [i for place, i in enumerate(by_length) if place % every == 0 and i not in taken]
        if len(part) + len(taken) >= min(FEWEST, len(lengths)):
            parts.append(part)
            taken.update(part)
    return parts
