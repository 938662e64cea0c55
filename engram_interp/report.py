"""One self-contained page about one memory: where it sits, what takes it out, whether it is one, and what is said."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
import pandas as pd
from jinja2 import Environment
from torch import nn

from engram_interp import plots
from engram_interp.collect import collect
from engram_interp.concept import REFERENCE, TARGET, Concept, Example
from engram_interp.criteria import Criteria, criteria
from engram_interp.extraction import extract
from engram_interp.generation import greedy_answers
from engram_interp.localization import ALPHA, LocalizationMap, localize
from engram_interp.partition import Partition
from engram_interp.sae import SaeConcept
from engram_interp.scoring import score
from engram_interp.strength import AlphaChoice, choose_alpha

N_QUESTIONS = 20
"""Questions shown of each side, at most."""
DRAWS = 199
"""Random sets that the map is compared with."""


WNORM_NOTE = (
    "W-Norm: the share of each weight matrix that the target's inputs own. A star marks what random sets of as many "
    "examples do not reach."
)
EXCESS_NOTE = (
    "The same over what random sets of as many examples own on average: 1 is nothing of the target's own, and most of "
    "what the map above shows is what any few examples would."
)
FISHER_NOTE = (
    "The share of each matrix's output that is the target's, over that of random sets. It does not depend on how the "
    "inputs are scaled."
)
CRITERIA_NOTE = (
    "By how much each condition is missed, 0 being met. Null state: zeros in place of the engram's matrices; injected: "
    "the engram alone in their place."
)


@dataclass(frozen=True)
class AnswerRow:
    """A question, its true answer, and the model's own greedy answers."""

    question: str
    truth: str
    before: str
    after: str


@dataclass(frozen=True)
class Findings:
    """What a report tells.

    Attributes:
        wmap: where the memory sits, against a resampled null.
        choice: the edit strength, and the curve it was chosen from.
        criteria: whether the engram is one, at that strength.
        scores: answer accuracy, a row a side and a column a model.
        answers: question tables by side; empty for examples that are not `(prompt, answer)` pairs.
        counts: counted tokens by side.
        partition: what was called the target, where SAE features said so.
    """

    wmap: LocalizationMap
    choice: AlphaChoice
    criteria: Criteria
    scores: pd.DataFrame
    answers: dict[str, list[AnswerRow]]
    counts: dict[str, int]
    partition: Partition | None = None


def investigate(
    model: nn.Module,
    concept: Concept,
    *,
    keep: float | int = 0.98,
    gold: nn.Module | None = None,
    progress: bool | None = None,
) -> Findings:
    """Localize a concept, choose how strongly to ablate it, and compare the model before and after.

    Args:
        model: the model under study; it is left as it was.
        concept: what to look for.
        keep: see `choose_alpha`.
        gold: a model that never saw the target, where there is one: what forgetting should arrive at.
        progress: True or False shows or hides the bars; None shows them in a terminal only.
    """
    statistics = collect(model, concept, progress=progress)
    engram = extract(model, statistics)
    choice = choose_alpha(model, engram, concept, keep, progress=progress)
    pairs = {side: _spread(examples) for side, examples in concept.sides.items()}
    before = {
        side: greedy_answers(model, [question for question, _ in shown]) for side, shown in pairs.items() if shown
    }
    with engram.ablated(model, choice.alpha):
        after = {side: greedy_answers(model, [question for question, _ in pairs[side]]) for side in before}
    answers = {
        side: [
            AnswerRow(question, truth, *both)
            for (question, truth), *both in zip(pairs[side], before[side], after[side], strict=True)
        ]
        for side in before
    }
    return Findings(
        wmap=localize(model, concept, null="resampled", draws=DRAWS, progress=progress),
        choice=choice,
        criteria=criteria(model, engram, concept, alpha=choice.alpha, statistics=statistics, progress=progress),
        scores=_scores(choice, concept, gold),
        answers=answers,
        counts=statistics.counts,
        partition=concept.partition if isinstance(concept, SaeConcept) else None,
    )


