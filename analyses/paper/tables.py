"""How does the paper compare with what was found here? Its tables in Markdown, ours beside them."""

from collections.abc import Container, Mapping, Sequence
from typing import Any

import pandas as pd

from analyses.markdown import table
from analyses.paper.figure_18_combinations import by_kind
from analyses.paper.methods import options_of
from analyses.paper.published import Row
from analyses.results import Tables
from analyses.studies.figure_frontier import frontier
from engram_interp.unlearning.metrics import harmonic_mean

PARTS = ("memorization", "utility", "privacy_against_retain")
"""The parts of Overall by App. E.2.4."""
COLUMNS = {"overall": "Overall", "memorization": "Mem.", "utility": "Util.", "privacy": "Priv.", "em": "EM ↓"}
"""The scores that the paper has for every method, and that stand beside them."""
HEAD = ["method", "set to", "Overall (95 %)", "by E.2.4", *list(COLUMNS.values())[1:]]
FAILED = 5e-4
"""An Overall below this is 0 in the tables: every setting failed, and the choice among them means nothing."""
SHORT = {"learning_rate": "rate", "ridge": "lambda"}


def compared(tables: Tables, paper: Mapping[str, Row], methods: Container[str] | None = None) -> str:
    """One row for each method, or for each of `methods`: how it was set, its scores here, and those of the paper.

    Raises:
        ValueError: if the results disagree on what they share, as results of different models do.
    """
    if tables["scores"].drop_duplicates().duplicated(["method", "score"]).any():
        raise ValueError("a method has two scores of a kind: these results are not of the same models and questions")
    rows = [
        [name, *_ours(mine, _setting(name, tables)), *_published(paper.get(name))]
        for name, mine in _by_method(tables["scores"]).items()
        if methods is None or name in methods
    ]
    return table([*HEAD, *(f"paper: {label}" for label in COLUMNS.values())], rows)


def _by_method(scores: pd.DataFrame) -> dict[str, dict[str, dict[Any, Any]]]:
    """Rows by method and score."""
    found: dict[str, dict[str, dict[Any, Any]]] = {}
    for row in scores.to_dict("records"):
        found.setdefault(row["method"], {})[row["score"]] = row
    return found


def _ours(scores: Mapping[str, Mapping[Any, Any]], setting: str) -> list[str]:
    overall = scores["overall"]
    return [
        setting if overall["value"] >= FAILED else "",
        f"{overall['value']:.3f} [{overall['low']:.3f}, {overall['high']:.3f}]",
        f"{harmonic_mean([scores[part]['value'] for part in PARTS]):.3f}",
        *(f"{scores[score]['value']:.3f}" for score in list(COLUMNS)[1:]),
    ]


def _published(row: Row | None) -> list[str]:
    return ["" if value is None else f"{value:.3f}" for value in row or (None,) * len(COLUMNS)]


def _setting(method: str, tables: Tables) -> str:
    options, tried = options_of(tables), tables["tried"]
    if method not in options:
        return ""
    return set_to(options[method], list(tried.loc[tried["method"] == method, "options"]))


def set_to(options: Mapping[str, float | str], tried: Sequence[Mapping[str, Any]]) -> str:
    """Hyperparameters, with a star at either end of three or more values; leaves out what the method's name says."""
    return ", ".join(
        f"{SHORT.get(name, name)} {value:g}{_star(value, [one[name] for one in tried])}"
        for name, value in options.items()
        if not isinstance(value, str)
    )


def _star(value: float, tried: Sequence[Any]) -> str:
    values = sorted({float(one) for one in tried})
    return "\\*" if len(values) > 2 and value in (values[0], values[-1]) else ""


def of_costs(tables: Tables) -> str:
    """One row for each method: what a run takes, and the Overall that it reaches."""
    found = frontier(tables["scores"], tables["costs"])
    least = found["flops"].min()
    rows = [
        [
            str(name), f"{row['seconds']:.1f}", f"{row['flops'] / 1e12:.2f} ({row['flops'] / least:.1f} x)",
            f"{row['bytes'] / 2**20:.0f}", f"{row['value']:.3f}",
        ]
        for name, row in found.iterrows()
    ]  # fmt: skip
    return table(["one run of", "seconds", "TFLOP (x the least)", "peak MiB beyond the models", "Overall"], rows)


def of_combinations(tables: Tables) -> str:
    """What is kept of the forgotten authors, of the others of the five, and of everybody else."""
    rows = [
        [str(name), f"{row['count']:.0f}", *(f"{row[one]:.1%}" for one in ("mean", "min", "max"))]
        for name, row in by_kind(tables).iterrows()
    ]
    return table(["answer tokens kept", "set and author", "mean", "least", "most"], rows)
