"""What does forgetting well cost? `python analyses/figure_frontier.py --plot frontier.html`, from two tables' results.

Overall (`table_3_methods.json`) against seconds and operations of one run (`table_7_cost.json`), all methods.
"""

from pathlib import Path

import click
import pandas as pd
import plotly.graph_objects as go
import results
from baselines.unlearn import METHODS
from plotly.subplots import make_subplots

from engram_interp import plots

HERE = Path(__file__).parent
AXES = {"seconds": "seconds of one run", "flops": "floating-point operations of one run"}
KINDS = {"gradient methods": plots.MATRIX_COLOUR, "closed form": plots.TARGET_COLOUR}


def frontier(scores: pd.DataFrame, costs: pd.DataFrame) -> pd.DataFrame:
    """A row a method: its Overall with its interval, and its costs."""
    overall = scores[scores["score"] == "overall"].set_index("method")[["value", "low", "high"]]
    table = costs.set_index("method").join(overall, how="inner")
    return table.assign(kind=["gradient methods" if name in METHODS else "closed form" for name in table.index])


def figure(table: pd.DataFrame) -> go.Figure:
    plot = make_subplots(rows=1, cols=2, shared_yaxes=True, horizontal_spacing=0.04)
    for column, (cost, label) in enumerate(AXES.items(), 1):
        for kind, mine in table.groupby("kind"):
            colour = KINDS[str(kind)]
            plot.add_trace(
                go.Scatter(
                    x=mine[cost], y=mine["value"], text=list(mine.index), mode="markers+text", name=str(kind),
                    textposition="top center", textfont={"size": 10}, showlegend=column == 1,
                    marker={"size": 10, "color": colour},
                    error_y={
                        "type": "data", "symmetric": False, "array": mine["high"] - mine["value"],
                        "arrayminus": mine["value"] - mine["low"], "color": colour, "thickness": 1,
                    },
                ), 1, column,
            )  # fmt: skip
        plot.update_xaxes(title_text=label, type="log", row=1, col=column)
    plot.update_yaxes(title_text="Overall (1 is best)", range=[-0.05, 1.05], row=1, col=1)
    title = "What forgetting well costs: Overall, with 95 % intervals, against one run's seconds and operations"
    return plot.update_layout(title=title, template=plots.TEMPLATE, height=600, width=1300)


@click.command()
@click.option("--scores", type=click.Path(exists=True, path_type=Path), default=HERE / "table_3_methods.json")
@click.option("--costs", type=click.Path(exists=True, path_type=Path), default=HERE / "table_7_cost.json")
@click.option("--plot", type=click.Path(path_type=Path), help="Where to draw it, as .html.")
def main(scores: Path, costs: Path, plot: Path | None) -> None:
    """Put what methods reach beside what they take."""
    table = frontier(results.read(scores)["scores"], results.read(costs)["costs"])
    click.echo(table.sort_values("value", ascending=False).to_string(float_format="{:.3g}".format))
    if plot is not None:
        plot.write_text(f"<!doctype html><meta charset='utf-8'>{plots.to_html(figure(table), 0)}")


if __name__ == "__main__":
    main()
