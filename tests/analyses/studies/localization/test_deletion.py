import pytest
import torch

import engram_interp as ei
from analyses.studies.localization.deletion import METHODS, gradient, out_keys, over_siblings, without
from engram_interp.models import adapt

D_MLP = 272
"""The width of the testbed's MLPs."""


def loss(model, examples) -> float:
    return ei.score(model, {"all": examples}, progress=False)["all"].loss


def test_neurons_go_and_come_back(full):
    before = {key: adapt(full).parameter(key).clone() for key in out_keys(full)}
    with without(full, torch.tensor([1, D_MLP + 2])):
        first, second, *others = (adapt(full).parameter(key) for key in before)
        assert first[1].abs().max() == 0
        assert second[2].abs().max() == 0
        assert torch.equal(first[2:], before[out_keys(full)[0]][2:])
        assert all(torch.equal(one, before[key]) for one, key in zip(others, out_keys(full)[2:], strict=True))
    assert all(torch.equal(adapt(full).parameter(key), weight) for key, weight in before.items())


def test_over_siblings_in_standard_deviations():
    # The first: (5 - 2) / 1 = 3. The second: all siblings are 1, and the target is 1.
    found = over_siblings(torch.tensor([5.0, 1.0]), torch.tensor([[1.0, 1.0], [2.0, 1.0], [3.0, 1.0]]))
    assert found.tolist() == [3.0, 0.0]


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_a_number_for_every_neuron(full, name):
    authors = ei.testbed.authors().full
    found = METHODS[name](full, authors[0].examples, [*authors[1].examples, *authors[2].examples])
    assert found.shape == (4 * D_MLP,)
    assert found.isfinite().all()


def test_the_gradient_says_which_neurons_the_answers_need(full):
    target = ei.testbed.authors().full[0].examples
    order = gradient(full, target, target).argsort(descending=True)
    losses = []
    for some in (order[:10], order[-10:]):
        with without(full, some):
            losses.append(loss(full, target))
    assert losses[0] > loss(full, target)
    assert losses[0] > losses[1]
