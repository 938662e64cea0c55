"""Models that change from pass to pass, or hide their examples or their weights: right, or refused."""

import logging
from collections import namedtuple

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune

from engram_interp import Concept, choose_alpha, extract
from tests.models.torch_module import oracle
from tests.models.torch_module.oracle import relative_error

Inputs = namedtuple("Inputs", "x y")


def of(layer: nn.Linear, target: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    return oracle.engram(layer.weight.detach().double(), layer.bias.detach(), target.double(), reference.double())[0]


class Optional(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.on = nn.Linear(4, 4), nn.Linear(4, 4), True

    def forward(self, x):
        return self.a(x) + (self.b(x) if self.on and x.mean() > 0 else 0)


def test_a_layer_that_is_skipped_in_some_batches_has_no_rows_of_these():
    model, up, down = Optional(), torch.randn(20, 4) + 1, torch.randn(20, 4) - 1
    up[:1], down[:1] = up[:1].abs(), -down[:1].abs()
    concept = Concept.from_batches([up, down], [2 * up, 2 * down])
    with pytest.raises(NotImplementedError, match=r"b\.weight and a\.weight.*Call it again"):
        extract(model, concept)
    assert relative_error(extract(model, concept)["b.weight"], of(model.b, up, 2 * up)) < 1e-4
    both = torch.cat([up, down])
    assert relative_error(extract(model, concept)["a.weight"], of(model.a, both, 2 * both)) < 1e-4


def test_a_layer_that_is_switched_off_has_no_engram():
    model, target, reference = Optional(), torch.rand(20, 4), torch.rand(20, 4)
    concept = Concept.from_batches([target], [reference])
    assert "b.weight" in extract(model, concept)
    model.on = False
    with pytest.raises(NotImplementedError, match=r"b\.weight and a\.weight"):
        extract(model, concept)
    with pytest.raises(ValueError, match=r"b\.weight"):
        extract(model, concept)
    assert relative_error(extract(model, concept, components="a")["a.weight"], of(model.a, target, reference)) < 1e-4


def test_what_is_written_over_under_inference_mode_is_another_input():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        @torch.inference_mode()
        def forward(self, x):
            h = x + 0
            return self.a(h) + self.b(h.relu_())

    model, target, reference = Model(), torch.randn(20, 4), torch.randn(20, 4)
    found = extract(model, Concept.from_batches([target], [reference]))
    assert relative_error(found["b.weight"], of(model.b, target.relu(), reference.relu())) < 1e-4
    assert relative_error(found["a.weight"], of(model.a, target, reference)) < 1e-4


@pytest.mark.parametrize("n", [3, 4, 5])
def test_windows_lie_example_by_example_also_where_one_is_as_long_as_the_batch(n):
    class Windows(nn.Module):
        def __init__(self):
            super().__init__()
            self.out = nn.Linear(5, 3)

        def forward(self, x):
            return self.out(x.reshape(-1, 4, 5))

    model, target, reference = Windows(), torch.randn(12, 16, 5), torch.randn(12, 16, 5)
    concept = Concept.from_batches(target.split(n), reference.split(n), mask=lambda x: x[:, 0, 0] > 0)
    rows = [x[x[:, 0, 0] > 0].flatten(0, 1) for x in (target, reference)]
    assert relative_error(extract(model, concept)["out.weight"], of(model.out, *rows)) < 1e-4


def test_examples_on_a_later_axis_are_refused():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.out = nn.Linear(4, 2)

        def forward(self, x):
            return self.out(x.permute(1, 2, 0, 3))  # [row column batch d]

    batch = torch.randn(4, 8, 3, 4)
    with pytest.raises(ValueError, match=r"out\.weight is \[8, 3, 4, 4\], in a batch of 4"):
        extract(Model(), Concept.from_batches([batch], [batch]))


@pytest.mark.parametrize("n", [2, 8])
def test_a_parameter_that_is_an_input_has_no_examples(n):
    class Queries(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.of_query, self.of_data = nn.Parameter(torch.randn(8, 4)), nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return self.of_data(x) @ self.of_query(self.q).T

    model, target, reference = Queries(), torch.randn(8, 4), torch.randn(8, 4)
    concept = Concept.from_batches(target.split(n), reference.split(n))
    with pytest.raises(ValueError, match=r"of_query\.weight is \[8, 4\]"):
        extract(model, concept)
    found = extract(model, concept, components="of_data")
    assert relative_error(found["of_data.weight"], of(model.of_data, target, reference)) < 1e-4


@pytest.mark.parametrize(
    "change",
    [
        lambda layer: parametrize.register_parametrization(layer, "bias", nn.Tanh()),
        lambda layer: prune.l1_unstructured(layer, "bias", 1),
    ],
    ids=["parametrised", "pruned"],
)
def test_a_computed_bias_is_refused_as_a_computed_weight_is(change):
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    change(model[0])
    with pytest.raises((ValueError, NotImplementedError), match="0 has a weight or bias that is computed"):
        extract(model, Concept.from_batches([torch.randn(9, 4)], [torch.randn(9, 4)]), components="0")


def test_parametrised_attention_is_refused_and_its_vectors_do_not_move():
    attention = nn.MultiheadAttention(4, 1, batch_first=True)
    nn.utils.parametrizations.spectral_norm(attention, "in_proj_weight")
    model = nn.Sequential(nn.Linear(4, 4))
    model.attention = attention
    model.forward = lambda x: model.attention(*[model[0](x)] * 3)[0]
    before = {name: one.clone() for name, one in model.state_dict().items()}
    x = torch.randn(9, 3, 4)
    with pytest.raises((ValueError, NotImplementedError), match="attention has weights that are computed"):
        extract(model, Concept.from_batches([x], [x]), components="attention")
    assert "0.weight" in extract(model, Concept.from_batches([x], [x]), components="0")
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())


@pytest.mark.parametrize(
    "again",
    [
        lambda h, W: (W @ h.T).T,
        lambda h, W: torch.inner(h, W),
        lambda h, W: torch.tensordot(h, W, dims=([1], [1])),
        lambda h, W: torch.matmul(input=h, other=W.T),
        lambda h, W: torch.zeros(4).addmm(h, W.T),
        lambda h, W: torch.mv(W, h[0]),
        lambda h, W: torch.linalg.multi_dot([h, W]),
        lambda h, W: nn.functional.linear(W, h).T,
    ],
    ids=["W @ h.T", "inner", "tensordot", "keywords", "addmm", "mv", "multi_dot", "linear"],
)
def test_a_weight_that_is_multiplied_again_is_said_to_be(again, caplog):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.out = nn.Linear(4, 4)

        def forward(self, x):
            return self.out(x) + again(x, self.out.weight)

    with caplog.at_level(logging.WARNING, logger="engram_interp"):
        extract(Model(), Concept.from_batches([torch.randn(20, 4)], [torch.randn(20, 4)]))
    assert "out.weight (also multiplied outside of its layer)" in caplog.text


def test_a_weight_that_is_split_into_groups_in_two_ways_is_refused():
    model = nn.Sequential(nn.Conv1d(4, 6, 2, groups=2), nn.Conv1d(2, 6, 2))
    model[1].weight = model[0].weight
    with pytest.raises(ValueError, match=r"0\.weight.*groups"):
        extract(model, Concept.from_batches([torch.randn(9, 4, 5)], [torch.randn(9, 4, 5)]))


def test_complex_weights_are_refused_as_such():
    model = nn.Sequential(nn.Linear(4, 3, dtype=torch.complex64), nn.Linear(3, 2, dtype=torch.complex64))
    x = torch.randn(9, 4, dtype=torch.complex64)
    with pytest.raises((ValueError, NotImplementedError), match="complex"):
        extract(model, Concept.from_batches([x], [x]))


def test_a_batch_keeps_its_structure():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.out = nn.Linear(4, 2)

        def forward(self, pair):
            assert isinstance(pair, Inputs)
            return self.out(pair.x + pair.y)

    model, P, M = Model(), torch.randn(30, 4), torch.randn(60, 4)
    concept = Concept.from_batches([(Inputs(P, P),)], [(Inputs(M, M),)])
    engram = extract(model, concept)
    assert relative_error(engram["out.weight"], of(model.out, 2 * P, 2 * M)) < 1e-4
    choose_alpha(model, engram, concept, measure=lambda model, batch: model(*batch.args)[:, 0].detach())


@pytest.mark.parametrize("error", [KeyError("x"), AttributeError("no x"), AssertionError()])
def test_a_batch_that_a_model_refuses_is_named_whatever_it_raises(error):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.out = nn.Linear(4, 2)

        def forward(self, y):
            raise error

    concept = Concept.from_batches([{"y": torch.randn(9, 4)}], [{"y": torch.randn(9, 4)}])
    told = "x" if str(error) else "AssertionError"
    with pytest.raises(ValueError, match=rf"refuses the batch target\[0\].*{told}"):
        extract(Model(), concept)
