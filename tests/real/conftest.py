"""SmolLM2-135M-Instruct, for tests marked `real`. They skip, and say why, where its wheel cannot be had."""

import pytest
from torch import nn

import engram_interp as ei


@pytest.fixture(scope="session")
def smollm() -> nn.Module:
    try:
        return ei.load_model("smollm2-135m-instruct", progress=False)
    except (OSError, ImportError) as error:
        pytest.skip(f"SmolLM2 cannot be had here: {error}")
