"""What does forgetting well cost?

Overall (`paper/table_3_methods.json`) against the seconds and operations of one run (`paper/table_7_cost.json`), for
all methods. `python -m analyses.studies.figure_frontier --plot frontier.html` draws it from these results, in seconds.
"""

from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from analyses import results
from analyses.baselines.unlearn import METHODS
from engram_interp.figures.style import CHOSEN_COLOUR, MATRIX_COLOUR, TARGET_COLOUR, TEMPLATE

PAPER = Path(__file__).parents[1] / "paper"
AXES = {"seconds": "seconds of one run", "flops": "floating-point operations of one run"}
LEAST, LINE = 0.05, 0.035
KINDS = {"gradient methods": MATRIX_COLOUR, "closed form": TARGET_COLOUR}


def frontier(scores: pd.DataFrame, costs: pd.DataFrame) -> pd.DataFrame:
    """One row for each method: its Overall with its interval, and its costs.

    Raises:
        ValueError: if a method has only one of the two.
    """
    overall = scores[scores["score"] == "overall"].set_index("method")[["value", "low", "high"]]
    overall, costs = overall.drop(["full", "retain"]), costs.set_index("method")
    if apart := sorted({*overall.index} ^ {*costs.index}):
        raise ValueError(f"make both tables of the same methods: {', '.join(apart)} has either no Overall or no cost")
    table = costs.join(overall)
    return table.assign(kind=["gradient methods" if name in METHODS else "closed form" for name in table.index])


def unbeaten(table: pd.DataFrame, cost: str) -> pd.DataFrame:
    """The methods that no cheaper or equally expensive method beats, from the cheapest on."""
    ordered = table.sort_values([cost, "value"], ascending=[True, False])
    return ordered[ordered["value"] > ordered["value"].cummax().shift(fill_value=-1.0)]


def spread(values: Sequence[float]) -> list[float]:
    """Heights for names, from the highest value down: at the value, or readably below the last name."""
    heights: list[float] = []
    for value in values:
        heights.append(min(value, heights[-1] - LINE) if heights else value)
    return heights


def figure(table: pd.DataFrame) -> go.Figure:
    """One panel for each cost. Methods that forget or keep next to nothing are named below."""
    failed = table.index[table["value"] < LEAST]
    plot = make_subplots(rows=1, cols=2, shared_yaxes=True, horizontal_spacing=0.04)
    for column, (cost, label) in enumerate(AXES.items(), 1):
        steps = unbeaten(table, cost)
        line = {"color": CHOSEN_COLOUR, "dash": "dot", "shape": "hv", "width": 1}
        plot.add_trace(
            go.Scatter(
                x=steps[cost], y=steps["value"], mode="lines", line=line, name="the best at that cost or less",
                showlegend=column == 1,
            ), 1, column,
        )  # fmt: skip
        named = table.drop(failed).sort_values("value", ascending=False)
        where = np.log10(named[cost].to_numpy(float))
        middle = (where.min() + where.max()) / 2
        for is_left in (True, False):
            mine = (where < middle) == is_left
            heights = spread(named.loc[mine, "value"].tolist())
            for name, at, height in zip(named.index[mine], where[mine], heights, strict=True):
                plot.add_annotation(
                    text=name, x=at, y=height, showarrow=False, font_size=10, xanchor="left" if is_left else "right",
                    xshift=9 if is_left else -9, row=1, col=column,
                )  # fmt: skip
        for kind, mine in table.groupby("kind"):
            colour = KINDS[str(kind)]
            plot.add_trace(
                go.Scatter(
                    x=mine[cost], y=mine["value"], mode="markers", name=str(kind), showlegend=column == 1,
                    hovertext=list(mine.index), marker={"size": 10, "color": colour},
                    error_y={
                        "type": "data", "symmetric": False, "array": mine["high"] - mine["value"],
                        "arrayminus": mine["value"] - mine["low"], "color": colour, "thickness": 1,
                    },
                ), 1, column,
            )  # fmt: skip
        plot.update_xaxes(title_text=label, type="log", row=1, col=column)
    plot.update_yaxes(title_text="Overall (1 is best)", range=[-0.05, 1.05], row=1, col=1)
    if len(failed):
        below = f"below {LEAST}: {'; '.join(failed)}"
        plot.add_annotation(text=below, xref="paper", yref="paper", x=0, y=-0.17, showarrow=False, font_size=10)
    title = "What forgetting well costs: Overall, with 95 % intervals, against one run's seconds and operations"
    return plot.update_layout(title=title, template=TEMPLATE, height=640, width=1300, margin={"b": 110})


@click.command()
@click.option("--scores", type=click.Path(exists=True, path_type=Path), default=PAPER / "table_3_methods.json")
@click.option("--costs", type=click.Path(exists=True, path_type=Path), default=PAPER / "table_7_cost.json")
@click.option("--plot", type=click.Path(path_type=Path), help="Where to draw it, as .html.")
def main(scores: Path, costs: Path, plot: Path | None) -> None:
    """Compare what methods reach with what they cost."""
    table = frontier(results.read(scores)["scores"], results.read(costs)["costs"])
    click.echo(table.sort_values("value", ascending=False).to_string(float_format="{:.3g}".format))
    if plot is not None:
        results.draw(plot, figure(table))


if __name__ == "__main__":
    main()
