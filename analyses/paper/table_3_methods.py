"""Tables 3 and 6: how does every method score, on every metric?

Each method's hyperparameters are those with the highest Overall on a fourth of the questions. The table reports the
others. `python -m analyses.paper.table_3_methods`, 83 min on one thread.
"""

import plotly.graph_objects as go

from analyses.paper.methods import closed_form, compare, compared, gradient, text
from analyses.results import Tables
from analyses.setting import Setting, command


def measure(setting: Setting) -> Tables:
    """Scores of all candidates, and of each method's best."""
    return compare(setting, closed_form() + gradient())


def figure(tables: Tables) -> go.Figure:
    return compared(tables, "The forget set: every method at its best")


main = command(__file__, measure, text, figure)

if __name__ == "__main__":
    main()
