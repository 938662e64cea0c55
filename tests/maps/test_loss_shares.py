import pytest
import torch
from torch import nn

from engram_interp import Concept, localize
from engram_interp.concepts.batches import batches
from engram_interp.maps.loss_shares import loss_products, loss_shares
from engram_interp.models import adapt
from engram_interp.options import Run
from tests.conftest import build, token_concept, tokens

EPSILON = 1e-3


def loss_of(adapter, examples) -> float:
    """The summed loss of the tokens that are scored."""
    total = 0.0
    for batch in batches({"x": examples}, 4, progress=False, describe=""):
        scored = batch.scored[:, 1:]
        logits = adapter.logits(batch)[:, :-1][scored]
        total += float(nn.functional.cross_entropy(logits, batch.tokens[:, 1:][scored], reduction="sum").detach())
    return total


@pytest.mark.parametrize("variant", ["llama", "gpt2"])
def test_products_are_what_scaling_a_matrix_changes(variant):
    # dL/ds of s W at s = 1, by a central difference; a head is scaled alone.
    model = build(variant)
    adapter, memories = adapt(model), [token_concept(4).target, token_concept(6).target]
    sites = [site for site in adapter.all_sites() if site.layer == 0]
    found = loss_products(adapter, sites, memories, Run(batch_size=4, progress=False))
    for site in sites:
        weight = adapter.parameter(site.key).detach()
        before = weight.clone()
        for unit in (None, *([1] if found[site.key].shape[1] > 1 else [])):
            part = weight if unit is None else weight[unit]
            ends = []
            for sign in (1, -1):
                with torch.no_grad():
                    part.copy_((before if unit is None else before[unit]) * (1 + sign * EPSILON))
                ends.append(loss_of(adapter, memories[1]))
            with torch.no_grad():
                weight.copy_(before)
            expected = (ends[0] - ends[1]) / (2 * EPSILON)
            place = 0 if unit is None else 1 + unit
            assert float(found[site.key][1, place]) == pytest.approx(expected, rel=0.02, abs=0.05)


def test_shares_sum_to_one_in_every_set():
    found = loss_shares(torch.tensor([[1.0, -2.0, 1.0], [0.0, 0.0, 0.0]]))
    assert found.tolist() == [[0.25, 0.5, 0.25], [0.0, 0.0, 0.0]]


def test_gradients_only_take_stars_away(llama):
    concept = Concept.from_tokens(tokens(4, 8), tokens(120, 8))
    labels = [i // 4 for i in range(120)]
    options = {"null": "siblings", "groups": labels, "draws": 29, "progress": False}
    without, with_gradient = (localize(llama, concept, gradient=one, **options).to_frame() for one in (False, True))
    assert without["score"].equals(with_gradient["score"])
    assert (with_gradient["score_p_value"] >= without["score_p_value"]).all()
    assert (with_gradient["score_p_value"] > without["score_p_value"]).any()


@pytest.mark.parametrize("null", ["analytic", "resampled"])
@pytest.mark.parametrize("option", [{"gradient": True}, {"groups": [0] * 8}])
def test_gradients_and_groups_need_siblings(llama, null, option):
    with pytest.raises(ValueError, match=f"{next(iter(option))}.*{null}"):
        localize(llama, token_concept(), null=null, **option)
