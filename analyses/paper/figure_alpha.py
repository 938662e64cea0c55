"""The slider: what does one engram do at every strength, from amplified to gone?

`W - alpha W+` of the forget set, for alpha from -2 to 8 (Eq. 8): right answers and their loss on the forget set, on
what is kept, and on what no model saw. `python -m analyses.paper.figure_alpha`, 1 min.
"""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

import engram_interp as ei
from analyses.results import Tables
from analyses.setting import Setting, command
from engram_interp.figures.style import MATRIX_COLOUR, REFERENCE_COLOUR, TARGET_COLOUR, TEMPLATE

ALPHAS = (-2.0, -1.5, -1.0, -0.5, 0.0, 0.3, 0.6, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 8.0)
COLOURS = {"forget": TARGET_COLOUR, "retain": REFERENCE_COLOUR, "holdout": MATRIX_COLOUR}
MEASURES = {"accuracy": "answer tokens right (%)", "loss": "loss (nats a token)"}


def measure(setting: Setting) -> Tables:
    """One row for each strength and part of the benchmark."""
    parts = {part: [qa.example for qa in some] for part, some in setting.benchmark.parts.items() if part in COLOURS}
    rows = []
    with setting.engram().editing(setting.model) as ablate:
        for alpha in ALPHAS:
            ablate(alpha)
            found = ei.score(setting.model, {part: some for part, some in parts.items() if some}, progress=False)
            rows += [
                {"alpha": alpha, "part": part, "accuracy": score.accuracy, "loss": score.loss}
                for part, score in found.items()
            ]
    return {"curve": pd.DataFrame(rows).round(5)}


def text(tables: Tables) -> str:
    return tables["curve"].pivot(index="alpha", columns="part").to_string(float_format="{:.3f}".format)


def figure(tables: Tables) -> go.Figure:
    curve = tables["curve"]
    plot = make_subplots(rows=1, cols=2, horizontal_spacing=0.1)
    for column, (name, label) in enumerate(MEASURES.items(), 1):
        for part, mine in curve.groupby("part", sort=False):
            values = 100 * mine[name] if name == "accuracy" else mine[name]
            plot.add_trace(
                go.Scatter(
                    x=mine["alpha"], y=np.asarray(values), name=str(part), mode="lines+markers",
                    line={"color": COLOURS[str(part)]}, showlegend=column == 1,
                ), 1, column,
            )  # fmt: skip
        plot.update_xaxes(title_text="alpha (the engram taken away; below 0, added)", row=1, col=column)
        plot.update_yaxes(title_text=label, row=1, col=column)
    title = "The slider: the forget set's engram, from amplified to gone"
    return plot.update_layout(title=title, template=TEMPLATE, height=480, width=1100)


main = command(__file__, measure, text, figure)

if __name__ == "__main__":
    main()
