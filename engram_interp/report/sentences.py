"""What do the numbers say in words? The sentences and the notes of the pages."""

from __future__ import annotations

from engram_interp.maps.compared_with import SIBLINGS
from engram_interp.maps.diagnosis import DIAGNOSED, Diagnosis
from engram_interp.maps.localization_map import SIGNIFICANT, LocalizationMap
from engram_interp.report.findings import Findings

SCORE_NOTE = (
    "How much more of the target's own directions a matrix lets through, and how much more of the target lies there, "
    "than for other whole memories: in standard deviations. A star marks a matrix that stands out among these, and "
    "among the other matrices. By chance, one in twenty targets that are like all others has some."
)
WNORM_NOTE = (
    "W-Norm: the share of each weight matrix that the target's inputs own. A star marks a share that the sets compared "
    "with do not reach."
)
EXCESS_NOTE = (
    "W-Norm divided by what the sets compared with own on average. 1 means that the target has nothing of its own: any "
    "of these sets would show most of what the map of the W-Norm shows."
)
FISHER_NOTE = (
    "The target's share of each matrix's output, divided by that of the sets compared with. It does not depend on how "
    "the inputs are scaled."
)
HEADS_NOTE = "The same for single heads. K and V are shown by key/value head."
STRENGTH_NOTE = (
    "W - alpha W+ for growing alpha: the strongest edit that keeps enough of the examples that were held out when its "
    "projector was fitted."
)
CRITERIA_NOTE = (
    "How far each condition is missed; 0 means that it is met. Null state: zeros replace the engram's matrices. "
    "Injected: only the engram replaces them."
)


def map_sentence(wmap: LocalizationMap) -> str:
    """What a map says, in two sentences: where the target owns most over its null, and where by norm alone."""
    return f"{_over_null(wmap)} {_by_norm(wmap)}"


def _over_null(wmap: LocalizationMap) -> str:
    if wmap.null == SIBLINGS:
        return _over_siblings(wmap)
    frame = wmap.to_frame().sort_values("fisher_excess", ascending=False)
    first = frame.iloc[0]
    if "fisher_p_value" not in frame:
        return (
            f"Compared with a target that has nothing of its own, the target owns most in {first['key']}: "
            f"{first['fisher_excess']:.2f} times its share of the output. The formula does not include noise, by which "
            f"a small target exceeds it everywhere. Random sets of examples (the resampled null) show by how much."
        )
    significant = frame[frame["fisher_p_value"] <= SIGNIFICANT]
    if significant.empty:
        return (
            f"In none of {len(frame)} matrices does the target own more than random sets of equal size do (family-wise "
            f"p ≤ {SIGNIFICANT:g}); it comes nearest in {first['key']}, with {first['fisher_excess']:.2f} times their "
            f"share of its output."
        )
    first = significant.iloc[0]
    return (
        f"The target owns more than random sets of equal size do in {len(significant)} of {len(frame)} matrices "
        f"(family-wise p ≤ {SIGNIFICANT:g}), most of all in {first['key']}: {first['fisher_excess']:.2f} times their "
        f"share of its output."
    )


def _over_siblings(wmap: LocalizationMap) -> str:
    frame = wmap.top(len(wmap))
    first, found = frame.iloc[0], frame[frame["score_p_value"] <= SIGNIFICANT]
    if found.empty:
        return (
            f"Compared with {wmap.memories}, the target stands out in none of {len(frame)} matrices (p ≤ "
            f"{SIGNIFICANT:g}); it comes nearest in {first['key']}, with a score of {first['score']:.1f}. "
            f"{_relied_on(wmap)}"
        )
    first = found.iloc[0]
    return (
        f"Compared with {wmap.memories}, the target stands out in {len(found)} of {len(frame)} matrices (p ≤ "
        f"{SIGNIFICANT:g}), most of all in {first['key']}, with a score of {first['score']:.1f} standard deviations. "
        f"One ordinary memory in {1 / SIGNIFICANT:.0f} does so by chance. {_relied_on(wmap)}"
    ).rstrip()


def _relied_on(wmap: LocalizationMap) -> str:
    """What a backward pass says; without one, that it sees what a score may miss, if nothing has a star."""
    if "reliance" not in wmap.quantities:
        is_found = bool((wmap.to_frame()["score_p_value"] <= SIGNIFICANT).any())
        return "" if is_found else "A memory may be too small a part of its matrices to be seen so: try the gradient."
    frame = wmap.top(len(wmap), by="reliance")
    found = frame[frame["reliance_p_value"] <= SIGNIFICANT]
    if found.empty:
        return f"Its answers rely on none of {len(frame)} matrices more than those of others do."
    first = found.iloc[0]
    return (
        f"Its answers rely on {len(found)} of {len(frame)} matrices more than those of others do, most of all on "
        f"{first['key']}, by {first['reliance']:.1f} standard deviations."
    )


def _by_norm(wmap: LocalizationMap) -> str:
    first = wmap.top(1, by="wnorm").iloc[0]
    if first["wnorm"] <= 1:
        return f"By norm alone the first is {first['key']}, with {first['wnorm']:.1%} of the matrix's norm."
    return (
        f"By norm alone the first is {first['key']}, where the engram is {first['wnorm']:.2f} times as large as the "
        f"matrix itself: its projector is oblique, so a share of the norm means little there (see diagnose)."
    )


def diagnosis_sentence(found: Diagnosis, by: str) -> str:
    """Which matrix is first in a quantity of a diagnosis, and how far it is from the median.

    Args:
        found: the diagnosis, of matrices.
        by: the quantity.
    """
    frame = found.to_frame().sort_values(by, ascending=False)
    first = frame.iloc[0]
    return (
        f"{first['key']} is first by {by} ({DIAGNOSED[by]}): {first[by]:.3g}. The median of {len(frame)} matrices is "
        f"{frame[by].median():.3g}."
    )


def lead(findings: Findings) -> str:
    """What a report says first: where the memory sits, and how much of the answers an edit removes."""
    (before, after, *gold), (kept_before, kept_after, *_) = findings.scores.to_numpy().tolist()
    gold_text = f" (a model that never saw it: {gold[0]:.1%})" if gold else ""
    return (
        f"{map_sentence(findings.wmap)} Ablated at alpha = {findings.choice.alpha:.3g}, the model gets {after:.1%} of "
        f"the target's answer tokens right instead of {before:.1%}{gold_text}, and {kept_after:.1%} of everything else "
        f"instead of {kept_before:.1%}."
    )
