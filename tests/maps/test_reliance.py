import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from engram_interp import Concept, localize, testbed
from engram_interp.answers.loss import answer_loss
from engram_interp.benchmarks import modules_of, plant
from engram_interp.concepts.batches import batches
from engram_interp.maps.reliance import loss_products, reliances
from engram_interp.models import adapt
from engram_interp.models.loading import bridge_of
from engram_interp.options import Run
from tests import huggingface
from tests.conftest import _build_bridge, build, token_concept, tokens

EPSILON = 1e-3


def loss_of(adapter, examples) -> float:
    """The summed loss of the tokens that are scored."""
    total = 0.0
    for batch in batches({"x": examples}, 4, progress=False, describe=""):
        scored = batch.scored[:, 1:]
        logits = adapter.logits(batch)[:, :-1][scored]
        total += float(nn.functional.cross_entropy(logits, batch.tokens[:, 1:][scored], reduction="sum").detach())
    return total


@pytest.mark.parametrize("make", [build, _build_bridge])
@pytest.mark.parametrize("variant", ["llama", "gpt2"])
def test_products_are_what_scaling_a_matrix_changes(make, variant):
    # dL/ds of s W at s = 1, by a central difference; a head is scaled alone. A bridge has GPT-2's Q, K and V in one.
    model = make(variant, 0)
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
            assert float(found[site.key][1, place, 0]) == pytest.approx(expected, rel=0.02, abs=0.05)


def test_reliances_are_standard_deviations_of_the_other_sets_profiles():
    # Lengths: -g / |gradient|. (3, -1) in the first set: its root mean square is sqrt 5. (1, 1), (-1, 1) and (0, 0) in
    # the others, as they are. The first unit: 3 / sqrt 5 = 1.3416, against 1, -1 and 0: mean 0, standard deviation 1.
    # The second: -1 / sqrt 5 = -0.4472, against 1, 1 and 0: mean 2/3, standard deviation 1 / sqrt 3.
    product = torch.tensor([[-3.0, 1.0], [-2.0, -1.0], [3.0, -1.0], [0.0, 0.0]])
    square = torch.tensor([[1.0, 1.0], [4.0, 1.0], [9.0, 1.0], [1.0, 0.0]])
    found = reliances(torch.stack([product, square], 2))
    assert found[0].tolist() == pytest.approx([1.3416, (-0.4472 - 2 / 3) * 3**0.5], abs=1e-3)


@given(st.integers(0, 1000), st.floats(0.1, 10))
def test_how_large_a_loss_is_does_not_matter(seed, factor):
    generator = torch.Generator().manual_seed(seed)
    product, square = torch.randn(6, 4, generator=generator).double(), torch.rand(6, 4, generator=generator).double()
    scale = torch.tensor([factor, factor, 1, 1, 1, 1]).double()[:, None]
    found, scaled = (reliances(torch.stack([product * s, square * s**2], 2)) for s in (torch.ones_like(scale), scale))
    assert torch.allclose(found, scaled)


def test_a_unit_on_which_all_sets_rely_alike_says_nothing():
    product = torch.tensor([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]])
    assert reliances(torch.stack([product, torch.ones(3, 2)], 2)).tolist() == [[0.0, 0.0]] * 3


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_batches_are_one_gradient(llama, batch_size):
    # The whole gradient of all examples, by torch's own backward pass.
    adapter, memory = adapt(llama), list(token_concept(7).target)
    sites = [site for site in adapter.all_sites() if site.layer == 1]
    found = loss_products(adapter, sites, [memory], Run(batch_size=batch_size, progress=False))
    weights = [adapter.parameter(site.key) for site in sites]
    (batch,) = batches({"x": memory}, 8, progress=False, describe="")
    required = [weight.requires_grad for weight in weights]
    with torch.enable_grad():
        for weight in weights:
            weight.requires_grad_(True)
        gradients = torch.autograd.grad(answer_loss(adapter, batch, "sum"), weights)
    for weight, before in zip(weights, required, strict=True):
        weight.requires_grad_(before)
    for site, weight, gradient in zip(sites, weights, gradients, strict=True):
        expected = [float((gradient * weight.detach()).sum()), float(gradient.square().sum())]
        assert found[site.key][0, 0].tolist() == pytest.approx(expected, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_loses_no_small_gradient(llama, dtype):
    # An MLP that hardly reaches the answers: its gradients are small, and their squares no float16.
    for variant in (torch.float32, dtype):
        model = copy.deepcopy(llama).to(variant)
        adapter = adapt(model)
        with torch.no_grad():
            adapter.parameter("blocks.1.mlp.W_out").mul_(2e-6)
        found = loss_products(adapter, adapter.all_sites(), [token_concept(4).target], Run(progress=False))
        product, square = found["blocks.1.mlp.W_in"][0, 0]
        assert square > 0
        lengths = -product / square.sqrt()
        if variant == torch.float32:
            expected = lengths
    assert lengths == pytest.approx(float(expected), rel=0.2)


@pytest.mark.parametrize("family", ["GPT-NeoX", "Phi-3", "Falcon", "Gemma-2", "Mixtral"])
def test_every_family_has_one_gradient_whatever_the_batches(family):
    # In batches of one, the last example of a mixture is not sent to every expert.
    adapter, memory = adapt(bridge_of("tiny", huggingface.make(family))), list(token_concept(7).target)
    one, all_at_once = (
        loss_products(adapter, adapter.all_sites(), [memory], Run(batch_size=size, progress=False)) for size in (1, 8)
    )
    assert one.keys() == all_at_once.keys()
    for key, values in one.items():
        assert torch.allclose(values, all_at_once[key], rtol=1e-3, atol=1e-5)
    assert sum(float(values[0, 0, 1]) > 0 for values in one.values()) > len(one) / 2


def test_matrices_that_scale_the_same_thing_have_one_product(llama):
    # A head's output is W_O W_V x times its pattern, so scaling either by s scales it by s; so with W_in and W_out.
    adapter = adapt(llama)
    found = loss_products(adapter, adapter.all_sites(), [token_concept(4).target], Run(progress=False))
    for one, other in (("attn.W_V", "attn.W_O"), ("attn.W_Q", "attn.W_K"), ("mlp.W_in", "mlp.W_out")):
        of_one, of_other = (float(found[f"blocks.1.{name}"][0, 0, 0]) for name in (one, other))
        assert of_one == pytest.approx(of_other, rel=1e-4, abs=1e-4)


def test_reliance_finds_what_was_planted():
    model, corpus = testbed.load("full"), testbed.authors()
    known = [example for author in corpus.full[:24] for example in author.examples]
    new = corpus.holdout[3].examples
    place = modules_of(model)[3]  # attention of layer 1
    planted = plant(model, new, known, place.keys, progress=False)
    wmap = localize(planted, Concept(new, known), gradient=True, progress=False)
    assert {*wmap.top(4, by="reliance")["key"]} == place.keys
    stars = wmap.to_frame().set_index("key")["reliance_p_value"] <= 0.05
    assert stars[[*place.keys]].all()
    assert stars.sum() <= len(place.keys) + 1
    assert wmap.heads("W_V", "reliance").argmax() // wmap.heads("W_V").shape[1] == 1
    assert "Reliance" in wmap.plot("reliance").layout.title.text


def test_reliance_needs_the_gradient(llama):
    concept = Concept.from_tokens(tokens(4, 8), tokens(80, 8))
    wmap = localize(llama, concept, null="siblings", groups=[i // 4 for i in range(80)], draws=19, progress=False)
    with pytest.raises(ValueError, match="reliance.*gradient=True"):
        wmap.top(by="reliance")


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
