"""The README's tables of unlearning, from the committed results: `python analyses/readme.py` writes them anew.

Each stands between `<!-- name -->` and `<!-- end -->`, beside the paper's numbers where there are such.
"""

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click
import pandas as pd
import results
from figure_18_combinations import by_kind
from figure_frontier import frontier
from methods import options_of
from setting import Tables

from engram_interp.unlearning.metrics import harmonic_mean

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
PARTS = ("memorization", "utility", "privacy_against_retain")
"""Of Overall by App. E.2.4."""
COLUMNS = {"overall": "Overall", "memorization": "Mem.", "utility": "Util.", "privacy": "Priv.", "em": "EM ↓"}
"""What the paper has of every method, and we beside it."""
FAILED = 5e-4
"""Overall below this is 0 in the tables: every setting failed, and the best of them was chosen by nothing."""

PAPER_3 = {
    "full": (0.000, 0.000, 1.000, 0.004, 1.000),
    "retain": (0.998, 1.000, 0.993, 1.000, 0.000),
    "GradDiff": (0.227, 0.185, 0.993, 0.147, 0.718),
    "IdkNLL": (0.146, 0.455, 0.910, 0.058, 0.621),
    "UNDIAL": (0.413, 0.564, 0.916, 0.227, 0.740),
    "RMU": (0.757, 0.866, 0.747, 0.680, 0.295),
    "AltPO": (0.955, 0.925, 0.986, 0.955, 0.095),
    "NPO": (0.944, 0.934, 0.950, 0.948, 0.095),
    "SimNPO": (0.945, 0.944, 0.971, 0.923, 0.104),
    "IdkDPO": (0.889, 0.953, 0.966, 0.775, 0.116),
    "Task Arithmetic": (0.584, 0.900, 0.678, 0.392, 0.128),
    "UCE": (0.659, 0.901, 0.951, 0.418, 0.135),
    "Engram, uniform alpha": (0.698, 0.918, 0.880, 0.483, 0.007),
    "Engram, alpha by W-Norm": (0.818, 0.963, 0.926, 0.645, 0.028),
}
PAPER_8 = {
    "all linear projections, alpha by W-Norm": (0.819, 0.963, 0.926, 0.645, 0.028),
    "Q/K only, alpha by W-Norm": (0.510, 0.715, 0.590, 0.359, 0.554),
    "Q/K + gate, alpha by W-Norm": (0.819, 0.930, 0.928, 0.661, 0.076),
    "no Q/K/gate, alpha by W-Norm": (0.238, 0.663, 0.968, 0.099, 0.505),
}
PAPER_9 = {
    "naive delta, alpha by W-Norm": (0.446, None, None, None, 0.617),
    "tabula rasa, alpha by W-Norm": (0.818, 0.963, 0.926, 0.645, 0.028),
}
"""Kwon et al. 2026, Tables 3, 4, 8 and 9: Overall, Memorization, Utility, Privacy, EM."""


def compared(
    tables: Tables, paper: Mapping[str, tuple[float | None, ...]], methods: Container[str] | None = None
) -> str:
    """A row a method, or one of those named: how it was set, ours with the interval of Overall, and the paper's.

    Raises:
        ValueError: results that differ in what they share, as those of other models do.
    """
    scores = tables["scores"].drop_duplicates().set_index(["method", "score"])
    if not scores.index.is_unique:
        raise ValueError("a method has two scores of a kind: these results are not of the same models and questions")
    tried, options = tables["tried"], options_of(tables)
    rows = []
    for method in scores.index.get_level_values("method").unique():
        if methods is not None and method not in methods:
            continue
        mine = scores.loc[method]
        overall = mine.loc["overall"]
        published = paper.get(method, (None,) * len(COLUMNS))
        is_set = overall["value"] >= FAILED and method in options
        rows.append(
            [
                str(method),
                set_to(options[method], list(tried.loc[tried["method"] == method, "options"])) if is_set else "",
                f"{overall['value']:.3f} [{overall['low']:.3f}, {overall['high']:.3f}]",
                f"{harmonic_mean(mine['value'][[*PARTS]]):.3f}",
                *(f"{mine.loc[score, 'value']:.3f}" for score in list(COLUMNS)[1:]),
                *("" if value is None else f"{value:.3f}" for value in published),
            ]
        )
    theirs = [f"paper: {label}" for label in COLUMNS.values()]
    head = ["method", "set to", "Overall (95 %)", "by E.2.4", *list(COLUMNS.values())[1:], *theirs]
    return table(head, rows)


