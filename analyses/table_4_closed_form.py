"""Table 4: closed-form edits, with the paper's sweeps and beyond. `python analyses/table_4_closed_form.py`, 12 min.

Hyperparameters are those of the highest Overall on a fourth of the questions; the table is of the other three.
"""

import plotly.graph_objects as go
from methods import asked, best, closed_form, compared, judged, options_of, reported, wide
from setting import Setting, Tables, command


def measure(setting: Setting) -> Tables:
    """Candidates, and of each method the best."""
    candidates = asked(setting, closed_form())
    tried = judged(setting, candidates)
    return {"tried": tried.round(5), "scores": reported(setting, best(candidates, tried)).round(5)}


def text(tables: Tables) -> str:
    return wide(tables).join(options_of(tables)).to_string(float_format="{:.3f}".format)


def figure(tables: Tables) -> go.Figure:
    return compared(tables, "Forgetting forget10 in closed form")


main = command(__file__, measure, text, figure)

if __name__ == "__main__":
    main()
