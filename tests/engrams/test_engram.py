import copy

import numpy as np
import pytest
import torch
from torch import nn

from engram_interp import Engram, extract
from engram_interp.models import adapt
from engram_interp.models.sites import is_bias
from tests.conftest import build, folded, hooked_only, token_concept, tokens


@pytest.fixture
def engram(llama: nn.Module) -> Engram:
    return extract(llama, token_concept())


def parameters_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def assert_untouched(model: nn.Module, before: dict[str, torch.Tensor]) -> None:
    assert all(torch.equal(before[name], parameter) for name, parameter in model.named_parameters())


def assert_equal(a: Engram, b: Engram) -> None:
    assert list(a) == list(b)
    for key in a:
        torch.testing.assert_close(a[key], b[key])


def test_ablate_subtracts_and_inject_adds_in_a_copy(llama, engram):
    before = parameters_of(llama)
    without, with_more = engram.ablate(llama, alpha=0.5), engram.inject(llama, alpha=0.5)
    assert_untouched(llama, before)
    for key, tensor in engram.items():
        original = adapt(llama).parameter(key)
        torch.testing.assert_close(adapt(without).parameter(key), original - 0.5 * tensor)
        torch.testing.assert_close(adapt(with_more).parameter(key), original + 0.5 * tensor)


def test_what_was_ablated_can_be_injected_again(llama, engram):
    restored = engram.inject(engram.ablate(llama, alpha=0.7), alpha=0.7)
    torch.testing.assert_close(restored(tokens()), llama(tokens()), rtol=1e-4, atol=1e-5)


def test_biases_are_edited_with_their_weights(gpt2):
    engram = extract(gpt2, token_concept())
    edited = engram.ablate(gpt2, alpha={"O": 2.0})
    torch.testing.assert_close(edited.blocks[0].attn.b_O, gpt2.blocks[0].attn.b_O - 2 * engram["blocks.0.attn.b_O"])
    assert torch.equal(edited.blocks[0].mlp.b_in, gpt2.blocks[0].mlp.b_in)


@pytest.mark.parametrize("variant", ["llama", "gpt2"])
def test_in_place_means_restored_bit_for_bit(variant):
    model = build(variant)
    engram, before, logits = extract(model, token_concept()), parameters_of(model), model(tokens())
    with engram.ablated(model, alpha=0.6) as edited:
        assert edited is model
        assert not torch.allclose(model(tokens()), logits)
    assert_untouched(model, before)
    with engram.injected(model, alpha="w-norm"):
        pass
    assert_untouched(model, before)


def test_in_place_means_restored_also_after_an_error(llama, engram):
    before = parameters_of(llama)
    with pytest.raises(RuntimeError, match="stop"), engram.ablated(llama, alpha=3.0):
        raise RuntimeError("stop")
    assert_untouched(llama, before)
    with (
        pytest.raises(ValueError, match=r"alpha names blocks\.0\.mlp\.W_gat"),
        engram.ablated(llama, alpha={"blocks.0.mlp.W_gat": 1.0}),
    ):
        pass
    assert_untouched(llama, before)


def test_reduced_precision_is_restored_bit_for_bit_and_rounded_once():
    model = build("llama", dtype=torch.bfloat16)
    engram, before = extract(model, token_concept()), parameters_of(model)
    original = adapt(model).parameter("blocks.0.mlp.W_in").detach().clone()
    with engram.ablated(model, alpha=0.3):
        key = "blocks.0.mlp.W_in"
        exact = original.float() - torch.tensor(0.3) * engram[key]
        assert torch.equal(adapt(model).parameter(key), exact.bfloat16())
    assert_untouched(model, before)


@hooked_only
def test_grouped_keys_are_edited_where_they_live(llama, engram):
    logits = llama(tokens())
    only_keys = engram.select("K")
    with only_keys.ablated(llama, alpha=1.0):
        assert not torch.allclose(llama(tokens()), logits)
        repeated = llama.blocks[0].attn.W_K
        assert repeated.shape[0] == 4
        torch.testing.assert_close(repeated[0], llama.blocks[0].attn._W_K[0])


def test_editing_starts_from_the_original_each_time(llama, engram):
    with engram.editing(llama) as ablate:
        ablate(5.0)
        ablate(0.25)
        found = parameters_of(llama)
    expected = parameters_of(engram.ablate(llama, 0.25))
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_algebra(engram, llama):
    other = extract(llama, token_concept(seed=9))
    mix = 0.5 * engram - other * 2
    for key in engram:
        torch.testing.assert_close(mix[key], 0.5 * engram[key] - 2 * other[key])
    assert_equal(-engram, -1 * engram)
    assert_equal(engram + other, other + engram)
    assert_equal(engram + other - other, engram)


