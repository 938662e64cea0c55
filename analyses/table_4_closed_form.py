"""Table 4: closed-form edits, with the paper's sweeps and beyond. `python analyses/table_4_closed_form.py`, 12 min.

Hyperparameters are those of the highest Overall on a fourth of the questions; the table is of the other three.
"""

import plotly.graph_objects as go
from methods import closed_form, compare, compared, text
from setting import Setting, Tables, command


def measure(setting: Setting) -> Tables:
    """Candidates, and of each method the best."""
    return compare(setting, closed_form())


def figure(tables: Tables) -> go.Figure:
    return compared(tables, "Forgetting forget10 in closed form")


main = command(__file__, measure, text, figure)

if __name__ == "__main__":
    main()
