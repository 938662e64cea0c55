"""Figure 9: where does the memory of the forget set sit?

The W-Norm of every matrix, as in the paper, and what random sets of as many examples own. `python -m
analyses.paper.figure_9_map`, 2 min.
"""

import pandas as pd
import plotly.graph_objects as go

import engram_interp as ei
from analyses.results import Tables
from analyses.setting import Setting, command
from engram_interp.figures.maps import matrix_map
from engram_interp.figures.scale import Scale
from engram_interp.models.components import COMPONENTS

SHOWN = "wnorm"
COLUMNS = ["key", "component", "layer", "wnorm", "excess", "p_value", "fisher", "fisher_excess", "fisher_p_value"]


def measure(setting: Setting) -> Tables:
    """One row for each matrix."""
    wmap = ei.localize(setting.model, setting.concept, null="resampled", draws=199, progress=False)
    matrices = wmap.to_frame()[COLUMNS].round(5)
    return {"matrices": matrices.astype(object).where(matrices.notna(), None)}


def by_component(tables: Tables) -> pd.DataFrame:
    """Means over layers, with the largest W-Norm first."""
    quantities = ["wnorm", "excess", "fisher", "fisher_excess"]
    return tables["matrices"].groupby("component")[quantities].mean().sort_values("wnorm", ascending=False)


def text(tables: Tables) -> str:
    return by_component(tables).to_string(float_format="{:.3f}".format)


def figure(tables: Tables) -> go.Figure:
    matrices = tables["matrices"].astype({"layer": "Int64"})
    n_layers = int(matrices["layer"].max()) + 1
    return matrix_map(matrices, SHOWN, COMPONENTS, n_layers, Scale("W-Norm"), "W-Norm of the forget set, by matrix")


main = command(__file__, measure, text, figure)

if __name__ == "__main__":
    main()
