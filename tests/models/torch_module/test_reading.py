"""Every kind of layer against brute force, over random settings; what is shared, repeated, tied or read elsewhere."""

import logging

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers.pytorch_utils import Conv1D

from engram_interp import Concept, collect, extract, localize
from engram_interp.models import adapt
from engram_interp.models.loading import bridge_of
from tests import huggingface
from tests.engrams.test_extract import masked_tokens
from tests.models.torch_module import oracle
from tests.models.torch_module.oracle import relative_error

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
SIZE = {1: (9,), 2: (6, 7), 3: (5, 4, 6)}


def pictures(n: int, channels: int, size: tuple[int, ...], seed: int) -> torch.Tensor:
    return torch.randn(n, channels, *size, generator=torch.Generator().manual_seed(seed))


@st.composite
def convolutions(draw):
    n_axes = draw(st.sampled_from([1, 2, 3]))
    groups = draw(st.sampled_from([1, 2, 3]))
    each = st.tuples(*[st.integers(1, 3)] * n_axes)
    stride, dilation = draw(each), draw(st.tuples(*[st.integers(1, 2)] * n_axes))
    kernel = draw(st.tuples(*[st.integers(1, 2)] * n_axes)) if n_axes == 3 else draw(each)
    if draw(st.booleans()):
        padding, stride = "same", (1,) * n_axes
        kernel = tuple(2 * (k // 2) + 1 for k in kernel)  # torch warns of a copy where kernels are even
    else:
        padding = draw(st.tuples(*[st.integers(0, 2)] * n_axes))
    torch.manual_seed(draw(st.integers(0, 9)))
    return CONVOLUTIONS[n_axes](
        2 * groups, 3 * groups, kernel, stride, padding, dilation, groups, draw(st.booleans()),
        draw(st.sampled_from(sorted(oracle.MODES))),
    )  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(convolutions(), st.sampled_from([2, 9]))
def test_a_convolution_equals_brute_force(module, n):
    size = SIZE[len(module.kernel_size)]
    target, reference = pictures(n, module.in_channels, size, 1), pictures(2 * n, module.in_channels, size, 2)
    found = extract(module, Concept.from_batches([target], reference.split(n)))
    weight, bias = oracle.of_convolution(module, target, reference)
    assert relative_error(found["weight"], weight) < 1e-4
    if bias is not None:
        assert relative_error(found["bias"], bias) < 1e-4


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from([1, 2, 3]), st.sampled_from([1, 2]), st.integers(1, 3), st.integers(1, 2), st.integers(0, 1),
    st.booleans(),
)  # fmt: skip
def test_a_transposed_convolution_equals_brute_force(n_axes, groups, kernel, stride, padding, bias):
    torch.manual_seed(0)
    module = TRANSPOSED[n_axes](
        3 * groups, 2 * groups, kernel, stride, min(padding, kernel - 1), groups=groups, bias=bias
    )
    target, reference = (pictures(n, 3 * groups, SIZE[n_axes], n) for n in (3, 8))
    found = extract(module, Concept.from_batches([target], [reference]))
    assert relative_error(found["weight"], oracle.of_transposed(module, target, reference)) < 1e-4
    assert "bias" not in found  # it is added once a pixel, not once a product


def test_what_the_engram_of_a_convolution_makes_of_pictures_is_the_product_of_their_patches():
    module = nn.Conv2d(4, 6, 3, 2, 1, groups=2, padding_mode="reflect")
    target, reference = pictures(5, 4, (7, 8), 1), pictures(9, 4, (7, 8), 2)
    engram = extract(module, Concept.from_batches([target], [reference]))
    made = nn.Conv2d(4, 6, 3, 2, 1, groups=2, padding_mode="reflect")
    made.load_state_dict({"weight": engram["weight"], "bias": engram["bias"]})
    weight, bias = oracle.of_convolution(module, target, reference)
    products = oracle.patches(module, target) @ weight.flatten(1).unflatten(0, (2, -1)).mT + bias.view(2, 1, -1)
    expected = products.transpose(0, 1).flatten(1).unflatten(0, (5, 4, 4)).permute(0, 3, 1, 2)
    torch.testing.assert_close(made(target).double(), expected, atol=1e-5, rtol=1e-4)


def test_ablating_all_of_it_leaves_what_the_reference_owns():
    # W - W+ = W S- (S+ + S-)^pinv, on full-rank data: 12 pictures of 36 patches in 9 * 2 dimensions.
    module = nn.Conv2d(2, 5, 3, padding=1)
    target, reference = pictures(4, 2, (6, 6), 1), pictures(8, 2, (6, 6), 2)
    edited = extract(module, Concept.from_batches([target], [reference])).ablate(module, 1.0)
    weight, bias = oracle.of_convolution(module, reference, target)
    assert relative_error(edited.weight, weight) < 1e-4
    assert relative_error(edited.bias, bias) < 1e-4


def test_a_linear_layer_reads_every_position_and_hugging_faces_conv1d_is_its_transpose():
    linear, conv = nn.Linear(5, 4), Conv1D(4, 5)
    conv.weight.data, conv.bias.data = linear.weight.data.T.clone(), linear.bias.data.clone()
    target, reference = torch.randn(6, 3, 5), torch.randn(11, 3, 5)
    weight, bias = oracle.engram(
        linear.weight.detach().double(), linear.bias.detach(), *(x.flatten(0, 1).double() for x in (target, reference))
    )
    concept = Concept.from_batches([target], [reference])
    for module in (linear, conv):
        found = extract(module, concept)
        turned = found["weight"] if module is linear else found["weight"].T
        assert relative_error(turned, weight) < 1e-4
        assert relative_error(found["bias"], bias) < 1e-4


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("separate", [False, True])
def test_attention_reads_query_key_value_and_what_its_heads_put_out(batch_first, separate):
    torch.manual_seed(0)
    sizes = {"kdim": 6, "vdim": 7} if separate else {}
    module = nn.MultiheadAttention(8, 2, batch_first=batch_first, **sizes)
    nn.init.normal_(module.in_proj_bias)
    nn.init.normal_(module.out_proj.bias)
    turn = (lambda x: x) if batch_first else (lambda x: x.transpose(0, 1))

    def inputs(n: int) -> tuple:
        q, k, v = torch.randn(n, 4, 8), torch.randn(n, 5, sizes.get("kdim", 8)), torch.randn(n, 5, sizes.get("vdim", 8))
        return q, k, v

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = module

        def forward(self, q, k, v):
            return self.attention(turn(q), turn(k), turn(v))[0]

    model, target, reference = Model(), inputs(9), inputs(20)
    before = model.eval()(*target)
    found = extract(model, Concept.from_batches([target], [reference]))
    assert torch.equal(model(*target), before)
    biases = module.in_proj_bias.detach().chunk(3)
    weights = [module.q_proj_weight, module.k_proj_weight, module.v_proj_weight]
    weights = weights if separate else module.in_proj_weight.chunk(3)
    for i, letter in enumerate("qkv"):
        sides = (x[i].flatten(0, 1).double() for x in (target, reference))
        weight, bias = oracle.engram(weights[i].detach().double(), biases[i], *sides)
        key = f"attention.{letter}_proj_weight" if separate else "attention.in_proj_weight"
        mine = found[key] if separate else found[key].chunk(3)[i]
        assert relative_error(mine, weight) < 1e-4, letter
        assert relative_error(found["attention.in_proj_bias"].chunk(3)[i], bias) < 1e-4, letter

    def heads(q, k, v):
        parts = [nn.functional.linear(x, w, b) for x, w, b in zip((q, k, v), weights, biases, strict=True)]
        split = [part.unflatten(2, (2, 4)).transpose(1, 2) for part in parts]
        return nn.functional.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2)

    sides = (heads(*x).detach().flatten(0, 1).double() for x in (target, reference))
    weight, bias = oracle.engram(module.out_proj.weight.detach().double(), module.out_proj.bias.detach(), *sides)
    assert relative_error(found["attention.out_proj.weight"], weight) < 1e-4
    assert relative_error(found["attention.out_proj.bias"], bias) < 1e-4


