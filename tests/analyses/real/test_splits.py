import pandas as pd
import torch

from analyses.real.splits import of_splits, one_split


def test_a_half_chooses_the_strongest_edit_that_surely_keeps_enough():
    before = torch.ones(400).double()
    after = {alpha: before.clone() for alpha in (0.1, 0.2, 0.4)}
    after[0.2][::40] = 0  # 10 of 400 are lost: 97.5 % are kept
    after[0.4][::4] = 0
    found = one_split(0, 0.93, before, after)
    assert found["alpha"] == 0.2
    assert abs(found["unseen"] - 0.975) < 0.03
    # At 98 % no edit that loses anything is sure enough.
    assert one_split(0, 0.98, before, after)["alpha"] == 0.1


def test_the_table_counts_splits_that_kept_enough():
    rows = [
        {"keep": 0.97, "alpha": 0.1, "chosen_by": 0.99, "unseen": unseen, "unseen_high": unseen + 0.01}
        for unseen in (0.98, 0.965, 0.9)
    ]
    assert "| 97% | 0.10 | 94.8% | 1 of 3 | 2 of 3 |" in of_splits({"splits": pd.DataFrame(rows)})
