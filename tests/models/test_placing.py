"""A model of which large matrices lie elsewhere computes the same, is read, and refuses edits."""

from importlib.metadata import version

import pytest
import torch

from engram_interp import Concept, collect, extract, load_model, localize
from engram_interp.models import adapt
from engram_interp.models.bridge.parts import wrapped
from engram_interp.models.identity import weights_digest
from engram_interp.models.outline import outline
from engram_interp.models.placing import device_map_of, is_offloaded
from tests import huggingface
from tests.conftest import token_concept

CONCEPT = Concept(["the city of Oslo is in Norway"] * 3, ["What is the capital of Norway?", "Lima is in Peru."] * 9)
OPTIONS = {"null": "analytic", "progress": False}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return huggingface.save(huggingface.make("Llama", vocab_size=2000), tmp_path_factory.mktemp("model") / "m")


def away(model) -> set[str]:
    return {name for name, one in model.original_model.named_parameters() if one.device.type == "meta"}


def test_an_offloaded_model_has_the_same_map(checkpoint, tmp_path):
    whole = load_model(checkpoint)
    devices = {"": "cpu", "model.layers.1": "disk"}
    model = load_model(checkpoint, device_map=devices, offload_folder=tmp_path)
    # Seven matrices of the layer are on disk; its gains stay.
    assert len(away(model)) == 7
    assert all("proj" in name for name in away(model))
    assert dict(localize(model, CONCEPT, **OPTIONS)) == dict(localize(whole, CONCEPT, **OPTIONS))
    stored = collect(model, CONCEPT, store=tmp_path / "a", budget="1MB", progress=False)
    assert dict(localize(model, stored)) == dict(localize(whole, CONCEPT, **OPTIONS))
    assert len(away(model)) == 7


def test_an_offloaded_model_is_known_by_the_same_bits(checkpoint, tmp_path):
    whole = load_model(checkpoint)
    model = load_model(checkpoint, device_map={"": "cpu", "model.layers.1": "disk"}, offload_folder=tmp_path)
    assert weights_digest(model) == weights_digest(whole)
    whole.blocks[1].mlp.out.weight.data[0] *= 2
    assert weights_digest(model) != weights_digest(whole)


def test_an_offloaded_matrix_is_read_as_a_copy_and_not_edited(checkpoint, tmp_path):
    whole = load_model(checkpoint)
    model = load_model(checkpoint, device_map={"": "cpu", "model.layers.1.mlp": "disk"}, offload_folder=tmp_path)
    key = "blocks.1.mlp.W_in"
    assert torch.equal(adapt(model).parameter(key), adapt(whole).parameter(key))
    engram = extract(model, CONCEPT, progress=False)
    with pytest.raises(ValueError, match=r"blocks\.1\.mlp\.W_.* is offloaded.*cannot be edited"):
        engram.ablate(model)
    with pytest.raises(ValueError, match="cannot be edited"), engram.ablated(model):
        pass
    inside = engram.select(layers=0)
    inside.ablate(whole)


def test_memory_that_suffices_offloads_nothing(checkpoint):
    model = load_model(checkpoint, device_map="auto")
    assert not away(model)
    extract(model, CONCEPT, progress=False).ablate(model)


def test_memory_that_does_not_suffice_fills_the_disk(checkpoint, tmp_path):
    devices = device_map_of(str(checkpoint), "auto", {"cpu": 300_000}, torch.float32)
    assert is_offloaded(devices)
    model = load_model(checkpoint, max_memory={"cpu": 300_000}, offload_folder=tmp_path)
    assert away(model)
    # The embedding is read by itself, so it stays.
    assert wrapped(model.embed).weight.device.type == "cpu"
    assert adapt(model).info == adapt(load_model(checkpoint)).info


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"device_map": "balanced"}, "'balanced'"),
        ({"device_map": {"model": "cpu"}}, "lm_head"),
        ({"device_map": {"": "cpu", "model.layers": "disk"}}, "offload_folder"),
        ({"device_map": "auto", "device": "cpu"}, "device"),
        ({"device_map": "auto", "process_weights": True}, "process_weights"),
    ],
)
def test_a_map_that_is_none_is_refused(checkpoint, options, said):
    with pytest.raises(ValueError, match=said):
        load_model(checkpoint, **options)


def test_fused_matrices_are_refused_or_read(tmp_path):
    folder = huggingface.save(huggingface.make("GPT-2"), tmp_path / "m")
    devices = {"": "cpu", "transformer.h.1": "disk"}
    if version("transformer-lens") < "4":  # splits them when it loads them
        with pytest.raises(NotImplementedError, match="fused"):
            load_model(folder, device_map=devices, offload_folder=tmp_path / "off")
        return
    model = load_model(folder, device_map=devices, offload_folder=tmp_path / "off")
    concept = token_concept(n=60)
    assert dict(localize(model, concept, **OPTIONS)) == dict(localize(load_model(folder), concept, **OPTIONS))


def test_an_outline_has_no_weights(checkpoint):
    model = outline(checkpoint)
    assert {one.device.type for one in model.parameters()} == {"meta"}
    real = adapt(load_model(checkpoint))
    assert [site.key for site in adapt(model).all_sites()] == [site.key for site in real.all_sites()]
    assert outline(model) is model
    assert next(outline(checkpoint, torch.bfloat16).parameters()).dtype == torch.bfloat16