def test_self_attention_has_one_input_for_query_key_and_value():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    concept = Concept.from_batches([torch.randn(9, 4, 8)], [torch.randn(9, 4, 8)])
    statistics = collect(layer, concept)
    assert statistics.inputs == ("self_attn.Q.in", "self_attn.out_proj.in", "linear1.in", "linear2.in")
    assert layer.training  # it ran in evaluation mode, and is as it was


class Tied(nn.Module):
    """A module that runs twice, one that has the same weight, and an unembedding that is the embedding."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.first, self.second = nn.Linear(6, 6, bias=False), nn.Linear(6, 6, bias=False)
        self.second.weight = self.first.weight
        self.out = nn.Linear(6, 11, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, tokens):
        x = self.embed(tokens)
        return self.out(self.second(self.first(self.first(x).tanh()).tanh()))


def tied_inputs(model: Tied, tokens: torch.Tensor) -> torch.Tensor:
    x = model.embed(tokens)
    y = model.first(x).tanh()
    z = model.first(y).tanh()
    return torch.cat([one.detach().flatten(0, 1) for one in (x, y, z)]).double()


def test_a_shared_weight_is_one_matrix_that_reads_all_of_its_inputs():
    model = Tied()
    sides = [torch.randint(0, 11, (n, 4)) for n in (9, 20)]
    engram = extract(model, Concept.from_batches(*([side] for side in sides)))
    weight, _ = oracle.engram(model.first.weight.detach().double(), None, *(tied_inputs(model, side) for side in sides))
    assert list(engram) == ["first.weight", "out.weight"]
    assert relative_error(engram["first.weight"], weight) < 1e-4


def test_an_edit_of_an_unembedding_leaves_the_embedding_that_it_is():
    model = Tied()
    tokens = torch.randint(0, 11, (9, 4))
    engram = extract(model, Concept.from_batches([tokens], [tokens + 0]), components="out")
    embedding = model.embed.weight.detach().clone()
    with engram.ablated(model, 1.0):
        assert torch.equal(model.embed.weight, embedding)
        torch.testing.assert_close(model.out.weight, embedding - engram["out.weight"])
    assert model.out.weight is model.embed.weight
    assert torch.equal(model.embed.weight, embedding)
    assert torch.equal(engram.ablate(model, 1.0).embed.weight, embedding)


def test_matrices_that_read_one_tensor_share_its_statistics_and_convolutions_only_the_same_patches():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 3, padding=1)
            self.c, self.d = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 3, padding=1, groups=1, stride=2)

        def forward(self, x):
            return self.a(x), self.b(x), self.c(x), self.d(x)

    concept = Concept.from_batches([torch.randn(8, 3, 5, 5)], [torch.randn(8, 3, 5, 5)])
    assert collect(Model(), concept).inputs == ("a.in", "c.in", "d.in")
    # A choice of matrices finds the shared input too.
    model = Model()
    some, every = extract(model, concept, components="b"), extract(model, concept)
    assert list(some) == ["b.weight", "b.bias"]
    torch.testing.assert_close(some["b.weight"], every["b.weight"])


@pytest.mark.parametrize("family", ["Llama", "GPT-2"])
def test_a_hugging_face_model_as_a_plain_module_has_the_engrams_of_brute_force(family):
    hf = huggingface.make(family)
    (target, target_mask), (reference, reference_mask) = masked_tokens(40, 1), masked_tokens(80, 2)
    inputs = huggingface.read(hf, target, reference, target_mask, reference_mask)
    concept = Concept.from_batches(
        [{"input_ids": target}], [{"input_ids": reference}], mask=lambda batch: batch["input_ids"] % 5 > 1
    )
    found = extract(hf, concept)
    for name, module in huggingface.linear_modules(hf).items():
        weight, bias = huggingface.engram(
            huggingface.weight_of(module), None if module.bias is None else module.bias.detach(), inputs[name]
        )
        mine = found[f"{name}.weight"]
        assert relative_error(mine.T if type(module).__name__ == "Conv1D" else mine, weight) < 1e-4, name
        if bias is not None and f"{name}.bias" in found:
            assert relative_error(found[f"{name}.bias"], bias) < 1e-4, name


def test_a_language_model_has_the_same_map_as_a_plain_module_and_through_its_own_adapter():
    hf = huggingface.make("Llama")
    (target, target_mask), (reference, reference_mask) = masked_tokens(40, 1), masked_tokens(80, 2)
    plain = localize(hf, Concept.from_batches([target], [reference], mask=lambda tokens: tokens % 5 > 1))
    bridge = bridge_of("tiny", hf)
    own = localize(bridge, Concept.from_tokens(target, reference, target_mask, reference_mask), null="analytic")
    from_batches = localize(bridge, Concept.from_batches([target], [reference], mask=lambda tokens: tokens % 5 > 1))
    pairs = {"model.layers.1.mlp.down_proj.weight": "blocks.1.mlp.W_out", "lm_head.weight": "unembed.W_U",
             "model.layers.0.self_attn.k_proj.weight": "blocks.0.attn.W_K"}  # fmt: skip
    numbers = ["wnorm", "fisher", "excess", "fisher_excess"]
    for mine, theirs in pairs.items():
        row, expected, third = (
            wmap.to_frame().set_index("key").loc[key, numbers].astype(float)
            for wmap, key in ((plain, mine), (own, theirs), (from_batches, theirs))
        )
        assert row.to_numpy() == pytest.approx(expected.to_numpy(), rel=1e-4), mine
        assert third.to_numpy() == pytest.approx(expected.to_numpy(), rel=1e-4), theirs


def test_matrices_without_a_bias_have_no_row_of_ones_whoever_reads_the_same():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.k, self.v = nn.Linear(4, 4), nn.Linear(4, 4, bias=False), nn.Linear(4, 4)

        def forward(self, x):
            return self.q(x) + self.k(x) + x @ self.v.weight.T + self.v.bias

    model, target, reference = Model(), torch.randn(30, 4) + 1, torch.randn(60, 4)
    concept = Concept.from_batches([target], [reference])
    found = extract(model, concept)
    assert collect(model, concept).inputs == ("q.in", "k.in")
    for name in "qkv":
        module = getattr(model, name)
        bias = None if module.bias is None else module.bias.detach()
        weight, _ = oracle.engram(module.weight.detach().double(), bias, target.double(), reference.double())
        assert relative_error(found[f"{name}.weight"], weight) < 1e-4, name


def test_a_weight_that_is_multiplied_the_other_way_round_is_not_read():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.out, self.turned = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return torch.addmm(self.turned.bias, self.out(x), self.turned.weight)  # x @ W, not W x

    found = extract(Model(), Concept.from_batches([torch.randn(20, 4)], [torch.randn(20, 4)]))
    assert set(found) == {"out.weight", "out.bias"}


def test_a_mask_of_positions_serves_what_has_them():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.patches, self.mix, self.head = nn.Conv2d(1, 4, 2, 2), nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x):
            x = self.patches(x).flatten(2).transpose(1, 2)  # [batch 4 4]
            return self.head(self.mix(x).mean(1))

    x, mask = torch.randn(12, 1, 4, 4), torch.rand(12, 4) < 0.5
    concept = Concept.from_batches([x], [x + 1], mask=lambda _: mask)
    assert list(extract(Model(), concept, components="mix")) == ["mix.weight", "mix.bias"]
    with pytest.raises(ValueError, match=r"\[12, 4\].*patches\.weight"):
        extract(Model(), concept)


class Odd(nn.Module):
    """A linear layer beside what is not read: a recurrent layer, a bare parameter, a layer that never runs."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(4, 4, batch_first=True)
        self.shift, self.mix = nn.Parameter(torch.randn(1, 4)), nn.Parameter(torch.randn(4, 4))
        self.out, self.spare = nn.Linear(4, 2), nn.Linear(4, 2)

    def forward(self, x):
        return self.out(self.rnn(x)[0] @ self.mix + self.shift)