def render(findings: Findings, provenance: str) -> str:
    """The findings as one HTML page that needs nothing else, plotly's script included."""
    wmap, choice = findings.wmap, findings.choice
    template = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(
        files("engram_interp").joinpath("report.html.jinja").read_text(encoding="utf-8")
    )
    figures = [
        ("Where it sits", WNORM_NOTE, wmap.plot()),
        ("... against random examples", EXCESS_NOTE, wmap.plot("excess")),
        ("... by what comes out of the matrix", FISHER_NOTE, wmap.plot("fisher_excess")),
        ("Which heads", "The same of single heads; K and V by key/value head.", wmap.plot_heads("fisher_excess")),
        (
            "How strong an edit",
            "W - alpha W+ for growing alpha: the strongest that leaves the reference what it must keep.",
            choice.plot(),
        ),
        ("Is it an engram?", CRITERIA_NOTE, findings.criteria.plot()),
    ]
    headings = {TARGET: "The target's questions", REFERENCE: "Other questions"}
    return template.render(
        title=f"The engram of {wmap.name or 'the target'} in {wmap.model}",
        provenance=provenance,
        lead=_lead(findings),
        scores=findings.scores,
        partition=findings.partition and findings.partition.to_html(),
        criteria=findings.criteria.to_frame(),
        figures=[
            {"heading": heading, "note": note, "html": plots.to_html(figure, index)}
            for index, (heading, note, figure) in enumerate(figures)
        ],
        answers=[{"heading": headings[side], "rows": rows} for side, rows in findings.answers.items()],
    )


def write_report(findings: Findings, provenance: str, path: str | Path) -> None:
    """Write the page."""
    Path(path).write_text(render(findings, provenance), encoding="utf-8")


def _spread(examples: Sequence[Example]) -> list[tuple[str, str]]:
    """A few `(prompt, answer)` pairs from all over the examples."""
    pairs = [example for example in examples if isinstance(example, (tuple, list))]
    places = sorted({round(i) for i in np.linspace(0, len(pairs) - 1, N_QUESTIONS)}) if pairs else []
    return [(pairs[i][0], pairs[i][1].strip()) for i in places]


def _scores(choice: AlphaChoice, concept: Concept, gold: nn.Module | None) -> pd.DataFrame:
    columns = {"the model": choice.curve.iloc[0], "after the ablation": choice.chosen}
    scores = {name: [row[f"{side}_accuracy"] for side in (TARGET, REFERENCE)] for name, row in columns.items()}
    if gold is not None:
        # The gold model may not have seen all of the reference either, so only its target score compares.
        scores["a model that never saw it"] = [score(gold, {TARGET: concept.target})[TARGET].accuracy, math.nan]
    return pd.DataFrame(scores, index=[concept.name or TARGET, "everything else (reference)"])


def _lead(findings: Findings) -> str:
    (before, after, *gold), (kept_before, kept_after, *_) = findings.scores.to_numpy().tolist()
    gold_text = f" (a model that never saw it: {gold[0]:.1%})" if gold else ""
    frame = findings.wmap.to_frame()
    by_excess, by_norm = (findings.wmap.top(1, by=quantity).iloc[0] for quantity in ("fisher_excess", "wnorm"))
    n_significant = int((frame["fisher_p_value"] <= ALPHA).sum())
    return (
        f"The target owns more than random examples do in {n_significant} of {len(frame)} matrices (family-wise "
        f"p ≤ {ALPHA:g}), most of all in {by_excess['key']}: {by_excess['fisher_excess']:.2f} times their share of its "
        f"output. By norm alone the first is {by_norm['key']}, with {by_norm['wnorm']:.1%} of the matrix. Ablated at "
        f"alpha = {findings.choice.alpha:.3g}, the model gets {after:.1%} of the target's answer tokens right instead "
        f"of {before:.1%}{gold_text}, and {kept_after:.1%} of everything else instead of {kept_before:.1%}."
    )