def set_to(options: Mapping[str, float | str], tried: Sequence[Mapping[str, float | str]]) -> str:
    """Hyperparameters, with a star at the end of three or more; those that a method's name says are left out."""
    names = {"learning_rate": "rate", "ridge": "lambda"}
    told = []
    for name, value in options.items():
        if isinstance(value, str):
            continue
        values = sorted({float(one[name]) for one in tried})
        star = "\\*" if len(values) > 2 and value in (values[0], values[-1]) else ""
        told.append(f"{names.get(name, name)} {value:g}{star}")
    return ", ".join(told)


def of_costs(tables: Tables) -> str:
    """A row a method: what it takes, and what for."""
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
    """What the forgotten ones, the other ones of the five and everybody else keep."""
    found = by_kind(tables)
    rows = [[str(name), f"{row['count']:.0f}", *(f"{row[one]:.1%}" for one in ("mean", "min", "max"))]
            for name, row in found.iterrows()]  # fmt: skip
    return table(["answer tokens kept", "set and author", "mean", "least", "most"], rows)


def table(head: list[str], rows: list[list[str]]) -> str:
    """Markdown."""
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


@dataclass(frozen=True)
class Block:
    """A table of the README: how it is made, and of which results."""

    make: Callable[[Tables], str]
    files: tuple[str, ...]

    def text(self) -> str:
        """The table, and what its results were made by."""
        read = [results.read(HERE / f"{name}.json") for name in self.files]
        names = dict.fromkeys(name for tables in read for name in tables)
        tables = {name: pd.concat([one[name] for one in read if name in one], ignore_index=True) for name in names}
        return f"{self.make(tables)}\n\n{' '.join(source(name) for name in self.files)}"


BLOCKS = {
    "table_3": Block(partial(compared, paper=PAPER_3, methods=PAPER_3), ("table_3_methods",)),
    "table_4": Block(partial(compared, paper=PAPER_3), ("table_4_closed_form",)),
    "table_7": Block(of_costs, ("table_7_cost", "table_3_methods")),
    "table_8": Block(partial(compared, paper=PAPER_8), ("table_8_layer_types",)),
    "table_9": Block(partial(compared, paper=PAPER_9), ("table_9_instantiation",)),
    "figure_18": Block(of_combinations, ("figure_18_combinations",)),
    "tofu": Block(
        partial(compared, paper=PAPER_3), ("tofu_closed_form", "tofu_filters", "tofu_naive_delta", "tofu_gradient")
    ),
}


def source(name: str) -> str:
    """What a file was made by, where, and in what time."""
    made = results.made_with(HERE / f"{name}.json")
    seconds = made["seconds"]
    time = f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"
    return f"`{name}.json`: `{made['script']}`, {time} ({made['machine']})."


def rendered(text: str) -> str:
    """The README with its tables as the results have them."""
    for name, block in BLOCKS.items():
        before, start, rest = text.partition(f"<!-- {name} -->")
        if start:
            _, end, after = rest.partition("<!-- end -->")
            text = f"{before}{start}\n\n{block.text()}\n\n{end}{after}"
    return text


@click.command()
def main() -> None:
    """Write the README's tables anew."""
    README.write_text(rendered(README.read_text()))


if __name__ == "__main__":
    main()