def test_editing_with_a_sum_is_editing_with_both(llama, engram):
    other = extract(llama, token_concept(seed=9))
    one_after_the_other = other.inject(engram.ablate(llama, 0.5), 2.0)
    torch.testing.assert_close(
        parameters_of((0.5 * engram - 2 * other).ablate(llama)),
        parameters_of(one_after_the_other),
        rtol=1e-5,
        atol=1e-6,
    )


def test_parts_add_up_to_the_whole(engram):
    parts = engram.select("Q") + engram.select(["K", "V", "O", "gate", "in", "out", "U"])
    assert set(parts) == set(engram)
    assert all(torch.equal(parts[key], engram[key]) for key in engram)
    heads = engram.select("Q", heads=[0, 2]) + engram.select("Q", heads=[1, 3])
    assert_equal(heads, engram.select("Q"))


def test_selection_by_component_layer_and_head(engram):
    assert list(engram.select("gate", layers=1)) == ["blocks.1.mlp.W_gate"]
    assert list(engram.select(["gate", "U"], layers=1)) == ["blocks.1.mlp.W_gate", "unembed.W_U"]
    assert "unembed.W_U" not in engram.select(layers=1)
    head = engram.select("K", heads=1)["blocks.0.attn.W_K"]
    assert torch.equal(head[1], engram["blocks.0.attn.W_K"][1])
    assert not head[0].any()
    assert "blocks.0.mlp.W_in" not in engram.select(heads=[0])


@pytest.mark.parametrize(
    ("selection", "says"),
    [
        ({"layers": [0, 5]}, r"unknown layer in \[0, 5\]; the layers here are \[0, 1\]"),
        ({"components": ["Q", "gate"]}, "no W_gate here; the components are W_Q, W_K"),
        ({"components": "up"}, "unknown component"),
        (
            {"components": "K", "heads": [3]},
            r"blocks\.0\.attn\.W_K has heads 0 to 1 \(key/value heads: name the components\), got \[3\]",
        ),
        ({"heads": []}, r"blocks\.0\.attn\.W_Q has heads 0 to 3, got \[\]"),
        (
            {"components": "U", "heads": 0},
            r"only matrices with heads or channels .* none is in \['unembed.W_U'\]",
        ),
    ],
)
def test_a_selection_of_what_is_not_there_is_refused(engram, selection, says):
    with pytest.raises(ValueError, match=says):
        engram.select(["Q", "K", "U"]).select(**selection)


@pytest.mark.parametrize("alpha", [float("nan"), float("inf"), {"Q": float("nan")}])
def test_a_strength_that_is_not_finite_is_refused(llama, engram, alpha):
    before = parameters_of(llama)
    with pytest.raises(ValueError, match="alpha.*(nan|inf)"):
        engram.ablate(llama, alpha)
    with pytest.raises(ValueError, match="alpha.*(nan|inf)"), engram.ablated(llama, alpha):
        pass
    assert_untouched(llama, before)


def test_a_component_named_twice_is_refused(engram):
    with pytest.raises(ValueError, match=r"alpha.*\['Q', 'W_Q'\]"):
        engram.alphas({"Q": 1.0, "W_Q": 2.0})


def test_a_zero_matrix_has_no_share_and_a_zero_engram_no_largest(llama):
    llama.blocks[0].mlp.W_in.data.zero_()
    engram = extract(llama, token_concept())
    assert engram.wnorm()["blocks.0.mlp.W_in"] == 0.0
    assert all(parameter.isfinite().all() for parameter in engram.ablate(llama, "w-norm").parameters())
    with pytest.raises(ValueError, match="alpha.*w-norm.*zero"):
        (0 * engram).alphas("w-norm")


def test_numpys_numbers_multiply_and_engrams_are_told_apart_by_identity(engram):
    assert_equal(np.float64(0.5) * engram, engram / 2)
    assert engram == engram
    assert engram != 1 * engram


def test_wnorm_is_over_the_weight_alone(gpt2):
    engram = extract(gpt2, token_concept())
    wnorm = engram.wnorm()
    assert not any(is_bias(key) for key in wnorm)
    key = "blocks.1.mlp.W_out"
    assert wnorm[key] == pytest.approx(float((engram[key].norm() / gpt2.blocks[1].mlp.W_out.norm()).detach()), rel=1e-5)
    assert (2 * engram).wnorm()[key] == pytest.approx(2 * wnorm[key])


