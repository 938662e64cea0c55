import copy
import pickle

import pytest
import torch
from torch import nn

import engram_interp as ei
from engram_interp.learning.tracking.running import RunningMoments
from engram_interp.options import Which
from tests.conftest import build


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).train()


def positive(x: torch.Tensor) -> torch.Tensor:
    return x[:, 0] > 0


def test_moments_fade_by_half_in_a_half_life():
    model, batches = net(), [torch.randn(12, 4) for _ in range(5)]
    running = RunningMoments(model, {"positive": positive}, None, 2, Which())
    for x in batches:
        model(x)
    found = running.statistics("positive")
    name = found.inputs[0]
    for group, belongs in (("target", positive), ("reference", lambda x: ~positive(x))):
        expected = sum(
            0.5 ** ((4 - i) / 2) * x[belongs(x)].double().T @ x[belongs(x)].double() for i, x in enumerate(batches)
        )
        assert torch.allclose(found.groups[group][name].of_inputs(False).S.double(), expected, rtol=1e-6)
    assert running.n_batches == 5
    assert ei.localize(model, found).null == "analytic"


def test_a_long_half_life_is_a_collection_of_all_batches():
    model, batches = net(), [torch.randn(30, 4) for _ in range(4)]
    running = RunningMoments(model, {"positive": positive}, None, 1e12, Which())
    for x in batches:
        model(x)
    running.remove()
    every = torch.cat(batches)
    concept = ei.Concept.from_batches([every[positive(every)]], [every[~positive(every)]])
    found, expected = (ei.localize(model, one, null="analytic") for one in (running.statistics("positive"), concept))
    assert dict(found) == pytest.approx(dict(expected), rel=1e-5)


def test_only_passes_in_train_mode_count_and_what_they_give_stays():
    model, x = net(), torch.randn(6, 4)
    before = model(x)
    running = RunningMoments(model, {"positive": positive}, None, 5, Which())
    assert torch.equal(model(x), before)
    model.eval()
    model(x)
    assert running.n_batches == 1
    running.remove()
    running.remove()
    assert not model._forward_hooks
    assert not model._forward_pre_hooks


def test_a_copy_of_the_model_is_not_read():
    model, x = net(), torch.randn(6, 4)
    running = RunningMoments(model, {"positive": positive}, None, 5, Which())
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert not twin(x).any()
    assert running.n_batches == 0
    again = pickle.loads(pickle.dumps(model))
    assert torch.equal(again(x), model(x))
    assert running.n_batches == 1


class Failing(nn.Module):
    """Fails once."""

    fails = True

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.fails:
            self.fails = False
            raise RuntimeError("once")
        return x


def test_a_pass_that_fails_ends_the_reading():
    model = nn.Sequential(nn.Linear(4, 8), Failing(), nn.Linear(8, 2)).train()
    running = RunningMoments(model, {"positive": positive}, None, 5, Which())
    with pytest.raises(RuntimeError, match="once"):
        model(torch.randn(6, 4))
    assert torch.overrides._get_current_function_mode() is None
    model(torch.randn(6, 4))
    assert running.n_batches >= 1


def test_batches_are_left_out_where_they_may_not_be_read():
    model, may = net(), [True, False, True]
    running = RunningMoments(model, {"positive": positive}, None, 5, Which(), lambda: may[calls.pop(0)])
    calls = [0, 1, 2]
    for _ in range(3):
        model(torch.randn(6, 4))
    assert running.n_batches == 2
    assert running.seconds > 0


def test_positions_and_what_counts_are_said_by_functions():
    model = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2)).train()
    x = torch.randn(4, 6, 3)
    counts = torch.arange(6)[None].expand(4, 6) < 4
    running = RunningMoments(
        model, {"first": lambda x: torch.arange(6)[None].expand(len(x), 6) < 2}, lambda _: counts, 9, Which()
    )
    model(x)
    assert running.statistics("first").counts == {"target": 8, "reference": 8}


def test_what_was_not_seen_is_an_error():
    model = net()
    running = RunningMoments(model, {"none": lambda x: torch.zeros(len(x)).bool()}, None, 5, Which())
    model(torch.randn(6, 4))
    with pytest.raises(ValueError, match="'none'"):
        running.statistics("none")


def test_a_mask_of_another_shape_and_a_language_model_are_refused():
    model = net()
    RunningMoments(model, {"odd": lambda x: torch.ones(len(x), 2)}, lambda x: torch.ones(len(x)), 5, Which())
    with pytest.raises(ValueError, match="'odd'"):
        model(torch.randn(6, 4))
    with pytest.raises(TypeError, match="Hugging Face"):
        RunningMoments(build("llama"), {"a": positive}, None, 5, Which())
    with pytest.raises(ValueError, match="-1"):
        RunningMoments(net(), {"a": positive}, None, -1, Which())
    with pytest.raises(ValueError, match="none"):
        ei.StreamingEngramCallback(net(), {})
