"""Where does a memory sit, what removes it, is it an engram, and what does the model say then? One call finds out."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from torch import nn

from engram_interp.answers.scoring import score
from engram_interp.concepts.concept import TARGET, Concept
from engram_interp.concepts.memories import has_siblings
from engram_interp.effects.criteria import Criteria, criteria
from engram_interp.effects.strength import AlphaChoice, choose_alpha
from engram_interp.engrams.engram import Engram
from engram_interp.engrams.extract import extract
from engram_interp.maps.compared_with import RESAMPLED, SIBLINGS
from engram_interp.maps.localization import localize
from engram_interp.maps.localization_map import LocalizationMap
from engram_interp.maps.null_sets import MIN_DRAWS
from engram_interp.models.exclusive import exclusive
from engram_interp.options import Run, takes
from engram_interp.report.questions import AnswerRow, ask, asked_again
from engram_interp.sae.concepts import SaeConcept
from engram_interp.sae.partition import Partition
from engram_interp.statistics.collect import collect

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Findings:
    """What a report says.

    Attributes:
        wmap: where the memory sits, compared with sibling memories if there are enough, and else with random examples.
        choice: the strength of the edit, and the curve that it was chosen from.
        criteria: whether the memory is an engram, at that strength.
        scores: answer accuracy, with one row per side and one column per model.
        answers: tables of questions by side. Empty if no example is a `(prompt, answer)` pair.
        counts: counted tokens by side.
        partition: what counted as the target, if SAE features decided it.
    """

    wmap: LocalizationMap
    choice: AlphaChoice
    criteria: Criteria
    scores: pd.DataFrame
    answers: dict[str, list[AnswerRow]]
    counts: dict[str, int]
    partition: Partition | None = None


@exclusive
@takes(Run)
def investigate(
    model: nn.Module,
    concept: Concept,
    *,
    keep: float | int = 0.98,
    gold: nn.Module | None = None,
    run: Run,
) -> Findings:
    """Localizes a concept, chooses how strongly to ablate it, and compares the model before and after.

    Args:
        model: the model under study. It is left unchanged.
        concept: what to look for.
        keep: see `choose_alpha`.
        gold: a model that never saw the target, if there is one: the result that forgetting should reach.
    """
    # First, so that the rows of the null and the engrams are not in memory together.
    wmap = localize(model, concept, null=sets_for(concept), **vars(run))
    # The criteria need moments alone, so nothing of what is factorised for the engram is kept.
    statistics = replace(collect(model, concept, **vars(run)), keep_bytes=0)
    engram = extract(model, statistics, **vars(run))
    choice = choose_alpha(model, engram, concept, keep, **vars(run))
    return Findings(
        wmap=wmap,
        choice=choice,
        criteria=criteria(model, engram, concept, alpha=choice.alpha, statistics=statistics, **vars(run)),
        scores=_scores(choice, concept, gold, run),
        answers=_answers(model, engram, choice.alpha, concept, run),
        counts=statistics.counts,
        partition=concept.partition if isinstance(concept, SaeConcept) else None,
    )


def sets_for(concept: Concept) -> str:
    """The null of sets for a concept: sibling memories if it has enough of them, and else random examples."""
    return SIBLINGS if has_siblings(concept, MIN_DRAWS) else RESAMPLED


def _answers(model: nn.Module, engram: Engram, alpha: float, concept: Concept, run: Run) -> dict[str, list[AnswerRow]]:
    """What the model says before and after the edit, by side."""
    asked = ask(model, concept, run)
    with engram.ablated(model, alpha):
        rows = asked_again(model, asked, run)
    return {side: [row for row in rows if row.side == side] for side in asked.pairs}


def _scores(choice: AlphaChoice, concept: Concept, gold: nn.Module | None, run: Run) -> pd.DataFrame:
    import pandas as pd

    columns = {"the model": choice.curve.iloc[0], "after the ablation": choice.chosen}
    scores = {name: [row[f"{side}_accuracy"] for side in (TARGET, "check")] for name, row in columns.items()}
    if gold is not None:
        # The gold model may not have seen all of the reference either, so only its score of the target is comparable.
        accuracy = score(gold, {TARGET: concept.target}, eos=concept.eos, **vars(run))[TARGET].accuracy
        scores["a model that never saw it"] = [accuracy, math.nan]
    return pd.DataFrame(scores, index=[concept.name or TARGET, "everything else (held out)"])