def test_what_is_not_covered_is_said(caplog):
    concept = Concept.from_batches([torch.randn(8, 3, 4)], [torch.randn(8, 3, 4)])
    with caplog.at_level(logging.WARNING, logger="engram_interp"):
        assert set(extract(Odd(), concept)) == {"out.weight", "out.bias"}
    (said,) = [record.getMessage() for record in caplog.records if "not covered" in record.getMessage()]
    for name in ("rnn (LSTM)", "shift", "mix", "spare.weight (did not run"):
        assert name in said
    with pytest.raises(ValueError, match=r"spare\.weight"):
        extract(Odd(), concept, components="spare")
    with pytest.raises(ValueError, match="rnn"):
        extract(Odd(), concept, components="rnn")


def test_a_weight_that_is_also_multiplied_by_hand_is_said_to_be(caplog):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.out = nn.Linear(4, 4)

        def forward(self, x):
            return self.out(x) @ self.out.weight[:2].T

    with caplog.at_level(logging.WARNING, logger="engram_interp"):
        extract(Model(), Concept.from_batches([torch.randn(20, 4)], [torch.randn(20, 4)]))
    assert "out.weight (also multiplied outside of its layer)" in caplog.text


def test_rows_that_no_example_owns_are_refused():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.out = nn.Linear(4, 2)

        def forward(self, x):
            return self.out(x.mean(0, keepdim=True))

    with pytest.raises(ValueError, match=r"out\.weight.*\[1, 4\].*batch of 8"):
        extract(Model(), Concept.from_batches([torch.randn(8, 4)], [torch.randn(8, 4)]))


