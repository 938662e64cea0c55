"""What did the studies find? Their tables in Markdown, as the pages in docs/ show them."""

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from analyses.markdown import table
from analyses.results import Tables
from analyses.studies.filter_frontier import PAPER, SHOWN, SIZES
from analyses.studies.overlap import FAMILIES, rank_correlations, summary

FILTERS = {
    "power(1.5)": "`power(1.5)`",
    "power(2)": "`power(2)`",
    "power(3)": "`power(3)`",
    "over(n/N)": "**`over(n/N)`**",
    "hard(2 n/N)": "`hard(2 n/N)`",
    "UCE, ridge 1e3": "UCE's ridge, 1000",
}
WORLDS = {"testbed": "testbed", "gpt2": "GPT-2's architecture", "tofu": "TOFU's text"}


def of_localization(tables: Tables) -> str:
    """One row for each method: how well it found planted memories, with intervals over targets."""
    rows = []
    for row in tables["summary"].sort_values("auroc", ascending=False).to_dict("records"):
        shown = [_interval(row, name) for name in ("auroc", "first", "detected", "false_alarms", "decoy_alarms")]
        name = f"**{row['method']}**" if row["method"] == "score" else row["method"]
        rows.append([name, *shown, _number(row.get("before_any_alarm")), _number(row.get("ordinary_any_alarm"))])
    head = [
        "method",
        "AUROC",
        "first",
        "detected",
        "false alarms",
        "... in a decoy",
        "... if unknown",
        "... if ordinary",
    ]
    kept = [i for i in range(len(head)) if any(row[i] != "-" for row in rows)]
    return table([head[i] for i in kept], [[row[i] for i in kept] for row in rows])


def of_levels(tables: Tables) -> str:
    """For every method and level, how well it ranks what holds the memory."""
    found = _by(tables["summary"], "method", "level")
    levels = list(tables["summary"]["level"].unique())
    means = tables["summary"].groupby("method", sort=False)["auroc"].max().sort_values(ascending=False)
    rows = [[name, *(_interval(found.get((name, level), {}), "auroc") for level in levels)] for name in means.index]
    learnt = tables["cases"].groupby("level")["known"].mean()
    known = ["*known after planting*", *(f"{100 * learnt[level]:.0f} %" for level in levels)]
    return table(["AUROC", *levels], [*rows, known])


def of_calibration(tables: Tables) -> str:
    """How many ordinary targets have a star, by model and size of the target."""
    found = _by(tables["summary"], "world", "memories", "of")
    rows = []
    for world, memories in dict.fromkeys((world, memories) for world, memories, _ in found):
        mine = {of: found[world, memories, of] for of in ("matrices", "heads", "either")}
        stars = [f"{100 * mine[of]['any']:.1f} %" for of in mine]
        rows.append([WORLDS[world], str(memories), str(mine["matrices"]["targets"]), *stars])
    return table(["model", "memories in a target", "targets", "any matrix", "any head", "either"], rows)


def of_forgetting(tables: Tables) -> str:
    """For every place that was edited: what is left of the target, and what comes back."""
    found = _by(tables["summary"], "kind", "place")
    places = list(dict.fromkeys(tables["summary"]["place"]))
    kinds = {"planted": ("in_place", "left", "kept", "relearned"), "ordinary": ("left", "kept", "relearned")}
    names = {"in_place": "of the place", "left": "left", "kept": "others keep", "relearned": "after relearning"}
    head = ["edited", *(f"{kind}: {names[one]}" for kind, shown in kinds.items() for one in shown)]
    rows = [
        [place, *(_percent(found.get((kind, place), {}).get(one)) for kind, shown in kinds.items() for one in shown)]
        for place in places
    ]
    return table(head, rows)


def of_deletion(tables: Tables) -> str:
    """What is left of a memory, and of others, without the neurons that each method ranks first."""
    found = _by(tables["summary"], "method", "share")
    shares = list(dict.fromkeys(tables["summary"]["share"]))
    head = ["neurons by", *(f"{100 * share:g} %: {of}" for share in shares for of in ("left", "others keep"))]
    rows = [
        [name, *(_percent(found[name, share][of]) for share in shares for of in ("left", "kept"))]
        for name in dict.fromkeys(tables["summary"]["method"])
    ]
    return table(head, rows)


