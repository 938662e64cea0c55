"""Table 8: which layer types carry the memory?

The paper's four subsets of the target's engram are ablated at two strengths: the paper's (each matrix's W-Norm over the
largest), and the uniform one with the highest Overall on a fourth of the questions. The table reports the others.
`python -m analyses.paper.table_8_layer_types`, 8 min on one thread.
"""

from collections.abc import Mapping, Sequence
from functools import partial

import plotly.graph_objects as go

import engram_interp as ei
from analyses.paper.methods import STRENGTHS, Candidate, Edited, compare, compared, text
from analyses.results import Tables
from analyses.setting import Setting, command
from engram_interp.effects.ablation import Only
from engram_interp.engrams.strengths import Alpha


def without(setting: Setting, subset: Only, alpha: Alpha) -> Edited:
    """The model without a part of the target's engram. Strengths by W-Norm relate to all of its matrices."""
    engram = setting.engram()
    part, strengths = subset.of(engram), engram.alphas(alpha)
    return part.ablated(setting.model, {key: strengths[key] for key in part.weight_norms})


def candidates(subsets: Mapping[str, Only] = ei.PAPER, strengths: Sequence[float] = STRENGTHS) -> list[Candidate]:
    """Each subset at the paper's strength, and at every uniform one."""
    kinds: dict[str, Sequence[Alpha]] = {"alpha by W-Norm": ("w-norm",), "alpha searched": strengths}
    return [
        Candidate(f"{name}, {kind}", {"alpha": alpha}, partial(without, subset=subset, alpha=alpha))
        for name, subset in subsets.items()
        for kind, alphas in kinds.items()
        for alpha in alphas
    ]


def measure(setting: Setting) -> Tables:
    """Scores of every subset at every strength, and of its best."""
    return compare(setting, candidates())


def figure(tables: Tables) -> go.Figure:
    return compared(tables, "Forgetting the forget set by parts of its engram")


main = command(__file__, measure, text, figure)

if __name__ == "__main__":
    main()
