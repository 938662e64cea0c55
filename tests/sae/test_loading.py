import sys

import pytest
import torch

from engram_interp import concept_from_sae, testbed
from engram_interp.models import adapt
from engram_interp.sae.reader import SaeReader
from tests.conftest import build
from tests.sae.saes import TRAINING, check, examples, make, make_training, sae_lens


@pytest.mark.parametrize("kind", TRAINING)
def test_one_in_training_is_read_as_what_it_saves(llama, kind, tmp_path):
    sae = make_training(kind)
    before = {name: tensor.clone() for name, tensor in sae.state_dict().items()}
    sae.save_inference_model(tmp_path)
    check(llama, sae, sae_lens.SAE.load_from_disk(tmp_path))
    assert all(torch.equal(before[name], tensor) for name, tensor in sae.state_dict().items())


@pytest.mark.parametrize(
    ("sae", "error", "says"),
    [
        (lambda: make("standard", hook=""), ValueError, r"hook_name"),
        (lambda: make("standard", model_name="gpt2-small"), ValueError, "'gpt2-small'.*'custom'"),
        (lambda: object(), TypeError, r"sae_lens\.SAE.*builtins\.object"),
    ],
)
def test_what_does_not_fit_is_refused(llama, sae, error, says):
    with pytest.raises(error, match=says):
        SaeReader(adapt(llama), sae())


def test_a_normalisation_left_out_of_the_weights_is_said(llama, caplog):
    sae = make("standard")
    sae.cfg.normalize_activations = "expected_average_only_in"
    SaeReader(adapt(llama), sae)
    assert "not folded into its weights" in caplog.text


def test_the_models_own_name_is_accepted():
    SaeReader(adapt(build("gpt2")), make("standard", model_name="Custom"))


def test_without_sae_lens_the_functions_say_what_to_install(llama, monkeypatch):
    monkeypatch.setitem(sys.modules, "sae_lens", None)
    for function in (lambda: concept_from_sae(llama, None, 0, examples()), testbed.load_sae):
        with pytest.raises(ImportError, match=r"pip install 'engram-interp\[sae\]'"):
            function()
