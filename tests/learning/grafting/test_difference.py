import pytest
import torch

from engram_interp.learning.grafting.difference import difference
from engram_interp.models import adapt
from engram_interp.models.loading import bridge_of
from engram_interp.options import Which
from tests import huggingface
from tests.conftest import build


@pytest.mark.parametrize("variant", ["llama", "gpt2", "attn_only"])
def test_every_parameter_that_differs_is_in_it_once(variant):
    fine, base = build(variant, seed=1), build(variant, seed=0)
    change = difference(adapt(fine), adapt(base), Which())
    total = sum(p.numel() for name, p in fine.named_parameters())
    assert change.n_entries == total
    square = sum(
        float((p.detach().double() - base.get_parameter(name).detach().double()).square().sum())
        for name, p in fine.named_parameters()
    )
    assert sum(float(one.square().sum()) for one in change.every.values()) == pytest.approx(square)


def test_a_named_component_leaves_everything_else_out():
    change = difference(adapt(build("llama", seed=1)), adapt(build("llama", seed=0)), Which(components="Q", layers=1))
    assert [key for key in change.every if not key.endswith("b_Q")] == ["blocks.1.attn.W_Q"]


def test_a_matrix_of_a_packed_parameter_is_taken_alone():
    torch.manual_seed(0)
    fine, base = (torch.nn.MultiheadAttention(8, 2, batch_first=True) for _ in range(2))
    nets = [torch.nn.ModuleDict({"attn": one}) for one in (fine, base)]
    change = difference(adapt(nets[0]), adapt(nets[1]), Which(components="attn.Q"))
    (key,) = [one for one in change.matrices if "weight" in one]
    expected = (fine.in_proj_weight.double() - base.in_proj_weight.double()).detach()
    assert torch.equal(change.matrices[key][:8], expected[:8])
    assert not change.matrices[key][8:].any()


def test_half_precision_differs_in_float32_and_exactly():
    fine, base = (bridge_of("tiny", huggingface.make("Llama").bfloat16()) for _ in range(2))
    with torch.no_grad():
        adapt(fine).parameter("blocks.0.mlp.W_in").mul_(1.01)
    change = difference(adapt(fine), adapt(base), Which())
    one = change.matrices["blocks.0.mlp.W_in"]
    assert one.dtype == torch.float32
    restored = (adapt(base).parameter("blocks.0.mlp.W_in").float() + one).bfloat16()
    assert torch.equal(restored, adapt(fine).parameter("blocks.0.mlp.W_in"))


def test_other_shapes_are_refused_by_name():
    with pytest.raises(ValueError, match="blocks.0.mlp.W_gate"):
        difference(adapt(build("llama", d_mlp=20)), adapt(build("llama")), Which())
