"""How does a result get into one HTML file? Pages that need no other file and no network, plotly's script included."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from engram_interp.common.html import template
from engram_interp.common.writing import replacing
from engram_interp.concepts.concept import REFERENCE, TARGET
from engram_interp.maps.compared_with import SIBLINGS
from engram_interp.maps.diagnosis import Diagnosis
from engram_interp.maps.localization_map import DRAWN, LocalizationMap
from engram_interp.maps.quantities import MAP_QUANTITIES
from engram_interp.models.components import ATTENTION
from engram_interp.report import sentences
from engram_interp.report.findings import Findings

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

DIAGNOSIS_COLUMNS = ["rank", "condition", "effective_rank", "obliqueness", "target_passes", "reference_passes", "wnorm"]
"""The columns of a diagnosis's table, besides the one that it is sorted by."""
TABLED = ("score", "reliance", "wnorm", "fisher", "excess", "fisher_excess", "gain_excess")
P_VALUES = ("score_p_value", "reliance_p_value", "p_value", "fisher_p_value")
"""The columns of a map's table, besides those that it is sorted by."""
N_ROWS = 20
"""How many matrices are in the table of a page."""
HEADINGS = {TARGET: "The target's questions", REFERENCE: "Other questions"}


def render(findings: Findings, provenance: str) -> str:
    """The findings as one HTML page.

    Args:
        findings: what the page shows.
        provenance: what it was made from, shown below the title.
    """
    from engram_interp.figures.html import to_html

    wmap = findings.wmap
    figures = [
        *_maps(wmap),
        ("How strong an edit", sentences.STRENGTH_NOTE, findings.choice.plot()),
        ("Is it an engram?", sentences.CRITERIA_NOTE, findings.criteria.plot()),
    ]
    return template("report", "report").render(
        title=f"The engram of {wmap.name or 'the target'} in {wmap.model}",
        provenance=provenance,
        lead=sentences.lead(findings),
        scores=findings.scores,
        partition=findings.partition and findings.partition.to_html(),
        criteria=findings.criteria.to_frame(),
        figures=[
            {"heading": heading, "note": note, "html": to_html(figure, index)}
            for index, (heading, note, figure) in enumerate(figures)
        ],
        answers=[{"heading": HEADINGS[side], "rows": rows} for side, rows in findings.answers.items()],
    )


def _maps(wmap: LocalizationMap) -> list[tuple[str, str, go.Figure]]:
    """The report's maps, each with its heading and its note."""
    by_norm = [
        ("W-Norm", sentences.WNORM_NOTE, wmap.plot("wnorm")),
        ("... against the sets compared with", sentences.EXCESS_NOTE, wmap.plot("excess")),
        ("... by what comes out of the matrix", sentences.FISHER_NOTE, wmap.plot("fisher_excess")),
    ]
    of_heads = ("Which heads", sentences.HEADS_NOTE, wmap.plot_heads(wmap.over_null))
    if wmap.null == SIBLINGS:
        return [("Where it sits", sentences.SCORE_NOTE, wmap.plot("score")), of_heads, *by_norm]
    return [*by_norm, of_heads]


def write_report(findings: Findings, provenance: str, path: str | Path) -> None:
    """Writes the page of `render`.

    Raises:
        OSError: if the file cannot be written. A file that was there before is then unchanged.
    """
    page = render(findings, provenance)
    with replacing(path) as aside:
        aside.write_text(page, encoding="utf-8")


def map_page(wmap: LocalizationMap, by: str, provenance: str) -> str:
    """A map as one HTML page: a sentence, a table, and figures of its main quantity; those of others are folded.

    Args:
        wmap: the map.
        by: the quantity that the table is sorted by.
        provenance: what the map was made from, shown below the title.
    """
    drawn = sorted((name for name in DRAWN if name in wmap.quantities), key=lambda name: name != wmap.main)
    main, *others = (_of_quantity(wmap, quantity) for quantity in drawn)
    first = by, MAP_QUANTITIES[by].beside("p_value")
    shown = [name for name in dict.fromkeys((*first, *TABLED, *P_VALUES)) if name in wmap.quantities]
    title = f"Where {wmap.name or 'the target'} sits in {wmap.model}"
    table = wmap.top(N_ROWS, by)[["key", *shown]]
    return _table_page(title, provenance, sentences.map_sentence(wmap), table, by, main, [*chain(*others)])


def _of_quantity(wmap: LocalizationMap, quantity: str) -> list[go.Figure]:
    """The maps of a quantity: of matrices, of heads, and of experts where there are some."""
    figures = [wmap.plot(quantity)]
    if any(name in ATTENTION for name in wmap.components):
        figures.append(wmap.plot_heads(quantity))
    if wmap.to_frame()["expert"].notna().any():
        figures.append(wmap.plot_experts(quantity))
    return figures


def diagnosis_page(found: Diagnosis, by: str, provenance: str) -> str:
    """A diagnosis as one HTML page: a sentence, a table, the map, and figures of the first four matrices.

    Args:
        found: the diagnosis, of matrices.
        by: the quantity that is mapped, and that the table is sorted by.
        provenance: what the diagnosis was made from, shown below the title.
    """
    frame = found.to_frame().sort_values(by, ascending=False)
    figures = [found.plot(by), *map(found.plot_matrix, frame["key"].head(4))]
    columns = list(dict.fromkeys(["key", by, *DIAGNOSIS_COLUMNS]))
    title = f"How far the engrams of {found.name or 'the target'} in {found.model} can be trusted"
    table = frame[columns].head(N_ROWS)
    return _table_page(title, provenance, sentences.diagnosis_sentence(found, by), table, by, figures)


def _table_page(
    title: str,
    provenance: str,
    sentence: str,
    table: pd.DataFrame,
    by: str,
    figures: Sequence[go.Figure],
    folded: Sequence[go.Figure] = (),
) -> str:
    from engram_interp.figures.html import to_html

    drawn = [to_html(figure, index) for index, figure in enumerate([*figures, *folded])]
    return template("report", "table").render(
        title=title,
        provenance=provenance,
        lead=sentence,
        table=table.to_html(index=False, float_format="{:.3g}".format, border=0),
        caption=f"The first matrices by {by}:",
        figures=drawn[: len(figures)],
        folded=drawn[len(figures) :],
    )
