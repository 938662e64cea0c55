"""Quantised weights are read as what they stand for, and not edited."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from engram_interp import Concept, collect, extract, localize, plan
from engram_interp.models import adapt
from engram_interp.models.bridge.held import is_bitsandbytes, tensor_of
from engram_interp.models.loading import bridge_of
from tests import huggingface
from tests.conftest import token_concept

pytest.importorskip("bitsandbytes")
pytestmark = pytest.mark.filterwarnings("ignore:MatMul8bitLt:UserWarning")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    sizes = {"hidden_size": 64, "intermediate_size": 128}
    return huggingface.save(huggingface.make("Llama", **sizes), tmp_path_factory.mktemp("model") / "m")


def quantised(checkpoint, **how):
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(**how)
    hf = AutoModelForCausalLM.from_pretrained(checkpoint, quantization_config=config, device_map={"": "cpu"})
    return bridge_of("quantised", hf)


def concept() -> Concept:
    return token_concept(n=60)


@pytest.mark.parametrize(("how", "error"), [({"load_in_8bit": True}, 0.02), ({"load_in_4bit": True}, 0.15)])
def test_a_quantised_model_is_read_and_refuses_edits(checkpoint, how, error):
    model = quantised(checkpoint, **how)
    whole = bridge_of("whole", AutoModelForCausalLM.from_pretrained(checkpoint))
    key = "blocks.0.mlp.W_in"
    mine, others = adapt(model).parameter(key).float(), adapt(whole).parameter(key).detach()
    assert mine.shape == others.shape
    assert 0 < float((mine - others).norm() / others.norm()) < error
    wmap = localize(model, concept(), null="analytic", progress=False)
    expected = localize(whole, concept(), null="analytic", progress=False)
    assert list(wmap) == list(expected)
    assert all(wmap[key] == pytest.approx(expected[key], rel=4 * error) for key in expected)
    with pytest.raises(ValueError, match=r"blocks\.0\.attn\.W_Q .*bitsandbytes.*cannot be edited"):
        extract(model, concept(), progress=False).ablate(model)
    assert len(plan(model, 1000, flops=1e9).inputs) == len(collect(model, concept(), progress=False).inputs)


def test_inputs_are_exactly_what_the_layers_are_given(checkpoint):
    model = quantised(checkpoint, load_in_4bit=True)
    seen = []
    linear = model.original_model.get_submodule("model").layers[0]
    module = next(one for name, one in linear.named_modules() if is_bitsandbytes(one) and "down" in name)
    module.register_forward_pre_hook(lambda _module, args: seen.append(args[0].flatten(0, 1).double()))
    rows = concept()
    found = collect(model, rows, components="out", layers=0, batch_size=1000, progress=False)
    X = torch.cat(seen)
    whole = found.total("blocks.0.mlp.post").matrix(ones=False)
    assert float((X.T @ X).diagonal().sum()) >= float(whole.diagonal().sum())
    assert tensor_of(module, "weight").shape == (64, 128)