def test_alpha_by_wnorm_is_each_over_the_largest(engram):
    wnorm = engram.wnorm()
    assert engram.alphas("w-norm") == pytest.approx({key: value / max(wnorm.values()) for key, value in wnorm.items()})
    assert max(engram.alphas("w-norm").values()) == 1.0


def test_alpha_by_name_takes_a_key_before_its_component_and_leaves_the_rest(engram):
    alphas = engram.alphas({"gate": 2.0, "blocks.1.mlp.W_gate": 3.0, "W_U": 0.5})
    assert alphas["blocks.0.mlp.W_gate"] == 2.0
    assert alphas["blocks.1.mlp.W_gate"] == 3.0
    assert alphas["unembed.W_U"] == 0.5
    assert alphas["blocks.0.attn.W_Q"] == 0.0


@pytest.mark.parametrize("alpha", [{"blocks.7.mlp.W_in": 1.0}, {"W_in": 1.0, "unembed.W_X": 2.0}])
def test_alpha_for_what_the_engram_lacks_is_refused(engram, alpha):
    with pytest.raises(ValueError, match="alpha names .*"):
        engram.alphas(alpha)


def test_alpha_for_an_absent_component_is_refused(engram):
    with pytest.raises(ValueError, match="alpha.*W_U"):
        engram.select("Q").alphas({"U": 1.0})


def test_alpha_of_another_word_is_refused(engram):
    with pytest.raises(ValueError, match="alpha.*w-norm.*'wnorm'"):
        engram.alphas("wnorm")


def test_an_unknown_key_is_refused_by_name(engram):
    with pytest.raises(KeyError, match=r"blocks\.0\.attn\.W_X.*blocks\.0\.attn\.W_Q"):
        engram["blocks.0.attn.W_X"]


def test_an_engram_of_another_model_is_refused(engram):
    other = build("llama", seed=1)
    before = parameters_of(other)
    for edit in (engram.ablate, engram.inject):
        with pytest.raises(ValueError, match="the engram.*fingerprint"):
            edit(other)
    with pytest.raises(ValueError, match="the engram.*fingerprint"), engram.ablated(other):
        pass
    with pytest.raises(ValueError, match="second engram.*fingerprint"):
        engram + extract(other, token_concept())
    assert_untouched(other, before)


def test_an_engram_of_other_shapes_is_refused(engram):
    with pytest.raises(ValueError, match=r"blocks\.0\.mlp\.W_gate.*\[16, 24\].*\[16, 40\]"):
        engram.ablate(build("llama", d_mlp=40))
    with pytest.raises(ValueError, match=r"blocks\.1\."):
        engram.ablate(build("llama", n_layers=1))


def test_an_engram_of_differently_processed_weights_is_refused(llama, engram):
    with pytest.raises(ValueError, match="raw.*folded"):
        engram.ablate(folded(llama))


def test_a_graft_onto_another_model_is_said_in_so_many_words(engram):
    other = build("llama", seed=1)
    grafted = engram.rebind(other).inject(other, 2.0)
    torch.testing.assert_close(grafted.blocks[0].mlp.W_in, other.blocks[0].mlp.W_in + 2 * engram["blocks.0.mlp.W_in"])
    with pytest.raises(ValueError, match=r"blocks\.\d\.\S+.*\[.*\].*\[.*\]"):
        engram.rebind(build("llama", d_mlp=40))


@pytest.mark.parametrize("variant", ["llama", "gpt2"])
def test_a_file_gives_back_the_same_engram(variant, tmp_path):
    model = build(variant)
    engram = extract(model, token_concept())
    engram.save(tmp_path / "engram.safetensors")
    loaded = Engram.load(tmp_path / "engram.safetensors")
    assert list(loaded) == list(engram)
    assert all(torch.equal(loaded[key], engram[key]) for key in engram)
    assert loaded.wnorm() == engram.wnorm()
    assert (loaded.info, loaded.name, loaded.options) == (engram.info, engram.name, engram.options)
    assert torch.equal(loaded.ablate(model)(tokens()), engram.ablate(model)(tokens()))


def test_a_copied_model_is_the_same_model(llama, engram):
    engram.ablate(copy.deepcopy(llama))


