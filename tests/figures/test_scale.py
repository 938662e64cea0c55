import torch

from engram_interp.figures.scale import Scale

RATIO = Scale("ratio", ratio=True)


def test_a_ratio_of_one_everywhere_has_a_scale_and_none_at_all_the_least_colour():
    assert RATIO.axis([1.0])["cmax"] == 1
    assert RATIO.colours(torch.tensor([0.0])).tolist() == [-6.0]
