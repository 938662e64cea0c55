import pytest
import torch

import engram_interp as ei
from engram_interp import filters
from engram_interp.learning.protection.projections import projections_of
from engram_interp.models import adapt
from engram_interp.options import Solve
from tests.conftest import build, token_concept


def parameters(adapter) -> dict[str, torch.Tensor]:
    keys = [key for site in adapter.all_sites() for key in (site.path, site.bias) if key is not None]
    return {key: adapter.parameter(key).detach().clone() for key in keys}


@pytest.mark.parametrize("variant", ["llama", "gpt2"])
def test_a_step_loses_what_it_does_to_kept_inputs_and_nothing_else(variant):
    model = build(variant)
    adapter, statistics = adapt(model), ei.collect(model, token_concept(2, 4))
    found = projections_of(adapter, statistics, adapter.all_sites(), Solve(filter=filters.soft))
    before = parameters(adapter)
    step = {
        key: 0.01 * torch.randn(one.shape, generator=torch.Generator().manual_seed(2)) for key, one in before.items()
    }
    for projection in found.values():
        for site in projection.readers:
            now = {key: before[key] + step[key] for key in (site.path, site.bias) if key is not None}
            taken = projection.matrix(site, now) - projection.matrix(site, before)
            projection.step(site, before, now, {})
            left = projection.matrix(site, now) - projection.matrix(site, before)
            P = (
                statistics.factorised(site.input, projection.absorbed)
                .solution(None)
                .solve(statistics.groups["target"][site.input].of_inputs(projection.absorbed).S)
            )
            assert torch.allclose(left, taken - taken @ P, atol=1e-6)


def test_biases_that_are_zero_are_no_part_of_a_step():
    adapter = adapt(build("llama"))
    statistics = ei.collect(adapter.model, token_concept())
    found = projections_of(adapter, statistics, adapter.all_sites(), Solve())
    assert not any(one.absorbed for one in found.values())
    gpt2 = adapt(build("gpt2"))
    found = projections_of(gpt2, ei.collect(gpt2.model, token_concept()), gpt2.all_sites(), Solve())
    assert all(one.absorbed for one in found.values())


def test_how_far_outputs_moved_is_their_distance():
    adapter = adapt(build("gpt2"))
    statistics = ei.collect(adapter.model, token_concept())
    site = adapter.all_sites()[0]
    (one,) = projections_of(adapter, statistics, [site], Solve()).values()
    before = parameters(adapter)
    now = {key: 1.5 * value for key, value in before.items()}
    assert one.moved(site, before, now)[0] == pytest.approx(0.5, rel=1e-5)
