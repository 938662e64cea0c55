import pytest
import torch
from torch import nn
from transformer_lens import HookedTransformer

from engram_interp.models import ModelInfo, adapt
from engram_interp.models.base import fingerprint

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


def test_a_class_that_no_adapter_knows_is_refused():
    with pytest.raises(TypeError, match="expected a transformer_lens HookedTransformer, got torch.nn.*Linear"):
        adapt(nn.Linear(2, 2))


def test_an_edited_copy_keeps_its_models_identity(llama: HookedTransformer):
    before = adapt(llama).info
    llama.blocks[0].mlp.W_in.data += 1
    assert adapt(llama).info == before
