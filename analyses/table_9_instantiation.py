"""Table 9: the engram of `W`, or of what fine-tuning changed? `python analyses/table_9_instantiation.py`, 4 min.

Tabula rasa takes `W P+` away, the naive delta `(W_ft - W_pt) P+`. Both at the paper's strength, and at the uniform one
of the highest Overall on a fourth of the questions; the table is of the other three.
"""

import plotly.graph_objects as go
from methods import STRENGTHS, ablating, compare, compared, naive_delta, searched, text
from setting import Setting, Tables, command


def measure(setting: Setting) -> Tables:
    """Both instantiations at every strength, and the best."""
    candidates = [
        one
        for name, make in {"naive delta": naive_delta, "tabula rasa": ablating}.items()
        for one in (
            *searched(f"{name}, alpha by W-Norm", make, alpha=("w-norm",)),
            *searched(f"{name}, alpha searched", make, alpha=STRENGTHS),
        )
    ]
    return compare(setting, candidates)


def figure(tables: Tables) -> go.Figure:
    return compared(tables, "Forgetting the forget set by the engram of the weights, and of what fine-tuning changed")


main = command(__file__, measure, text, figure)

if __name__ == "__main__":
    main()
