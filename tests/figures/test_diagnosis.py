import pandas as pd
import torch

from engram_interp.figures.diagnosis import DIMENSIONS, SHAPE, diagnosis_panels

CUTS = pd.DataFrame({"rtol": [1e-6, 1e-3], **{name: [1.0, 2.0] for name in (*DIMENSIONS, *SHAPE)}})


def drawn(wnorms=None):
    return diagnosis_panels(torch.tensor([0.0, 1.0, 4.0]), torch.tensor([0.1, 0.7]), 0.25, 1e-4, CUTS, wnorms, "t")


def test_spectra_begin_with_the_largest_and_show_what_the_cut_drops():
    figure = drawn()
    traces = {trace.name: trace for trace in figure.data}
    assert list(traces["λ / λ max"].y) == [1.0, 0.25, 0.0]
    assert torch.tensor(traces["share"].y).tolist() == torch.tensor([0.7, 0.1]).tolist()
    assert set(traces["n/N = 0.25: a target with nothing of its own"].y) == {0.25}
    assert any(note.text == "cut: 1 dropped" for note in figure.layout.annotations)


def test_every_property_is_a_line_and_so_is_the_wnorm_where_there_is_one():
    labels = {label for label, _ in [*DIMENSIONS.values(), *SHAPE.values()]}
    assert labels < {trace.name for trace in drawn().data}
    wnorm = {trace.name: trace for trace in drawn(pd.DataFrame({"rtol": [1e-6, 1e-3], "wnorm": [0.3, 0.2]})).data}
    assert list(wnorm["W-Norm"].y) == [0.3, 0.2]
    assert len(wnorm) == len(drawn().data) + 1
