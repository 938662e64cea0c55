"""Table 9: the engram of `W`, or of what fine-tuning changed?

Tabula rasa subtracts `W P+`, the naive delta `(W_ft - W_pt) P+`. Each is taken at two strengths: the paper's, and the
uniform one with the highest Overall on a fourth of the questions. The table reports the others. `python -m
analyses.paper.table_9_instantiation`, 4 min on one thread.
"""

import plotly.graph_objects as go

from analyses.paper.methods import STRENGTHS, ablating, compare, compared, naive_delta, searched, text
from analyses.results import Tables
from analyses.setting import Setting, command


def measure(setting: Setting) -> Tables:
    """Scores of both instantiations at every strength, and of the best."""
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
