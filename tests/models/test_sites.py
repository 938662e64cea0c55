import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engram_interp.models import adapt
from engram_interp.models.components import ATTENTION, COMPONENT, COMPONENTS, component_names
from engram_interp.models.sites import component_of, is_bias, layer_of, weight_key
from tests.conftest import build

size = st.integers(1, 5)


@given(component=st.sampled_from(COMPONENTS), a=size, b=size, c=size)
def test_matrix_and_parameter_are_a_round_trip(component, a, b, c):
    parameter = torch.arange(a * b * c, dtype=torch.float32)
    parameter = parameter.reshape((a, b, c) if component in ATTENTION else (a, b * c))
    matrix = COMPONENT[component].to_matrix(parameter)
    assert torch.equal(COMPONENT[component].to_parameter(matrix, like=parameter), parameter)


def test_the_matrix_multiplies_columns_as_the_parameter_multiplies_rows():
    x = torch.randn(6)
    W_Q, W_O, W_in = torch.randn(2, 6, 3), torch.randn(2, 3, 4), torch.randn(6, 5)
    torch.testing.assert_close(COMPONENT["W_Q"].to_matrix(W_Q) @ x, torch.einsum("d,hde->he", x, W_Q).flatten())
    torch.testing.assert_close(COMPONENT["W_O"].to_matrix(W_O) @ x, torch.einsum("he,hed->d", x.view(2, 3), W_O))
    torch.testing.assert_close(COMPONENT["W_in"].to_matrix(W_in) @ x, x @ W_in)


def test_keys_say_what_they_are():
    assert component_of("blocks.3.mlp.W_gate") == "W_gate"
    assert weight_key("blocks.3.attn.b_O") == "blocks.3.attn.W_O"
    assert is_bias("unembed.b_U")
    assert not is_bias("blocks.0.attn.W_Q")
    assert layer_of("unembed.b_U") is None


@pytest.mark.parametrize("wrong", ["W_X", ["Q", "up"], []])
def test_unknown_components_are_refused_with_the_choices(wrong):
    with pytest.raises(ValueError, match="component.*W_Q, W_K, W_V, W_O, .* W_U.*Q, K"):
        component_names(wrong)


def test_a_component_that_the_model_lacks_is_refused():
    with pytest.raises(ValueError, match="W_gate .*W_Q, W_K, W_V, W_O, W_in, W_out, W_U"):
        adapt(build("gpt2")).sites(["gate", "Q"])
    with pytest.raises(ValueError, match="W_in, W_out .*W_Q, W_K, W_V, W_O, W_U"):
        adapt(build("attn_only")).sites(["in", "out"])


@pytest.mark.parametrize("layers", [[2], -1, [0, 7], []])
def test_an_unknown_layer_is_refused(layers):
    with pytest.raises(ValueError, match=r"layer.*\[0, 1\]"):
        adapt(build("llama")).sites(layers=layers)


def test_layers_leave_the_unembedding_out_unless_it_is_named():
    adapter = adapt(build("llama"))
    assert [site.key for site in adapter.sites("Q", layers=1)] == ["blocks.1.attn.W_Q"]
    assert "unembed.W_U" not in [site.key for site in adapter.sites(layers=[0, 1])]
    assert [site.key for site in adapter.sites(["Q", "U"], layers=[1])] == ["blocks.1.attn.W_Q", "unembed.W_U"]


def test_head_norms_by_hand():
    W_Q = torch.tensor([[[3.0], [4.0]], [[0.0], [2.0]]])  # |(3, 4)| = 5, |(0, 2)| = 2
    assert COMPONENT["W_Q"].head_norms(W_Q).tolist() == [5.0, 2.0]
    assert COMPONENT["W_in"].head_norms(torch.tensor([[1.0, 2.0], [2.0, 0.0]])).tolist() == [3.0]
