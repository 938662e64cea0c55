import pytest
import torch

from analyses.studies.localization.rivals import curvature_mass, learned_mask, matrix_ablation, module_ablation
from engram_interp import Concept, testbed
from engram_interp.concepts.batches import batches, encode_groups
from engram_interp.models import adapt

PEOPLE = testbed.authors().full
TARGET = PEOPLE[0].examples[:2]
REFERENCE = [example for author in PEOPLE[1:4] for example in author.examples[:2]]


@pytest.fixture
def model():
    return testbed.load("full")


def weights_of(model):
    adapter = adapt(model)
    return {site.key: adapter.parameter(site.key).detach().clone() for site in adapter.all_sites()}


@pytest.mark.parametrize("rival", [module_ablation, matrix_ablation, curvature_mass, learned_mask])
def test_a_rival_scores_every_matrix_and_leaves_the_model_as_it_was(model, rival):
    before, required = weights_of(model), [parameter.requires_grad for parameter in model.parameters()]
    found = rival(model, TARGET, REFERENCE)
    assert found.keys() == before.keys()
    assert all(torch.equal(before[key], weight) for key, weight in weights_of(model).items())
    assert [parameter.requires_grad for parameter in model.parameters()] == required
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_module_scores_as_one(model):
    found = module_ablation(model, TARGET, REFERENCE)
    assert len({found[f"blocks.2.mlp.{name}"] for name in ("W_gate", "W_in", "W_out")}) == 1
    assert found["unembed.W_U"] == float("-inf")


def test_curvature_is_that_of_single_positions(model):
    # tr(G W S W^T) = sum over positions of x and of g of (g^T W x)^2, here by autograd for one matrix.
    adapter = adapt(model)
    key, W = "blocks.1.mlp.W_out", adapter.parameter("blocks.1.mlp.W_out").detach()
    encoded = encode_groups(Concept(TARGET, REFERENCE).sides, adapter.encoder)
    mass = {}
    for side, examples in encoded.items():
        inputs, gradients = [], []
        for batch in batches({side: examples}, 1, progress=False, describe=""):
            kept = {}
            model.requires_grad_(True)
            hooks = [
                ("blocks.1.mlp.hook_post", lambda x, hook, kept=kept: kept.update(x=x.detach())),
                ("blocks.1.hook_mlp_out", lambda y, hook, kept=kept: (y.retain_grad(), kept.update(y=y))[0]),
            ]
            with torch.enable_grad(), model.hooks(fwd_hooks=hooks):
                logits = adapter.logits(batch)[0, :-1]
                scored = batch.scored[0, 1:]
                log_probs = logits.log_softmax(1).gather(1, batch.tokens[0, 1:, None])[:, 0]
                (-log_probs[scored].sum()).backward()
            inputs.append(kept["x"][0][:-1][scored])
            gradients.append(kept["y"].grad[0])
            model.requires_grad_(False)
            model.zero_grad(set_to_none=True)
        X, G = torch.cat(inputs).double(), torch.cat(gradients).double()
        mass[side] = float(((G @ W.double().T @ X.T) ** 2).sum()) / len(X) / len(examples)
    found = curvature_mass(model, TARGET, REFERENCE)[key]
    assert found == pytest.approx(mass["target"] / mass["reference"], rel=1e-3)
