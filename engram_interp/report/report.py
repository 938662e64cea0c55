"""One self-contained page about one memory: where it sits, what takes it out, whether it is one, and what is said."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from torch import nn

from engram_interp.answers.generation import greedy_answers
from engram_interp.answers.scoring import score
from engram_interp.common.templates import template
from engram_interp.common.writing import replacing
from engram_interp.concepts.concept import REFERENCE, TARGET, Concept, Example
from engram_interp.effects.criteria import Criteria, criteria
from engram_interp.effects.strength import AlphaChoice, choose_alpha
from engram_interp.engrams.extract import extract
from engram_interp.figures import plots
from engram_interp.maps.diagnosis import QUANTITIES, Diagnosis
from engram_interp.maps.localization import ALPHA, SCALES, LocalizationMap, localize
from engram_interp.models.exclusive import exclusive
from engram_interp.models.sites import ATTENTION
from engram_interp.sae.concepts import SaeConcept
from engram_interp.sae.partition import Partition
from engram_interp.statistics.collect import collect

DIAGNOSED = ["rank", "condition", "effective_rank", "obliqueness", "target_passes", "reference_passes", "wnorm"]
"""What the table of a diagnosis has beside what it is sorted by."""
N_ROWS = 20
"""Matrices in the table of a page."""
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


@exclusive
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
        progress: True or False shows or hides the bars; None shows them in a terminal and in a notebook.
    """
    statistics = collect(model, concept, progress=progress)
    engram = extract(model, statistics, progress=progress)
    choice = choose_alpha(model, engram, concept, keep, progress=progress)
    pairs = {side: _spread(examples) for side, examples in concept.sides.items()}
    before = {
        side: greedy_answers(model, [question for question, _ in shown], progress=progress)
        for side, shown in pairs.items()
        if shown
    }
    with engram.ablated(model, choice.alpha):
        after = {
            side: greedy_answers(model, [question for question, _ in pairs[side]], progress=progress) for side in before
        }
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
    return template("report", "report").render(
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


def map_page(wmap: LocalizationMap, by: str, provenance: str) -> str:
    """A map as one HTML page that needs nothing else: a sentence, a table, and figures of every quantity.

    Args:
        wmap: the map.
        by: what the table is sorted by.
        provenance: what it was made of, below the title.
    """
    figures = [wmap.plot(quantity) for quantity in SCALES]
    if any(name in ATTENTION for name in wmap.components):
        figures += [wmap.plot_heads(quantity) for quantity in SCALES]
    if wmap.to_frame()["expert"].notna().any():
        figures += [wmap.plot_experts(quantity) for quantity in SCALES]
    shown = [name for name in (*SCALES, "p_value", "fisher_p_value") if name in wmap.quantities]
    title = f"Where {wmap.name or 'the target'} sits in {wmap.model}"
    return _table_page(title, provenance, map_sentence(wmap), wmap.top(N_ROWS, by)[["key", *shown]], by, figures)


def diagnosis_page(found: Diagnosis, by: str, provenance: str) -> str:
    """A diagnosis as one HTML page that needs nothing else: a sentence, a table, the map and the first four matrices.

    Args:
        found: the diagnosis, of matrices.
        by: what is mapped, and what the table is sorted by.
        provenance: what it was made of, below the title.
    """
    frame = found.to_frame().sort_values(by, ascending=False)
    first = frame.iloc[0]
    sentence = (
        f"{first['key']} is first by {by} ({QUANTITIES[by]}): {first[by]:.3g}, where the median of {len(frame)} "
        f"matrices is {frame[by].median():.3g}."
    )
    figures = [found.plot(by), *map(found.plot_matrix, frame["key"].head(4))]
    columns = list(dict.fromkeys(["key", by, *DIAGNOSED]))
    title = f"How far the engrams of {found.name or 'the target'} in {found.model} can be trusted"
    return _table_page(title, provenance, sentence, frame[columns].head(N_ROWS), by, figures)


def _table_page(
    title: str, provenance: str, sentence: str, table: pd.DataFrame, by: str, figures: Sequence[go.Figure]
) -> str:
    return template("report", "table").render(
        title=title,
        provenance=provenance,
        lead=sentence,
        table=table.to_html(index=False, float_format="{:.3g}".format, border=0),
        by=by,
        figures=[plots.to_html(figure, index) for index, figure in enumerate(figures)],
    )


def write_report(findings: Findings, provenance: str, path: str | Path) -> None:
    """Write the page.

    Raises:
        OSError: it cannot be written; what was there before still is.
    """
    page = render(findings, provenance)
    with replacing(path) as aside:
        aside.write_text(page, encoding="utf-8")


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


def map_sentence(wmap: LocalizationMap) -> str:
    """What a map says, in two sentences: where the target owns most over its null, and where by norm alone."""
    return f"{_over_null(wmap)} {_by_norm(wmap)}"


def _over_null(wmap: LocalizationMap) -> str:
    frame = wmap.to_frame().sort_values("fisher_excess", ascending=False)
    first = frame.iloc[0]
    if "fisher_p_value" not in frame:
        return (
            f"Beside a target with nothing of its own, the target owns most in {first['key']}: "
            f"{first['fisher_excess']:.2f} times its share of the output. The formula knows nothing of noise, by which "
            f"a small target exceeds it everywhere: random sets of examples (the resampled null) tell how far."
        )
    significant = frame[frame["fisher_p_value"] <= ALPHA]
    if significant.empty:
        return (
            f"In none of {len(frame)} matrices does the target own more than random sets of as many examples do "
            f"(family-wise p ≤ {ALPHA:g}); it comes nearest in {first['key']}, with {first['fisher_excess']:.2f} times "
            f"their share of its output."
        )
    first = significant.iloc[0]
    return (
        f"The target owns more than random sets of as many examples do in {len(significant)} of {len(frame)} matrices "
        f"(family-wise p ≤ {ALPHA:g}), most of all in {first['key']}: {first['fisher_excess']:.2f} times their share "
        f"of its output."
    )


def _by_norm(wmap: LocalizationMap) -> str:
    first = wmap.top(1, by="wnorm").iloc[0]
    if first["wnorm"] <= 1:
        return f"By norm alone the first is {first['key']}, with {first['wnorm']:.1%} of the matrix's norm."
    return (
        f"By norm alone the first is {first['key']}, where the engram is {first['wnorm']:.2f} times as large as the "
        f"matrix itself: its projector is oblique, and a share of the norm means little there (see diagnose)."
    )


def _lead(findings: Findings) -> str:
    (before, after, *gold), (kept_before, kept_after, *_) = findings.scores.to_numpy().tolist()
    gold_text = f" (a model that never saw it: {gold[0]:.1%})" if gold else ""
    return (
        f"{map_sentence(findings.wmap)} Ablated at alpha = {findings.choice.alpha:.3g}, the model gets {after:.1%} of "
        f"the target's answer tokens right instead of {before:.1%}{gold_text}, and {kept_after:.1%} of everything else "
        f"instead of {kept_before:.1%}."
    )
