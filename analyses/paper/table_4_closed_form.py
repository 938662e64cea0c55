"""Table 4: how do closed-form edits score, in the paper's sweeps and beyond?

Hyperparameters are those with the highest Overall on a fourth of the questions. The table reports the others. The
figure shows the choice: every method's scores at every setting. `python -m analyses.paper.table_4_closed_form`, 14 min
on one thread.
"""

from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from analyses.paper.methods import closed_form, compare, text
from analyses.results import Tables
from analyses.setting import Setting, command
from engram_interp.figures.style import CHOSEN_COLOUR, MATRIX_COLOUR, REFERENCE_COLOUR, TARGET_COLOUR, TEMPLATE

COLOURS = {
    "overall": CHOSEN_COLOUR, "memorization": TARGET_COLOUR, "utility": REFERENCE_COLOUR,
    "privacy": MATRIX_COLOUR,
}  # fmt: skip
N_COLUMNS = 4


def measure(setting: Setting) -> Tables:
    """Scores of all candidates, and of each method's best."""
    return compare(setting, closed_form())


def along(options: dict[str, Any]) -> tuple[str, float]:
    """The hyperparameter on a panel's axis, and its value. Strengths by W-Norm alone have scale 1."""
    if "scale" in options or options.get("alpha") == "w-norm":
        return "scale of the W-Norms", options.get("scale", 1.0)
    return ("alpha", options["alpha"]) if "alpha" in options else ("lambda", options["ridge"])


def panel(method: str, options: dict[str, Any]) -> str:
    return f"{method}: lambda = {options['ridge']:g}" if {"alpha", "ridge"} <= options.keys() else method


def figure(tables: Tables) -> go.Figure:
    """One panel for each method (and each lambda, if the strength is searched too): scores by setting."""
    tried = tables["tried"]
    names = [panel(*one) for one in zip(tried["method"], tried["options"], strict=True)]
    axes, settings = zip(*map(along, tried["options"]), strict=True)
    tried = tried.assign(axis=axes, setting=settings)
    panels = dict(list(tried.groupby(names, sort=False)))
    n_rows = -(-len(panels) // N_COLUMNS)
    plot = make_subplots(
        rows=n_rows, cols=N_COLUMNS, shared_yaxes=True, subplot_titles=list(panels), horizontal_spacing=0.02,
        vertical_spacing=0.45 / n_rows,
    )  # fmt: skip
    for i, mine in enumerate(panels.values()):
        where: dict[str, Any] = {"row": 1 + i // N_COLUMNS, "col": 1 + i % N_COLUMNS}
        for score, colour in COLOURS.items():
            line = {"color": colour, "width": 3 if score == "overall" else 1}
            plot.add_trace(
                go.Scatter(
                    x=mine["setting"], y=mine[score], name=score.capitalize(), mode="lines+markers",
                    line=line, marker={"size": 4}, showlegend=i == 0,
                ), **where,
            )  # fmt: skip
        plot.update_xaxes(title_text=mine["axis"].iloc[0], **where)
    plot.update_yaxes(range=[-0.03, 1.03])
    plot.update_annotations(font_size=11)
    plot.update_yaxes(title_text="score (1 is best)", col=1)
    title = "Forgetting the forget set in closed form: scores on the questions that settings are chosen by"
    return plot.update_layout(title=title, template=TEMPLATE, height=120 + 260 * n_rows, width=1300)


main = command(__file__, measure, text, figure)

if __name__ == "__main__":
    main()
