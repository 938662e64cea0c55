import pandas as pd
import pytest
import torch

import engram_interp as ei
from analyses.studies.attribution import ALPHAS, blocks, correlations, lead_of, of_attribution, restored
from tests.conftest import hooked_only


@torch.no_grad()
@hooked_only
def test_a_block_that_is_set_back_brings_back_all_that_its_own_engram_took(full):
    author = ei.testbed.authors().forget10[0]
    engram = ei.extract(full, ei.testbed.authors().concept(author.name), components=["gate", "in", "out"], layers=[1])
    batch, lead = lead_of(full, author)
    before = float(lead(full(batch.tokens)))
    with engram.ablated(full, 4.0):
        lost = before - float(lead(full(batch.tokens)))
    found = restored(full, engram, 4.0, batch, lead)
    assert abs(lost) > 0.01
    assert found["mlp_out"][1] == pytest.approx(lost, abs=1e-5)
    # What comes before the edited block is as it was.
    assert found["attn_out"][0] == pytest.approx(0, abs=1e-5)


@hooked_only
def test_a_block_is_the_sum_of_its_matrices(full):
    author = ei.testbed.authors().forget10[0]
    engram = ei.extract(full, ei.testbed.authors().concept(author.name))
    matrices = ei.attribute(full, engram, author.examples, checked=0, progress=False).matrices
    rows = blocks(full, engram, 1.0, author, matrices)
    assert len(rows) == 2 * full.cfg.n_layers
    in_blocks = matrices[matrices["component"] != "W_U"]
    assert rows["total"].sum() == pytest.approx(in_blocks["total"].sum())


def test_correlations_are_within_authors():
    rows = pd.DataFrame(
        {"author": ["A"] * 3 + ["B"] * 3, "total": [1.0, 2.0, 3.0] * 2, "measured": [2.0, 4.0, 6.0, 13.0, 12.0, 11.0],
         "alpha": 1.0}
    )  # fmt: skip
    assert correlations(rows, "total")[1.0][0] == pytest.approx(0)  # the mean of 1 and -1


def test_the_table_has_a_column_for_each_strength():
    rows = pd.DataFrame(
        [
            {"author": author, "alpha": alpha, "total": x, "direct": x, "restored": x, "measured": x * x}
            for author in "ABC" for alpha in ALPHAS for x in (0.0, 1.0, 2.0 + alpha)
        ]
    )  # fmt: skip
    lines = of_attribution({"matrices": rows, "blocks": rows}).splitlines()
    assert len(lines) == 2 + 4
    assert all(line.count("|") == 3 + len(ALPHAS) for line in lines)
