"""The README's tables of unlearning, from the committed results: `python analyses/readme.py` writes them anew.

Each stands between `<!-- name -->` and `<!-- end -->`, beside the paper's numbers where there are such.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import click
import results
from figure_18_combinations import OTHERS

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
COLUMNS = {"overall": "Overall", "memorization": "Mem.", "utility": "Util.", "privacy": "Priv.", "em": "EM ↓"}
OURS = {**COLUMNS, "pp": "PP ↓"}
"""What the paper has of every method, and what stands in our columns."""

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


def compared(name: str, paper: Mapping[str, tuple[float | None, ...]]) -> str:
    """A row a method: ours with the interval of Overall, and the paper's."""
    scores = results.read(HERE / f"{name}.json")["scores"].set_index(["method", "score"])
    rows = []
    for method in scores.index.get_level_values("method").unique():
        mine = scores.loc[method]
        overall = mine.loc["overall"]
        published = paper.get(method, (None,) * len(COLUMNS))
        rows.append(
            [
                str(method),
                f"{overall['value']:.3f} [{overall['low']:.3f}, {overall['high']:.3f}]",
                *(f"{mine.loc[score, 'value']:.3f}" for score in list(OURS)[1:]),
                *("" if value is None else f"{value:.3f}" for value in published),
            ]
        )
    theirs = [f"paper: {label}" for label in COLUMNS.values()]
    return table(["method", "Overall (95 %)", *list(OURS.values())[1:], *theirs], rows)


def of_combinations() -> str:
    """What the forgotten ones, the other ones of the five and everybody else keep."""
    states = results.read(HERE / "figure_18_combinations.json")["states"]
    kind = states["is_forgotten"].map({True: "forgotten", False: "the others of the five"})
    kind = kind.where(states["asked"] != OTHERS, OTHERS)
    found = states.groupby(kind)["kept"].agg(["count", "mean", "min", "max"])
    rows = [[str(name), f"{row['count']:.0f}", *(f"{row[one]:.1%}" for one in ("mean", "min", "max"))]
            for name, row in found.iterrows()]  # fmt: skip
    return table(["answer tokens kept", "states", "mean", "least", "most"], rows)


def table(head: list[str], rows: list[list[str]]) -> str:
    """Markdown."""
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


TABLES: dict[str, Callable[[], str]] = {
    "table_3_methods": lambda: compared("table_3_methods", PAPER_3),
    "table_8_layer_types": lambda: compared("table_8_layer_types", PAPER_8),
    "table_9_instantiation": lambda: compared("table_9_instantiation", PAPER_9),
    "figure_18_combinations": of_combinations,
}


def rendered(text: str) -> str:
    """The README with its tables as the results have them."""
    for name, make in TABLES.items():
        before, start, rest = text.partition(f"<!-- {name} -->")
        if start:
            _, end, after = rest.partition("<!-- end -->")
            text = f"{before}{start}\n\n{make()}\n\n{end}{after}"
    return text


@click.command()
def main() -> None:
    """Write the README's tables anew."""
    README.write_text(rendered(README.read_text()))


if __name__ == "__main__":
    main()
