"""Evaluation mode ends with the block, and each module gets its own mode back."""

from __future__ import annotations

import pytest
from torch import nn

from engram_interp.models.evaluation import evaluation_mode


def test_each_module_gets_its_own_mode_back_also_after_an_error():
    model = nn.Sequential(nn.Dropout(0.5), nn.Dropout(0.5))
    model[1].eval()

    def run() -> None:
        with evaluation_mode(model.modules()):
            assert not any(module.training for module in model.modules())
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        run()
    assert [module.training for module in (model, *model)] == [True, True, False]
