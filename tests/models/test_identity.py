import pytest
import torch
from torch import nn

from engram_interp.models import ModelInfo, adapt
from engram_interp.models import identity as place
from engram_interp.models.identity import identity, processing_of
from tests.conftest import build

INFO = ModelInfo("tiny", "abc", "raw")


def test_the_same_model_is_accepted():
    INFO.require(ModelInfo("renamed", "abc", "raw"), "the engram")


def test_another_model_is_refused_by_name():
    with pytest.raises(ValueError, match="the engram.*'tiny'.*'other'"):
        INFO.require(ModelInfo("other", "def", "raw"), "the engram")


def test_other_processing_is_refused_with_the_remedy():
    with pytest.raises(ValueError, match="the engram.*raw.*'tiny'.*folded"):
        INFO.require(ModelInfo("tiny", "abc", "folded"), "the engram")


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


def test_an_edited_copy_keeps_its_models_identity(llama: nn.Module):
    before = adapt(llama).info
    adapt(llama).parameter("blocks.0.mlp.W_in").data += 1
    assert adapt(llama).info == before


@pytest.fixture
def hashed(monkeypatch) -> list[int]:
    """One entry for every hash that is taken of an embedding."""
    calls: list[int] = []
    take = place.fingerprint
    monkeypatch.setattr(place, "fingerprint", lambda tensors: calls.append(1) or take(tensors))
    return calls


def test_a_second_look_at_a_model_takes_no_hash(hashed):
    model = build("llama")
    before = adapt(model).info
    assert len(hashed) == 1
    assert adapt(model).info == before
    assert len(hashed) == 1


@pytest.mark.parametrize(
    "edit",
    [
        lambda W_E: W_E.data.neg_(),
        lambda W_E: W_E.data[7].neg_(),
        lambda W_E: W_E.detach()[3, 4].neg_(),
        lambda W_E: setattr(W_E, "data", -W_E.detach()),
        lambda W_E: W_E.data[:, 5].neg_(),
    ],
    ids=["data", "a row of data", "an entry", "other data", "a column of data"],
)
def test_an_edit_of_the_embedding_makes_another_model(edit):
    model = build("llama")
    before = adapt(model).info.fingerprint
    edit(adapt(model).W_E)
    after = adapt(model).info.fingerprint
    assert after != before
    assert after == place.fingerprint([torch.signbit(adapt(model).W_E)])
