"""Does an edit keep enough of what its projector has not seen? A part of the examples decides where it is enough.

What is kept is a sum over examples, `R(alpha)`. From a part of them it is estimated by differences: `R(alpha) ~
R(alpha_0) + n mean(r_i(alpha) - r_i(alpha_0))`, with `alpha_0` the nearest strength at which every example was scored.
If that is `Z` standard errors from what must stay, it decides; if not, the part doubles. Near the threshold every
example is scored, and the interval of what is kept decides. Of examples with the same tokens right at a weaker strength
that keeps enough and at a stronger one that does not, the same is presumed between them: only the others are scored, of
the target and of what the engram was made from too.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from engram_interp.answers.scoring import pooled, totals
from engram_interp.concepts.concept import REFERENCE, TARGET, TokenExample
from engram_interp.concepts.data import data_batches
from engram_interp.effects import kept as intervals
from engram_interp.effects.held_out import Check
from engram_interp.effects.kept import Kept, Measure
from engram_interp.engrams.engram import Engram
from engram_interp.models import Adapter
from engram_interp.options import Run

T = TypeVar("T")
SHARES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)
"""The parts of the examples that are scored, each within the next."""
FEWEST = 32
"""A part has at least so many examples."""
SEEN = 32
"""So many examples of the reference that the engram was made from are scored, to compare with those held out."""
Z = 4.0
"""So many standard errors from the threshold, a part decides. It is wrong about once in 30000 times."""
CHECK = "check"


@dataclass
class Trial:
    """What one strength did.

    Attributes:
        seen: by side, `[example 3]`, right tokens, losses and tokens of the target and of a part of the reference that
            the engram was made from.
        check: `[example 4]`, right tokens, losses, tokens and the user's score of what was held out; zero where an
            example was not scored, and as at the weaker strength where that was presumed.
        n_parts: how many parts of it were scored.
        n_doubtful: how many of its examples were scored, if the others were presumed.
    """

    seen: dict[str, Tensor]
    check: Float[Tensor, "m 4"]
    n_parts: int = 0
    n_doubtful: int | None = None


class Trials:
    """Scores of a model under edits of several strengths, and whether they keep enough.

    Args:
        adapter: the model. It is edited for the length of a trial and restored bit for bit.
        engram: what is ablated.
        encoded: target and reference, which it was made from.
        check: what its cost is measured on.
        measure: what is kept.
        keep: which share of it must stay.
        run: how examples go through the model.
    """

    def __init__(
        self,
        adapter: Adapter,
        engram: Engram,
        encoded: Mapping[str, Sequence[Any]],
        check: Check,
        measure: Measure,
        keep: float,
        run: Run,
    ) -> None:
        self._adapter, self._engram = adapter, engram
        self._check, self._measure, self._keep = check, measure, keep
        self._run = replace(run, progress=False)
        lengths = [len(one.tokens) if isinstance(one, TokenExample) else 1 for one in check.encoded]
        # Several engrams mean short data, of which a part would not tell, and each would be written once a part.
        self._parts = parts_of(lengths) if len(check.engrams) == 1 else [list(range(len(lengths)))]
        self._seen = {TARGET: encoded[TARGET], REFERENCE: evenly(encoded[REFERENCE], SEEN)}
        self._trials: dict[float, Trial] = {}
        self._presumes = measure.counts_tokens

    def keeps(self, alpha: float) -> bool:
        """Whether an edit of this strength keeps enough, as far as is needed to tell."""
        if alpha not in self._trials:
            self._presume(alpha)
        self._score_until(alpha, lambda: self._decision(alpha) is not None)
        decision = self._decision(alpha)
        assert decision is not None
        return decision

    def keeps_surely(self, alpha: float) -> bool:
        """`keeps`, with every example scored."""
        presumed = None
        if alpha in self._trials and self._trials[alpha].n_doubtful is not None:
            presumed = self._decision(alpha)
            del self._trials[alpha]
        self._score_until(alpha, lambda: self.is_whole(alpha))
        found = self.keeps(alpha)
        # Near a tie an example may come out otherwise alone than in a batch. A search of steps as small as that would
        # then be told the same wrong thing at every next strength.
        self._presumes &= presumed in (None, found)
        return found

    def is_whole(self, alpha: float) -> bool:
        """Whether every example was scored at this strength."""
        return alpha in self._trials and self._trials[alpha].n_parts == len(self._parts)

    @property
    def is_sure(self) -> bool:
        """Whether there is enough to measure on for the interval to decide. If not, the share itself does."""
        if not self._measure.counts_tokens:
            return self._keep < 1
        return float(self._trials[0.0].check[:, 0].sum()) >= intervals.fewest_tokens(self._keep)

    @property
    def before(self) -> float:
        """What is to be kept, without an edit."""
        return float(self._measure.value(self._trials[0.0].check).sum())

    @property
    def n_right(self) -> int:
        """How many tokens of the check are right without an edit."""
        return int(self._trials[0.0].check[:, 0].sum())

    def rows(self) -> list[dict[str, float]]:
        """A row for each strength that was tried, from 0 up."""
        return [self._row(alpha) for alpha in sorted(self._trials)]

    def kept(self, alpha: float) -> Kept:
        """What stays of the examples that were scored at this strength."""
        scored = self._scored(alpha)
        return self._measure.kept(self._trials[alpha].check[scored], self._trials[0.0].check[scored])

    def _row(self, alpha: float) -> dict[str, float]:
        trial, scored = self._trials[alpha], self._scored(alpha)
        tables = {**trial.seen, CHECK: trial.check[scored, :3]}
        row: dict[str, float] = {"alpha": alpha}
        for group, table in tables.items():
            score = pooled(group, table)
            row |= {f"{group}_accuracy": score.accuracy, f"{group}_loss": score.loss}
        found = self.kept(alpha)
        row |= {"kept": found.share, "kept_low": found.low, "kept_high": found.high}
        n_doubtful = self._trials[alpha].n_doubtful
        n_scored = len(scored) if n_doubtful is None else n_doubtful
        return {**row, "check_share": n_scored / len(self._check.encoded)}

    def _scored(self, alpha: float) -> list[int]:
        """The examples whose numbers are known, presumed ones among them."""
        trial = self._trials[alpha]
        n_parts = trial.n_parts if trial.n_doubtful is None else len(self._parts)
        return [i for numbers in self._parts[:n_parts] for i in numbers]

    def _is_known(self, alpha: float) -> bool:
        return alpha in self._trials and len(self._scored(alpha)) == len(self._check.encoded)

    def _presume(self, alpha: float) -> None:
        """Score only the examples of which a weaker and a stronger trial differ, if there are such trials."""
        known = [other for other in sorted(self._trials) if self._is_known(other)] if self._presumes else []
        weaker = next((other for other in reversed(known) if other < alpha and self._decision(other)), None)
        stronger = next((other for other in known if other > alpha and not self._decision(other)), None)
        if weaker is None or stronger is None:
            return
        below, above = self._trials[weaker], self._trials[stronger]
        doubtful = unlike(below.check, above.check)
        seen = {group: table.clone() for group, table in below.seen.items()}
        trial = Trial(seen, below.check.clone(), n_doubtful=len(doubtful))
        self._score_seen(trial, alpha, {group: unlike(table, above.seen[group]) for group, table in seen.items()})
        self._score_each(trial, alpha, doubtful)
        self._trials[alpha] = trial

    def _score_until(self, alpha: float, enough: Callable[[], bool]) -> None:
        """Score the target and what the engram was made from, then part after part of the check."""
        if enough():
            return
        if alpha not in self._trials:
            self._trials[alpha] = self._begun(alpha)
        trial = self._trials[alpha]
        if len(self._check.engrams) == 1:
            with self._check.engrams[0].ablated(self._adapter.model, alpha):
                while not enough():
                    self._score(trial, self._parts[trial.n_parts])
                    trial.n_parts += 1
            return
        self._score_each(trial, alpha, self._parts[0])
        trial.n_parts = 1

    def _begun(self, alpha: float) -> Trial:
        """A trial of which the target and what the engram was made from are scored, and nothing of the check."""
        seen = {group: torch.zeros(len(examples), 3, dtype=torch.float64) for group, examples in self._seen.items()}
        trial = Trial(seen, torch.zeros(len(self._check.encoded), 4, dtype=torch.float64))
        self._score_seen(trial, alpha, {group: list(range(len(table))) for group, table in seen.items()})
        return trial

    def _score_seen(self, trial: Trial, alpha: float, numbers: Mapping[str, list[int]]) -> None:
        """Score these examples of the target, and of those that the engram was made from, without the engram."""
        some = {group: [self._seen[group][i] for i in mine] for group, mine in numbers.items() if mine}
        if not some:
            return
        with self._engram.ablated(self._adapter.model, alpha):
            found = totals(self._adapter, some, self._run)
        for group, table in found.items():
            trial.seen[group][numbers[group]] = table

    def _score(self, trial: Trial, numbers: Sequence[int]) -> None:
        """Score these examples of the check in the model as it is now."""
        found = totals(self._adapter, {CHECK: [self._check.encoded[i] for i in numbers]}, self._run)[CHECK]
        trial.check[numbers, :3] = found
        if self._measure.user is not None:
            trial.check[numbers, 3] = self._own([self._check.encoded[i] for i in numbers], numbers)

    def _own(self, some: Sequence[Any], numbers: Sequence[int]) -> Float[Tensor, "n"]:
        """The user's score of each of these examples, in the model as it is now."""
        if isinstance(some[0], TokenExample):
            return self._measure.own(self._adapter.model, [self._check.examples[i] for i in numbers])
        found = torch.zeros(len(some), dtype=torch.float64)
        for batch in data_batches({CHECK: some}, self._run.batch_size, False, ""):
            found[batch.numbers] = self._measure.own(self._adapter.model, batch)
        return found

    def _score_each(self, trial: Trial, alpha: float, numbers: Sequence[int]) -> None:
        """Score these examples of the check, each without the engram that has not seen it."""
        for number, engram in enumerate(self._check.engrams):
            if mine := [i for i in numbers if self._check.unseen_by[i] == number]:
                with engram.ablated(self._adapter.model, alpha):
                    self._score(trial, mine)

    def _decision(self, alpha: float) -> bool | None:
        if alpha not in self._trials or not self._scored(alpha):
            return None
        if self._is_known(alpha):
            found = self.kept(alpha)
            # Nothing is lost without an edit, whatever its interval says.
            return alpha == 0 or (found.low if self.is_sure else found.share) >= self._keep
        whole = [other for other in self._trials if self._is_known(other)]
        if 0.0 not in whole:
            return None
        nearest = min(whole, key=lambda other: abs(other - alpha))
        scored = self._scored(alpha)
        mine, near, before = (self._measure.value(self._trials[one].check) for one in (alpha, nearest, 0.0))
        needed = self._measure.needed(float(before.sum()), self._keep)
        if self.is_sure:
            needed += intervals.Z * (len(before) * float((mine - before)[scored].var(unbiased=False))) ** 0.5
        return decided((mine - near)[scored], len(before), float(near.sum()), needed)


def unlike(one: Float[Tensor, "n columns"], other: Float[Tensor, "n columns"]) -> list[int]:
    """The examples of which two trials leave different numbers of tokens right."""
    return (one[:, intervals.RIGHT] != other[:, intervals.RIGHT]).nonzero().flatten().tolist()


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
        [50, 50]
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


def evenly(examples: Sequence[T], at_most: int) -> Sequence[T]:
    """At most so many of the examples, from all over them.

    Example:
        >>> tokens = [TokenExample(torch.tensor([i]), torch.tensor([True])) for i in range(10)]
        >>> [int(one.tokens) for one in evenly(tokens, 4)]
        [0, 3, 6, 9]
    """
    step = -(-len(examples) // at_most)
    return examples[::step]
