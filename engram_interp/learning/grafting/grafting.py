"""What is the smallest part of `W - W_0` that carries a memory (Panigrahi et al. 2023, arXiv 2302.06600)?

Entries are ranked by the engram of the difference, `Delta+ = (W - W_0) S+ S^pinv`, in closed form, or by a mask that is
learned. The share that is grafted is chosen on every second example of the target, and reported on the others.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from engram_interp.answers.scoring import score_encoded, side_by_side, spoken
from engram_interp.common.arguments import number, whole
from engram_interp.common.progress import bar
from engram_interp.concepts.batches import Examples
from engram_interp.concepts.concept import REFERENCE, TARGET, Concept, require_concept
from engram_interp.engrams.extract import engram_of, options_of, weight_norms
from engram_interp.engrams.parts import Change, Part, parts, prepare
from engram_interp.learning.grafting.difference import Difference, difference
from engram_interp.learning.grafting.graft import Graft
from engram_interp.learning.grafting.learned import learned_scores
from engram_interp.learning.grafting.low_rank import directions_of, low_rank
from engram_interp.learning.grafting.places import mask_of, places_of, units_of, with_others
from engram_interp.models import Adapter, adapt
from engram_interp.models.exclusive import exclusive
from engram_interp.options import Run, Solve, Which, takes

logger = logging.getLogger("engram_interp")

ENTRIES, OUTPUTS, HEADS, MATRICES, LOW_RANK, MAGNITUDE, LEARNED = (
    "entries", "outputs", "heads", "matrices", "low rank", "magnitude", "learned",
)  # fmt: skip
WAYS = (ENTRIES, OUTPUTS, HEADS, MATRICES, LOW_RANK, MAGNITUDE, LEARNED)
SHARES = (0.0, 1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1.0)
"""The shares of a curve."""
CHOICE = "choice"
"""The examples of the target on which a share is chosen."""


@exclusive
@takes(Which, Solve, Run)
def graft(
    model: nn.Module,
    base: nn.Module,
    concept: Concept,
    *,
    by: str = LOW_RANK,
    share: float | int | None = None,
    carries: float | int = 0.95,
    shares: Collection[float | int] = SHARES,
    steps: int = 100,
    which: Which,
    solve: Solve,
    run: Run,
) -> Graft:
    """The smallest part of what training changed that carries a memory into the model before.

    Args:
        model: the trained model.
        base: the model before, of the same class and shapes.
        concept: the memory, and what it is told apart from.
        by: what ranks the parts. `"entries"`: single entries, by those of the engram of the difference, `|Delta+|`.
            `"outputs"`: single entries, by how much each brings of what that engram puts out, `Delta * (Delta+ S+)`.
            `"heads"`: heads, and whole matrices where there are none, by the mean square of these entries.
            `"matrices"`: the same of whole matrices. `"low rank"`: the output directions in which `Delta+` puts out
            most, `r (out + in)` numbers for `r` of them. `"magnitude"`: single entries, by `|W - W_0|`, whatever the
            memory. `"learned"`: single entries, by a mask that a gradient finds on the target's answers.
        share: the share of all entries that is grafted, in [0, 1]. None takes the smallest of `shares` that carries the
            memory.
        carries: what it means to carry it: this share of the accuracy that training has brought, on every second
            example of the target.
        shares: what is tried. Every graft holds all smaller ones, but for learned masks, which are learned for each.
        steps: of the learned mask.

    Returns:
        The graft. With `share=None` its `curve` has a row for each share that was tried: accuracy and loss of
        `choice`, the examples on which it was chosen, of `target`, the others, and of `reference`.

    Raises:
        ValueError: if `by` is another word, a share is outside [0, 1], shapes differ, `delta_from` is given (it is
            `base`), or the trained model answers no more of the target than the base.
        TypeError: if `concept` is no `Concept`.

    Example:
        >>> from engram_interp import testbed
        >>> concept = testbed.authors().concept("Petra Dorlund")
        >>> small = graft(testbed.load("full"), testbed.load("base"), concept, share=0.03)
        >>> grafted = small.inject(testbed.load("base"))
    """
    if by not in WAYS:
        raise ValueError(f"by must be one of {', '.join(map(repr, WAYS))}; got {by!r}")
    if solve.delta_from is not None:
        raise ValueError("delta_from is base here: leave it out")
    asked = sorted({_share(one, "shares") for one in shares})
    given = None if share is None else _share(share, "share")
    least, steps = _share(carries, "carries"), whole(steps, "steps", at_least=1)
    require_concept(concept)
    fine, before = adapt(model), adapt(base)
    fine.look(concept)
    before.learn(fine.reads)
    change = difference(fine, before, which)
    at = _grafting(by, model, before, change, concept, steps, which, replace(solve, delta_from=base), run)

    def grafted(one: float) -> Graft:
        return _graft(fine, before, change, at(one), concept, by, one, solve)

    if given is not None:
        return grafted(given)
    return _smallest(model, base, _groups(fine, concept), grafted, asked, least, run)


def _share(value: float | int, name: str) -> float:
    if not 0 <= (found := number(value, name)) <= 1:
        raise ValueError(f"{name} must be in [0, 1], a share of all entries; got {value}")
    return found


def _grafting(
    by: str,
    model: nn.Module,
    base: Adapter,
    change: Difference,
    concept: Concept,
    steps: int,
    which: Which,
    solve: Solve,
    run: Run,
) -> Callable[[float], dict[str, Tensor]]:
    """From a share to what is grafted of every parameter."""
    if by == LEARNED:
        return _learning(base, change, concept, steps, run)
    if by == MAGNITUDE:
        places = places_of({key: one.square() for key, one in change.matrices.items()})
    else:
        prepared = prepare(model, concept, which, solve, run)
        change = replace(change, sites=tuple(prepared.sites))
        made = parts(prepared, solve, run.progress)
        if by == LOW_RANK:
            directions = {part.site.key: directions_of(part) for part in made}
            return lambda share: low_rank(change, directions, share)
        score = _brought if by == OUTPUTS else _squared
        places = places_of(_scores(prepared.adapter, change, map(score, made)), _units(by, change))
    every = with_others(places, change)
    return lambda share: change.masked(mask_of(every, share))


def _units(by: str, change: Difference) -> dict[str, Tensor] | None:
    return None if by in (ENTRIES, OUTPUTS) else units_of(change, by_head=by == HEADS)


def _squared(part: Part) -> Change:
    """The squares of the entries of the engram of the difference."""
    return replace(part.change, matrix=part.W_plus.square())


def _brought(part: Part) -> Change:
    """`Delta * (Delta+ S+)`: how much each entry brings of what the engram puts out for the target."""
    return replace(part.change, matrix=part.dW * (part.W_plus @ part.data.S_plus.double()))


def _scores(adapter: Adapter, change: Difference, made: Iterable[Change]) -> dict[str, Tensor]:
    """Numbers for every entry of the matrices, in the shapes of their parameters; zeros where there are none."""
    found = engram_of(adapter, list(change.sites), made, None, {}).tensors
    return {
        key: found[key].double() if key in found else torch.zeros(one.shape, dtype=torch.float64)
        for key, one in change.matrices.items()
    }


def _learning(
    base: Adapter, change: Difference, concept: Concept, steps: int, run: Run
) -> Callable[[float], dict[str, Tensor]]:
    target = base.encode({TARGET: concept.target}, concept.read if concept.is_text else None)[TARGET]

    def at(share: float) -> dict[str, Tensor]:
        twin = adapt(base.copy())
        twin.learn(base.reads)
        scores = learned_scores(twin, change, target, share, steps, run)
        return change.masked(mask_of(with_others(places_of(scores), change), share))

    return at


def _graft(
    fine: Adapter,
    base: Adapter,
    change: Difference,
    tensors: Mapping[str, Tensor],
    concept: Concept,
    by: str,
    share: float,
    solve: Solve,
) -> Graft:
    options = {**options_of(solve, {}, concept.in_words), "base": base.info.name, "trained": fine.info.name}
    norms = weight_norms(fine, change.sites)
    return Graft(
        dict(tensors), norms, base.info, concept.name, options, change.sites, trained=fine.info, share=share, by=by
    )


def _groups(adapter: Adapter, concept: Concept) -> dict[str, Examples]:
    """What is scored: every second example of the target to choose by, the others to report, and the reference."""
    if not concept.is_text or concept.is_stream or len(concept.target) < 2:
        return adapter.encode({CHOICE: concept.target, **concept.sides}, spoken(concept.eos))
    target: Sequence[Any] = concept.target
    groups = {CHOICE: target[::2], TARGET: target[1::2], REFERENCE: concept.reference}
    return adapter.encode(groups, spoken(concept.eos))


def _smallest(
    model: nn.Module,
    base: nn.Module,
    groups: Mapping[str, Examples],
    grafted: Callable[[float], Graft],
    shares: Sequence[float],
    carries: float,
    run: Run,
) -> Graft:
    """The smallest graft of these shares, which ascend, that carries the memory, with what all of them do.

    If none carries it, the largest is taken, and a warning says so.
    """
    quiet = replace(run, progress=False)

    def scores(one: nn.Module) -> dict[str, float]:
        return side_by_side(score_encoded(adapt(one), groups, quiet))

    before, after = scores(base), scores(model)
    brought = {group: after[f"{group}_accuracy"] - before[f"{group}_accuracy"] for group in (CHOICE, TARGET)}
    if brought[CHOICE] <= 0:
        raise ValueError(
            f"the trained model answers no more of the target than base ({after[f'{CHOICE}_accuracy']:.1%} and "
            f"{before[f'{CHOICE}_accuracy']:.1%} of its answers' tokens): nothing is there to be grafted"
        )
    rows, chosen = [], None
    for share in bar(shares, run.progress, "grafting", "share"):
        one = grafted(share)
        with one.injected(base):
            found = scores(base)
        carried = {
            f"{group}_carried": (found[f"{group}_accuracy"] - before[f"{group}_accuracy"]) / gain if gain else torch.nan
            for group, gain in brought.items()
        }
        rows.append({"share": share, **found, **carried})
        if chosen is None and (carried[f"{CHOICE}_carried"] >= carries or share == shares[-1]):
            chosen = one
    curve = pd.DataFrame(rows)
    if (most := curve[f"{CHOICE}_carried"].max()) < carries:
        logger.warning(
            "no share that was tried carries %.0f %% of what training brought; the most is %.0f %%. The largest is "
            "taken", 100 * carries, 100 * most,
        )  # fmt: skip
    assert chosen is not None
    return replace(chosen, curve=curve)