def _percent(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{100 * value:.0f} %"


def _interval(row: Mapping[Any, Any], name: str) -> str:
    value, low, high = (row.get(key, math.nan) for key in (name, f"{name}_low", f"{name}_high"))
    if math.isnan(value):
        return "-"
    return f"{value:.2f}" if low == high or math.isnan(low) else f"{value:.2f} [{max(low, 0):.2f}, {min(high, 1):.2f}]"


def _number(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.2f}"


def of_filters(tables: Tables) -> str:
    """What the paper's filter leaves of the target, and by how much every other one differs from it, in points."""
    found = _by(tables["summary"], "method", "size", "keep")
    head = ["", *(f"{size} author{'s' if size > 1 else ''}" for size in SIZES)]
    paper = [f"{100 * found[PAPER, size, SHOWN]['left']:.1f} %" for size in SIZES]
    rows = [[label, *(_points(found[name, size, SHOWN]) for size in SIZES)] for name, label in FILTERS.items()]
    return table(head, [["`soft`: the paper's, left of the target", *paper], *rows])


def _points(row: Mapping[Any, Any]) -> str:
    value, low, high = (f"{100 * row[name]:.1f}" for name in ("difference", "low", "high"))
    return f"{value} [{low}, {high}]"


def of_overlap(tables: Tables) -> str:
    """What related and unrelated concepts share, and what ablating one of them costs the other."""
    pairs = tables["pairs"]
    found = _by(summary(pairs), "family", "scored")
    rows = []
    for family, label in FAMILIES.items():
        for scored, name in (("related", "related"), ("other", "others")):
            one = found[family, scored]
            itself = f"{found[family, 'itself']['accuracy_lost']:.1%}" if scored == "related" else ""
            rows.append(
                [
                    f"{label}, {name}", f"{one['pairs']:.0f}", f"{one['overlap']:.3f}", f"{one['over_chance']:.2f}",
                    f"{one['mean_angle']:.0f}°", f"{one['accuracy_lost']:.1%}", itself,
                ]
            )  # fmt: skip
    head = ["concepts", "pairs", "overlap", "over chance", "mean principal angle", "answers lost", "ablated itself"]
    costs = {"accuracy_lost": "answers lost", "loss_gained": "loss gained"}
    correlations = [
        [label, *(f"{one:.2f}" for one in rank_correlations(pairs[pairs["family"] == family]).values())]
        for family, label in FAMILIES.items()
    ]
    of = table(["rank correlation of overlap with", *costs.values()], correlations)
    return f"{table(head, rows)}\n\n{of}"


def of_authors(tables: Tables) -> str:
    """Engrams of authors that an SAE feature found, beside those of labelled authors."""
    authors = tables["authors"]
    mean, share, n = authors.mean(numeric_only=True), authors["share_of_forgetting"], len(authors)
    lost = [f"{mean[f'{one}_target_lost']:.1%}" for one in ("own", "sae")]
    at_12 = [
        f"{mean[f'{one}_target_lost_at_12']:.1%}; {mean[f'{one}_reference_lost_at_12']:.1%}" for one in ("own", "sae")
    ]
    rows = [
        [f"the author's answers lost where 98 % of 600 others stay, mean of {n}", *lost],
        ["authors for whom that is at least 80 % of the labelled engram's", "",
         f"{(share >= 0.8).sum()} of {n} (median {share.median():.0%})"],
        ["the author's answers lost at alpha = 12; the others'", *at_12],
        ["the author's examples that are in the target; the target's that are the author's", "",
         f"{mean['recall']:.0%}; {mean['precision']:.0%}"],
        [f"cosine with the labelled engram, median matrix, mean of {n}", "", f"{mean['cosine_median']:.2f}"],
        [f"rank correlation of the W-Norm maps over 29 matrices, mean of {n}", "", f"{mean['map_correlation']:.2f}"],
    ]  # fmt: skip
    return table(["", "labelled", "by an SAE feature"], rows)


def _by(rows: pd.DataFrame, *columns: str) -> dict[tuple[Any, ...], dict[Any, Any]]:
    """The rows of a table by the values of these columns."""
    return {tuple(row[name] for name in columns): row for row in rows.to_dict("records")}