def test_a_layer_that_reads_now_this_and_now_that_is_refused():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return self.a(x) + self.b(x if len(x) < 9 else x + 1)

    model, target, reference = Model(), torch.randn(8, 4), torch.randn(9, 4)
    concept = Concept.from_batches([target], [reference])
    with pytest.raises(NotImplementedError, match=r"b\.weight and a\.weight.*Call it again"):
        extract(model, concept)
    weight, _ = oracle.engram(
        model.b.weight.detach().double(), model.b.bias.detach(), target.double(), (reference + 1).double()
    )
    assert relative_error(extract(model, concept)["b.weight"], weight) < 1e-4


def test_a_layer_that_is_called_once_more_has_an_input_of_its_own():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return self.a(x) + self.b(x) + self.a(torch.relu(x - 1) * 3)

    model, target, reference = Model(), torch.randn(30, 4), torch.randn(60, 4)
    found = extract(model, Concept.from_batches([target], [reference]))
    sides = [target.double(), reference.double()]
    weight, _ = oracle.engram(model.b.weight.detach().double(), model.b.bias.detach(), *sides)
    assert relative_error(found["b.weight"], weight) < 1e-4
    both = [torch.cat([x, torch.relu(x - 1) * 3]) for x in sides]
    weight, _ = oracle.engram(model.a.weight.detach().double(), model.a.bias.detach(), *both)
    assert relative_error(found["a.weight"], weight) < 1e-4


