import pytest
import torch

from engram_interp.learning.grafting.difference import difference
from engram_interp.learning.grafting.learned import learned_scores
from engram_interp.models import adapt
from engram_interp.options import Run, Which
from tests.learning.grafting.test_grafting import trained


def test_the_mask_keeps_its_share_and_the_base_its_weights():
    model, base, concept = trained()
    adapter, change = adapt(base), difference(adapt(model), adapt(base), Which())
    before = {name: one.clone() for name, one in base.named_parameters()}
    target = adapter.encode({"t": concept.target}, concept.read)["t"]
    scores = learned_scores(adapter, change, target, 0.2, 5, Run(progress=False))
    gamma = torch.cat([one.sigmoid().flatten() for one in scores.values()])
    # The mean is over the matrices, which take all that may be grafted.
    assert float(gamma.mean()) == pytest.approx(0.2 * change.n_entries / len(gamma), rel=1e-3)
    assert all(torch.equal(before[name], one) for name, one in base.named_parameters())
    assert all(one.grad is None for one in base.parameters())


def test_learning_lowers_the_loss_of_the_grafted_model():
    from engram_interp import graft, score

    model, base, concept = trained()
    few, many = (graft(model, base, concept, by="learned", share=0.1, steps=steps) for steps in (1, 60))
    loss = [score(one.inject(base), {"t": concept.target})["t"].loss for one in (few, many)]
    assert loss[1] < loss[0]
