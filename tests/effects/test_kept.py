import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engram_interp.effects.kept import Measure, fewest_tokens, kept_accuracy, kept_loss, kept_sum, measure_of


@pytest.mark.parametrize("share", [0.8, 0.95, 0.99])
def test_the_interval_holds_the_share_nine_times_in_ten(share):
    # 400 examples of three tokens that are lost together, drawn 500 times.
    generator = torch.Generator().manual_seed(0)
    before = torch.full((400,), 3.0).double()
    found = [
        kept_accuracy(before * (torch.rand(400, generator=generator) < share), before) for _ in range(500)
    ]  # fmt: skip
    inside = sum(one.low <= share <= one.high for one in found) / 500
    assert 0.86 <= inside <= 0.95
    above = sum(one.low <= share for one in found) / 500
    assert above >= 0.93


def test_a_ratio_of_sums_is_as_sure_as_its_examples():
    generator = torch.Generator().manual_seed(0)
    inside = 0
    for _ in range(500):
        before = torch.rand(200, generator=generator).double() + 1
        after = 0.9 * before + 0.1 * torch.randn(200, generator=generator).double()
        found = kept_sum(after, before)
        inside += found.low <= 0.9 <= found.high
    assert 0.86 <= inside / 500 <= 0.94


def test_a_loss_that_rises_by_a_quarter_keeps_four_fifths():
    found = kept_loss(torch.tensor([1.25, 2.5]), torch.tensor([1.0, 2.0]))
    assert found.share == pytest.approx(0.8)
    assert found.low == found.high == pytest.approx(0.8)


@given(st.floats(0.5, 0.999))
def test_the_fewest_tokens_are_those_whose_interval_without_a_loss_reaches_keep(keep):
    n = int(fewest_tokens(keep)) + 1
    enough, too_few = (kept_accuracy(torch.ones(m).double(), torch.ones(m).double()) for m in (n, max(n - 2, 1)))
    assert enough.low >= keep
    assert n < 4 or too_few.low < keep


@given(st.sampled_from(["accuracy", "loss"]), st.floats(0.5, 1.0))
def test_what_is_needed_is_what_keeps_exactly_enough(name, keep):
    measure = Measure(name)
    before = torch.tensor([[2.0, 1.0, 3.0, 0.0], [1.0, 4.0, 2.0, 0.0]]).double()
    after = before * keep if name == "accuracy" else before / keep
    assert float(measure.value(after).sum()) == pytest.approx(measure.needed(float(measure.value(before).sum()), keep))
    assert measure.kept(after, before).share == pytest.approx(keep)


def test_a_function_is_known_by_its_name():
    def rouge(model, examples):
        return [1.0] * len(examples)

    assert measure_of(rouge).name == "rouge"
    assert measure_of(rouge).own(torch.nn.Identity(), ["a", "b"]).tolist() == [1.0, 1.0]
