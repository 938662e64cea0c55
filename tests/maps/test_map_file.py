"""A map is the same to the bit after it was in a file."""

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from engram_interp import Concept, LocalizationMap, extract, load_model, localize, testbed
from tests import huggingface


@pytest.mark.parametrize("null", ["analytic", "siblings"])
def test_a_map_comes_back_to_the_bit(full, null, tmp_path):
    wmap = localize(full, testbed.authors().concept("Petra Dorlund"), components=["Q", "U"], null=null, draws=19)
    wmap.save(tmp_path / "map.safetensors")
    back = LocalizationMap.load(tmp_path / "map.safetensors")
    pd.testing.assert_frame_equal(back.table, wmap.table, check_exact=True)
    assert back.others == wmap.others
    assert back.plot() == wmap.plot()


def test_a_map_of_a_mixture_keeps_its_gaps(tmp_path):
    huggingface.save(huggingface.make("Mixtral"), tmp_path / "model")
    rows = torch.arange(40).view(4, 10) % 50
    wmap = localize(load_model(tmp_path / "model"), Concept.from_tokens(rows, rows + 3), null="analytic")
    assert wmap.table["expert"].isna().any()
    assert wmap.table["expert"].notna().any()
    wmap.save(tmp_path / "map.safetensors")
    pd.testing.assert_frame_equal(LocalizationMap.load(tmp_path / "map.safetensors").table, wmap.table)


def test_other_files_are_refused(full, tmp_path):
    engram = extract(full, testbed.authors().concept("Petra Dorlund"), components="gate", layers=0)
    engram.save(tmp_path / "engram.safetensors")
    with pytest.raises(ValueError, match="engram"):
        LocalizationMap.load(tmp_path / "engram.safetensors")
    save_file(load_file(tmp_path / "engram.safetensors"), tmp_path / "foreign.safetensors")
    with pytest.raises(ValueError, match="foreign"):
        LocalizationMap.load(tmp_path / "foreign.safetensors")
