"""The experiments on pictures run, and their parts do what they say."""

from functools import partial

import numpy as np
import pytest
import torch
from click import UsageError
from torch.utils.data import TensorDataset

from analyses.baselines.classifiers import BASELINES, RATES, Job, unlearned
from analyses.paper.vision import data, drawing, forgetting, mlp_classes
from analyses.paper.vision.models import WAE, ConvAE, ResNet18, ViT, mlp, mmd
from analyses.paper.vision.running import Setting
from analyses.paper.vision.training import accuracy, fit, only


def job(seed: int = 0) -> Job:
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(120) % 3
    x = 0.3 * torch.randn(120, 1, 4, 4, generator=generator)
    x[torch.arange(120), 0, y] += 2.0
    torch.manual_seed(seed)
    whole = TensorDataset(x, y)
    model = fit(mlp(1, 4, 3, width=16), whole, 15, 0.1, seed)
    assert accuracy(model, whole) > 0.95
    return Job(model, only(whole, [0]), only(whole, [0], keep=False), 3, seed)


@pytest.mark.parametrize("name", BASELINES)
def test_a_baseline_has_the_papers_grid_and_leaves_the_model_as_it_is(name):
    method, here = BASELINES[name], job()
    candidates = method.candidates
    assert len(candidates) == len(RATES) * {"l1-sparse": 3, "NegGrad+": 2}.get(name, 1)
    before = {key: value.clone() for key, value in here.model.state_dict().items()}
    found = unlearned(here, method, **candidates[1])
    assert all(torch.equal(value, before[key]) for key, value in here.model.state_dict().items())
    assert any(not torch.equal(value, before[key]) for key, value in found.state_dict().items())
    if name in ("Random Label", "SalUn"):
        assert accuracy(found, here.forget) < 0.2
        assert accuracy(found, here.retain) > 0.95


def test_salun_moves_half_of_the_parameters_at_most():
    here = job()
    found = unlearned(here, BASELINES["SalUn"], rate=0.01, epochs=2, sparsity=0.5)
    pairs = zip(found.parameters(), here.model.parameters(), strict=True)
    moved = torch.cat([(one != other).flatten() for one, other in pairs])
    assert 0.1 < moved.double().mean() <= 0.5 + 1e-2


def test_models_have_the_shapes_that_they_say():
    x = torch.rand(3, 1, 28, 28)
    for model in (mlp(1, 28, 7), ResNet18(1, 7), ViT(1, 28, 7)):
        assert model.eval()(x).shape == (3, 7)
    assert ConvAE(1, 28)(x).shape == WAE(1, 28)(x).shape == x.shape
    assert ResNet18(1, 7).features(x).shape == (3, 64)


def test_the_mmd_of_draws_from_the_prior_is_near_zero_and_larger_for_others():
    z, prior, other = torch.randn(200, 4), torch.randn(200, 4), 2 + torch.randn(200, 4)
    assert abs(float(mmd(z, prior))) < 0.05
    assert float(mmd(other, prior)) > 0.5


def test_an_attribute_changes_its_own_pixels_of_the_same_face():
    rng = [np.random.default_rng(3) for _ in range(2)]
    plain, glasses = (
        drawing._face(one, np.array(has), 32) for one, has in zip(rng, ([0] * 4, [1, 0, 0, 0]), strict=True)
    )
    changed = np.abs(plain - glasses) > 1e-9
    assert 0.01 < changed.mean() < 0.2
    assert not changed[22:].any()  # below the nose
    x, attributes = drawing.faces(400, share=0.15)
    assert x.shape == (400, 1, 32, 32)
    assert attributes.double().mean().item() == pytest.approx(0.15, abs=0.03)


def test_sets_are_found_by_name():
    pytest.importorskip("sklearn")
    digits = data.load("digits", 300, 100)
    assert (len(digits.x), len(digits.test_x), digits.shape) == (300, 100, (1, 8))
    kept, held = digits.split(0.2, 0)
    assert (len(kept.x), len(held)) == (240, 60)
    assert set(digits.without({0, 3}).y.tolist()) == set(range(10)) - {0, 3}
    with pytest.raises(UsageError, match="nothing"):
        data.load("nothing")
    with pytest.raises(UsageError, match="torchvision"):
        data.load("SVHN:folder")


def test_a_class_wise_matrix_of_digits_has_a_dark_diagonal():
    pytest.importorskip("sklearn")
    tables = mlp_classes.measure(Setting("digits", 32, "cpu", 900, 1))
    found = tables["classes"].mean(numeric_only=True)
    assert found["after"] < 0.2 < 0.8 < found["others_after"]
    assert forgetting.text(tables).count("\n") == 11
    (figure,) = partial(forgetting.figures, title="t")(tables)
    assert np.array(figure.data[0].z).shape == (11, 10)
    assert forgetting.forgets(np.array([0.0, 0.9]), np.array([1.0, 0.9]), [0]) == 1.0