def test_positions_may_come_before_examples_also_if_there_are_as_many():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.out = nn.Linear(4, 4)

        def forward(self, x):
            return self.out(x.transpose(0, 1))  # [pos batch d]

    model, target, reference = Model(), torch.randn(6, 6, 4), torch.randn(6, 6, 4)
    whole = torch.arange(6) < 3
    found = extract(model, Concept.from_batches([target], [reference], mask=lambda _: whole))
    sides = [x[whole].flatten(0, 1).double() for x in (target, reference)]
    weight, _ = oracle.engram(model.out.weight.detach().double(), model.out.bias.detach(), *sides)
    assert relative_error(found["out.weight"], weight) < 1e-4
    some = torch.rand(6, 6, generator=torch.Generator().manual_seed(0)) < 0.7
    found = extract(model, Concept.from_batches([target], [reference], mask=lambda _: some))
    sides = [x[some].double() for x in (target, reference)]
    weight, _ = oracle.engram(model.out.weight.detach().double(), model.out.bias.detach(), *sides)
    assert relative_error(found["out.weight"], weight) < 1e-4


def test_the_model_and_its_settings_are_as_they_were():
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Dropout(0.5), nn.Flatten(), nn.Linear(27, 2))
    model[2].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    concept = Concept.from_batches([torch.randn(9, 1, 5, 5)], [torch.randn(9, 1, 5, 5)])
    state, fast = torch.get_rng_state(), torch.backends.mha.get_fastpath_enabled()
    extract(model, concept)
    assert torch.equal(torch.get_rng_state(), state)
    assert [one.training for one in model] == [True, True, False, True, True]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.backends.mha.get_fastpath_enabled() == fast
    adapter = adapt(model)
    assert [site.layer for site in adapter.sites()] == [0, 1]
