"""Tables 3 and 6: every method, every metric. `python analyses/table_3_methods.py`, 83 min on one thread.

Each method's hyperparameters are those of the highest Overall on a fourth of the questions; the table is of the other
three.
"""

import plotly.graph_objects as go
from methods import closed_form, compare, compared, gradient, text
from setting import Setting, Tables, command


def measure(setting: Setting) -> Tables:
    """Candidates, and of each method the best."""
    return compare(setting, closed_form() + gradient())


def figure(tables: Tables) -> go.Figure:
    return compared(tables, "The forget set: every method at its best")


main = command(__file__, measure, text, figure)

if __name__ == "__main__":
    main()
