"""Tables 3 and 6: every method, every metric. `python analyses/table_3_methods.py`, 45 min on two cores.

Each method's hyperparameters are those of the highest Overall on a fourth of the questions; the table is of the other
three.
"""

import plotly.graph_objects as go
from methods import asked, best, closed_form, compared, gradient, judged, options_of, reported, wide
from setting import Setting, Tables, command


def measure(setting: Setting) -> Tables:
    """Candidates, and of each method the best."""
    candidates = asked(setting, closed_form() + gradient())
    tried = judged(setting, candidates)
    return {"tried": tried.round(5), "scores": reported(setting, best(candidates, tried)).round(5)}


def text(tables: Tables) -> str:
    return wide(tables).join(options_of(tables)).to_string(float_format="{:.3f}".format)


def figure(tables: Tables) -> go.Figure:
    return compared(tables, "Forgetting forget10: every method at its best")


main = command(__file__, measure, text, figure)

if __name__ == "__main__":
    main()
