import torch

from analyses.studies.localization.calibration import starred
from engram_interp.maps.scores import score_p_values


def test_each_set_is_the_target_once():
    scores = torch.randn(60, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    scores[7, 3] = 9.0
    found = starred(scores)
    order = [7, *(i for i in range(60) if i != 7)]
    assert torch.equal(found[7], score_p_values(scores[order]) <= 0.05)
    assert found[7].nonzero().flatten().tolist() == [3]


def test_sets_alike_are_starred_once_in_twenty():
    scores = torch.randn(200, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert float(starred(scores).any(1).double().mean()) <= 0.05 + 1e-9
