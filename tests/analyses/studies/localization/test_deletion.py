import pytest
import torch

import engram_interp as ei
from analyses.studies.localization.deletion import (
    engrams_and_activations,
    gradients,
    out_sites,
    over_siblings,
    rows_of,
)
from analyses.studies.localization.rivals import without
from engram_interp.models import adapt

D_MLP = 272
"""The width of the testbed's MLPs."""


def loss(model, examples) -> float:
    return ei.score(model, {"all": examples}, progress=False)["all"].loss


def test_neurons_go_and_come_back(full):
    keys = [site.key for site in out_sites(full)]
    before = {key: adapt(full).parameter(key).clone() for key in keys}
    with without(full, rows_of(full, torch.tensor([1, D_MLP + 2]))):
        first, second, *others = (adapt(full).parameter(key) for key in keys)
        assert first[1].abs().max() == 0
        assert second[2].abs().max() == 0
        assert torch.equal(first[2:], before[keys[0]][2:])
        assert all(torch.equal(one, before[key]) for one, key in zip(others, keys[2:], strict=True))
    assert all(torch.equal(adapt(full).parameter(key), weight) for key, weight in before.items())


def test_over_siblings_in_standard_deviations():
    # The first neuron: (5 - 2) / 1 = 3. The second: all siblings are 1, and the target is 1.
    found = over_siblings(torch.tensor([[1.0, 1.0], [5.0, 1.0], [2.0, 1.0], [3.0, 1.0]]), 1)
    assert found.tolist() == [3.0, 0.0]


def test_a_neuron_is_a_row_of_the_engram_and_its_square(full):
    authors = [author.examples for author in ei.testbed.authors().full[:3]]
    engrams, activations = engrams_and_activations(full, authors)
    concept = ei.Concept(authors[1], [*authors[0], *authors[2]])
    site, statistics = out_sites(full)[2], ei.collect(full, concept, components="out", progress=False)
    W_plus = ei.extract(full, statistics, components="out", progress=False)[site.key]
    expected = W_plus.norm(dim=1) / adapt(full).parameter(site.key).norm()
    assert torch.allclose(engrams[1, 2 * D_MLP : 3 * D_MLP], expected, rtol=1e-3, atol=1e-6)
    target, reference = (
        statistics.groups[side][site.input].matrix(False).diagonal() / statistics.counts[side]
        for side in ("target", "reference")
    )
    found = activations[1, 2 * D_MLP : 3 * D_MLP].double()
    assert torch.allclose(found, (target / reference).double(), rtol=1e-3)


def test_the_gradient_says_which_neurons_the_answers_need(full):
    target = ei.testbed.authors().full[0].examples
    order = gradients(full, [target])[0].argsort(descending=True)
    losses = []
    for some in (order[:10], order[-10:]):
        with without(full, rows_of(full, some)):
            losses.append(loss(full, target))
    assert losses[0] > loss(full, target)
    assert losses[0] > losses[1]


@pytest.mark.parametrize("function", [gradients, lambda *given: engrams_and_activations(*given)[0]])
def test_every_method_has_a_number_for_every_neuron(full, function):
    found = function(full, [author.examples for author in ei.testbed.authors().full[:2]])
    assert found.shape == (2, 4 * D_MLP)
    assert found.isfinite().all()
