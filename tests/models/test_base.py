import pytest
import torch
from torch import nn

from engram_interp.models import ModelInfo, adapt
from engram_interp.models.base import fingerprint, identity, processing_of
from tests.conftest import as_batch, tokens

INFO = ModelInfo("tiny", "abc", "raw")


def test_the_same_model_is_accepted():
    INFO.require(ModelInfo("renamed", "abc", "raw"), "the engram")


def test_another_model_is_refused_by_name():
    with pytest.raises(ValueError, match=r"the engram, made from another model: 'tiny' .*, not 'other'"):
        INFO.require(ModelInfo("other", "def", "raw"), "the engram")


def test_other_processing_is_refused_with_the_remedy():
    with pytest.raises(ValueError, match="from raw weights of 'tiny', the model given has folded weights: load"):
        INFO.require(ModelInfo("tiny", "abc", "folded"), "the engram")


def test_a_fingerprint_sees_bits_shapes_and_dtypes():
    zeros = torch.zeros(4)
    distinct = [zeros, zeros.view(2, 2), zeros.bfloat16(), torch.full((4,), 1e-30)]
    assert len({fingerprint([tensor]) for tensor in distinct}) == 4
    assert fingerprint([zeros]) == fingerprint([torch.zeros(4)])


def test_a_models_identity_is_the_same_in_every_dtype_and_scale():
    W_E = torch.randn(50, 16)
    assert identity(W_E) == identity(W_E.half()) == identity(W_E.bfloat16()) == identity(4 * W_E)
    assert identity(W_E) != identity(W_E + 0.1 * torch.randn(50, 16))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_was_done_to_weights_is_seen_in_them(dtype):
    W_E, W_U = torch.randn(500, 64), torch.randn(64, 500)
    centred, unembedding = (W - W.mean(1, keepdim=True) for W in (W_E, W_U))
    assert processing_of([False, False], False, W_E.to(dtype), W_U.to(dtype)) == "raw"
    assert processing_of([], False, W_E.to(dtype), W_U.to(dtype)) == "raw"
    assert processing_of([True, False], True, W_E.to(dtype), W_U.to(dtype)) == "partly folded"
    assert processing_of([False], True, W_E.to(dtype), W_U.to(dtype)) == "value-folded"
    everything = processing_of([True, True], True, centred.to(dtype), unembedding.to(dtype))
    assert everything == "folded, centred, unembedding-centred"


def test_a_class_that_no_adapter_knows_is_refused():
    with pytest.raises(
        TypeError, match="expected a transformer_lens HookedTransformer or TransformerBridge, got torch.nn.*Linear"
    ):
        adapt(nn.Linear(2, 2))


def test_an_edited_copy_keeps_its_models_identity(llama: nn.Module):
    before = adapt(llama).info
    adapt(llama).parameter("blocks.0.mlp.W_in").data += 1
    assert adapt(llama).info == before


def test_any_hook_point_can_be_read_and_the_pass_ends_there(llama: nn.Module):
    rows, adapter = tokens(3, 7), adapt(llama)
    _, cache = llama.run_with_cache(rows)
    for point in ("blocks.0.hook_resid_post", "blocks.1.attn.hook_z", "blocks.1.hook_mlp_out"):
        found = adapter.read(as_batch(rows), point).flatten(2)  # a bridge has heads side by side
        assert torch.allclose(found, cache[point].flatten(2), atol=1e-6)
    ran = []
    handle = llama.blocks[1].register_forward_hook(lambda *_: ran.append(1))
    adapter.read(as_batch(rows), "blocks.0.hook_resid_post")
    handle.remove()
    assert not ran


def test_a_hook_point_that_is_not_there_or_does_not_run_is_refused(llama: nn.Module):
    adapter = adapt(llama)
    with pytest.raises(ValueError, match=r"has no hook point 'blocks\.5\.hook_resid_post'; the nearest are blocks"):
        adapter.read(as_batch(tokens(2, 5)), "blocks.5.hook_resid_post")