def test_selection_by_key_takes_the_bias_along(gpt2):
    engram = extract(gpt2, token_concept())
    assert list(engram.select(keys="blocks.0.mlp.W_in")) == ["blocks.0.mlp.W_in", "blocks.0.mlp.b_in"]
    with pytest.raises(ValueError, match=r"blocks\.7\.mlp\.W_in"):
        engram.select(keys=["blocks.7.mlp.W_in"])
    with pytest.raises(ValueError, match="components=Q, layers=None"):
        engram.select("Q", keys="blocks.0.mlp.W_in")


@pytest.mark.parametrize("alpha", [1e39, {"gate": 1e39}, -1e39])
def test_an_edit_that_no_float_holds_is_refused_and_leaves_the_model_alone(llama, engram, alpha, caplog):
    before = parameters_of(llama)
    for edit in (engram.ablate, engram.inject):
        with pytest.raises(ValueError, match=r"blocks\.\d\.\S+ .*finite.*alpha"):
            edit(llama, alpha)
    with engram.editing(llama) as ablate:
        ablate(1.0)
        with pytest.raises(ValueError, match="finite"):
            ablate(alpha)
        assert_untouched(llama, before)
    assert_untouched(llama, before)
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_an_edit_that_overflows_half_precision_is_refused():
    model = build("llama", dtype=torch.float16)
    engram = extract(model, token_concept())
    before = parameters_of(model)
    with pytest.raises(ValueError, match="finite.*alpha = 1e"), engram.ablated(model, 1e7):
        pass
    assert_untouched(model, before)


def test_engrams_are_finite(engram, llama):
    for factor in (float("nan"), float("inf"), 1e39):
        with pytest.raises(ValueError, match="finite"):
            factor * engram
    with pytest.raises(ValueError, match="finite"):
        (3e38 * engram) + (3e38 * engram) + (3e38 * engram)
    with pytest.raises(ValueError, match=r"finite.*blocks\.0"):
        extract(llama, token_concept(), filter=lambda x: torch.full_like(x, 1e300))


@pytest.mark.parametrize("number", [np.float32(2), np.int64(2), np.array(2.0), torch.tensor(2.0), torch.tensor(2)])
def test_numpys_and_torchs_numbers_are_strengths_and_factors(engram, llama, number):
    expected = parameters_of(engram.ablate(llama, 2.0))
    for edited in (
        engram.ablate(llama, number),
        engram.ablate(llama, dict.fromkeys(("Q", "K", "V", "O", "gate", "in", "out", "U"), number)),
        (engram * number).ablate(llama),
        (number * engram).ablate(llama),
    ):
        assert_untouched(edited, expected)
    for alpha in np.arange(1, 3):
        with engram.ablated(llama, alpha):
            pass


@pytest.mark.parametrize("alpha", ["2.0", True, np.True_, None, [1.0], {"gate": "1"}, {3: 1.0}], ids=repr)
def test_what_is_no_strength_is_refused(engram, alpha):
    with pytest.raises((TypeError, ValueError)):
        engram.alphas(alpha)


def test_layers_and_heads_are_any_whole_numbers_in_any_order(engram):
    expected = engram.select("Q", layers=1, heads=[0, 2])
    for layers, heads in (
        (np.int64(1), np.array([0, 2])),
        (torch.tensor(1), torch.tensor([0, 2])),
        ({1}, {0, 2}),
        (iter([1]), iter([0, 2])),
    ):
        assert_equal(engram.select(iter(["Q"]), layers=layers, heads=heads), expected)
    for wrong in (True, "1", 1.0, [1.0]):
        with pytest.raises(TypeError):
            engram.select("Q", layers=wrong)


def test_a_step_of_an_optimizer_inside_of_the_block_is_lost_and_said(engram, llama, caplog):
    before = parameters_of(llama)
    key = "blocks.0.mlp.W_gate"
    with engram.ablated(llama, 1.0):
        adapt(llama).parameter(key).data.add_(1.0)
    assert key in caplog.text
    assert "lost" in caplog.text
    assert_untouched(llama, before)
    caplog.clear()
    with engram.ablated(llama, 1.0), engram.ablated(llama, 2.0):
        pass
    assert not caplog.text


@hooked_only
def test_what_cannot_be_restored_is_named_and_all_else_is_restored(engram, llama):
    before = parameters_of(llama)
    with pytest.raises(RuntimeError, match=r"blocks\.0\.mlp\.W_in"), engram.ablated(llama, 1.0):
        llama.blocks[0].mlp.W_in = nn.Parameter(torch.zeros(3, 3))
    llama.blocks[0].mlp.W_in = nn.Parameter(before["blocks.0.mlp.W_in"].clone())
    assert_untouched(llama, before)


