"""The testbed's three models, loaded once, and their answers to a few questions."""

from dataclasses import replace

import pytest
import torch

from engram_interp import measure, testbed

N = 8
"""Questions of each part."""


@pytest.fixture(scope="session")
def models():
    """The testbed's models by name; tests that leave one changed fail at the end."""
    found = {name: testbed.load(name) for name in ("full", "retain", "base")}
    before = {name: {key: one.clone() for key, one in model.named_parameters()} for name, model in found.items()}
    yield found
    for name, model in found.items():
        assert all(torch.equal(before[name][key], one) for key, one in model.named_parameters()), name


@pytest.fixture(scope="session")
def few():
    """A question or two of several authors, so that full and retain differ in them."""
    benchmark = testbed.benchmark()
    return replace(
        benchmark,
        forget=benchmark.forget[:: 400 // N],
        retain=benchmark.retain[:: 400 // N],
        general={"world_facts": benchmark.general["world_facts"][::20]},
        holdout=benchmark.holdout[:: 400 // N],
    )


@pytest.fixture(scope="session")
def runs(few, models):
    return {name: measure(model, few, progress=False) for name, model in models.items()}
