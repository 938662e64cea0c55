"""Table 8: which layer types carry the memory? `python analyses/table_8_layer_types.py`, 8 min on one thread.

The paper's four subsets of the target's engram, each at the paper's strength (each matrix's W-Norm over the largest)
and at the uniform strength of its highest Overall on a fourth of the questions; the table is of the other three.
"""

from functools import partial

import plotly.graph_objects as go
from methods import STRENGTHS, Candidate, Edited, compare, compared, text
from setting import Setting, Tables, command

import engram_interp as ei
from engram_interp.effects.ablation import Only
from engram_interp.engrams.engram import Alpha


def without(setting: Setting, subset: Only, alpha: Alpha) -> Edited:
    """The model without a part of the target's engram; a strength by W-Norm is over all of its matrices."""
    engram = setting.engram()
    part, strengths = subset.of(engram), engram.alphas(alpha)
    return part.ablated(setting.model, {key: strengths[key] for key in part.weight_norms})


def candidates() -> list[Candidate]:
    return [
        Candidate(f"{name}, {kind}", {"alpha": alpha}, partial(without, subset=subset, alpha=alpha))
        for name, subset in ei.PAPER.items()
        for kind, alphas in (("alpha by W-Norm", ("w-norm",)), ("alpha searched", STRENGTHS))
        for alpha in alphas
    ]


def measure(setting: Setting) -> Tables:
    """Every subset at every strength, and its best."""
    return compare(setting, candidates())


def figure(tables: Tables) -> go.Figure:
    return compared(tables, "Forgetting the forget set by parts of its engram")


main = command(__file__, measure, text, figure)

if __name__ == "__main__":
    main()