@hooked_only
def test_a_weight_of_two_layers_is_mapped_and_not_edited():
    model = build("llama")
    model.blocks[1].mlp.W_in = model.blocks[0].mlp.W_in
    engram = extract(model, token_concept())
    before = parameters_of(model)
    for edit in (engram, engram.select("in", layers=0), engram.select("in", layers=1)):
        with pytest.raises(ValueError, match=r"blocks\.\d\.mlp\.W_in.*blocks\.\d\.mlp\.W_in"):
            edit.ablate(model)
    assert_untouched(model, before)
    engram.select("gate").ablate(model)


@hooked_only
def test_an_unembedding_that_is_the_embedding_is_edited_alone():
    model = build("llama")
    model.unembed.W_U = nn.Parameter(model.embed.W_E.data.T)
    assert model.unembed.W_U.data_ptr() == model.embed.W_E.data_ptr()
    engram, embedding = extract(model, token_concept(), components="U"), model.embed.W_E.detach().clone()
    edited = engram.ablate(model, 2.0)
    assert torch.equal(edited.embed.W_E, embedding)
    torch.testing.assert_close(edited.unembed.W_U, embedding.T - 2 * engram["unembed.W_U"])
    with engram.ablated(model, 2.0):
        assert torch.equal(model.embed.W_E, embedding)
        assert torch.equal(model.unembed.W_U, edited.unembed.W_U)
    assert model.unembed.W_U.data_ptr() == model.embed.W_E.data_ptr()
    assert torch.equal(model.embed.W_E, embedding)


def test_blocks_that_end_in_any_order_leave_the_model_as_it_was(llama, engram):
    other = engram.select("gate") * 0.5
    before = parameters_of(llama)

    def block(edit):
        with edit.ablated(llama, 2.0):
            yield

    for order in ((0, 1, 2), (1, 0, 2), (2, 0, 1), (1, 2, 0)):
        blocks = [block(edit) for edit in (engram, other, engram)]
        for one in blocks:
            next(one)
        blocks[order[0]].close()
        key = "blocks.0.mlp.W_gate"
        left = [edit for place, edit in enumerate((engram, other, engram)) if place != order[0]]
        expected = adapt(llama).parameter(key)
        steps = sum(2.0 * edit[key] for edit in left)
        original = before.get(key)
        if original is not None:
            torch.testing.assert_close(expected, original - steps, rtol=1e-5, atol=1e-6)
        for place in order[1:]:
            blocks[place].close()
        assert_untouched(llama, before)


@hooked_only
@pytest.mark.parametrize(
    "replacement",
    [
        lambda model: model.blocks[1].attn.W_Q,
        lambda model: nn.Parameter(torch.zeros(3, 4, 16, 8)),
        lambda model: nn.Parameter(model.blocks[0].attn.W_Q.int(), requires_grad=False),
        lambda model: nn.Parameter(model.blocks[0].attn.W_Q.detach().half()),
    ],
    ids=["another layer's", "another shape", "integers", "another dtype"],
)
def test_a_parameter_that_was_replaced_is_named_and_never_restored_in_part(llama, engram, replacement):
    before = parameters_of(llama)
    original = llama.blocks[0].attn.W_Q
    with pytest.raises(RuntimeError, match=r"blocks\.0\.attn\.W_Q"), engram.ablated(llama, 1.0):
        llama.blocks[0].attn.W_Q = replacement(llama)
    llama.blocks[0].attn.W_Q = original
    original.data = before["blocks.0.attn.W_Q"].clone()
    assert_untouched(llama, before)


@hooked_only
def test_a_bias_that_is_a_norms_is_not_edited():
    model = build("gpt2")
    model.blocks[0].mlp.b_out = model.blocks[0].ln1.b
    engram = extract(model, token_concept(), components="out", layers=0)
    with pytest.raises(ValueError, match=r"blocks\.0\.mlp\.b_out.*blocks\.0\.ln1\.b"):
        engram.ablate(model, 3.0)


def test_a_copy_made_in_inference_mode_can_be_edited(llama, engram):
    with torch.inference_mode():
        edited = engram.ablate(llama, 1.0)
        again = extract(llama, token_concept())
    with again.ablated(edited, 1.0):
        pass
    assert_untouched(edited, parameters_of(engram.ablate(llama, 1.0)))


def test_engrams_are_added_to_engrams_and_nothing_else(engram):
    for other in (1, None, "x", {}):
        with pytest.raises(TypeError):
            engram + other
        with pytest.raises(TypeError):
            engram - other
    with pytest.raises(ValueError, match="divisor.*0"):
        engram / 0
