import pytest
import torch


@pytest.fixture(scope="module")
def sae():
    from tests.sae.saes import make  # skips where sae-lens is not installed

    return make("topk")


@pytest.fixture(scope="module")
def rows() -> torch.Tensor:
    return torch.randint(3, 50, (60, 7), generator=torch.Generator().manual_seed(5))
