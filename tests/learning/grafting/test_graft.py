import pytest
import torch

import engram_interp as ei
from engram_interp.common import storage
from engram_interp.models import adapt
from tests.conftest import build, token_concept


@pytest.fixture(scope="module")
def graft() -> ei.Graft:
    return ei.graft(build("gpt2", seed=1), build("gpt2"), token_concept(), by="entries", share=0.2)


def test_it_is_injected_into_its_base_only(graft):
    with pytest.raises(ValueError, match="another model"):
        graft.inject(build("gpt2", seed=2))


def test_half_of_it_is_half_of_the_way(graft):
    base, key = build("gpt2"), "blocks.0.mlp.W_in"
    half = graft.inject(base, alpha=0.5)
    expected = adapt(base).parameter(key) + (0.5 * graft[key]).float()
    assert torch.allclose(adapt(half).parameter(key), expected)
    with graft.injected(base, alpha=1.0):
        assert not torch.equal(adapt(base).parameter(key), adapt(build("gpt2")).parameter(key))
    assert torch.equal(adapt(base).parameter(key), adapt(build("gpt2")).parameter(key))


def test_it_is_an_engram(graft):
    assert isinstance(graft, ei.Engram)
    assert graft.select(components="Q").sites[0].component == "W_Q"
    doubled = 2 * graft
    assert torch.equal(doubled["blocks.0.mlp.W_in"], 2 * graft["blocks.0.mlp.W_in"])
    assert 0 < graft.wnorm()["blocks.0.mlp.W_in"] < 2
    assert graft.to_frame()["entries"].sum() == graft.n_entries
    assert "20" in repr(graft)
    assert "Graft" in graft._repr_html_()


def test_a_graft_without_a_curve_draws_none(graft):
    with pytest.raises(ValueError, match="share was given"):
        graft.plot()


def test_parameters_without_a_matrix_are_grafted_last_and_come_with_numbers_only():
    model, base = build("gpt2", seed=1), build("gpt2")
    whole = ei.graft(model, base, token_concept(), by="magnitude", share=1.0)
    assert "embed.W_E" in whole.others
    assert whole.alphas(2.0)["embed.W_E"] == 2.0
    assert whole.alphas({"Q": 2.0})["embed.W_E"] == 0.0


@pytest.mark.parametrize("share", [0.0, 0.2, 1.0])
def test_a_file_holds_it_to_the_bit_and_no_more_than_is_grafted(tmp_path, share):
    graft = ei.graft(build("gpt2", seed=1), build("gpt2"), token_concept(), by="magnitude", share=share)
    graft.save(tmp_path / "graft.safetensors")
    found = ei.Graft.load(tmp_path / "graft.safetensors")
    assert (found.share, found.by, found.name) == (share, "magnitude", graft.name)
    assert list(found) == list(graft)
    assert all(torch.equal(found[key], graft[key]) for key in graft)
    assert found.trained == graft.trained
    base = build("gpt2")
    pairs = zip(found.inject(base).parameters(), graft.inject(base).parameters(), strict=True)
    assert all(torch.equal(p, q) for p, q in pairs)


def test_a_small_graft_is_a_small_file(tmp_path, graft):
    graft.save(tmp_path / "graft")
    ei.graft(build("gpt2", seed=1), build("gpt2"), token_concept(), share=1.0).save(tmp_path / "whole")
    assert (tmp_path / "graft").stat().st_size < 0.5 * (tmp_path / "whole").stat().st_size


@pytest.mark.parametrize("what", ["place", "shape", "key", "share", "value"])
def test_a_file_that_holds_no_graft_is_refused(tmp_path, graft, what):
    graft.save(tmp_path / "graft")
    content = storage.read(tmp_path / "graft", "graft")
    tensors, fields = dict(content.tensors), dict(content.fields)
    key = "blocks.0.mlp.W_in"
    if what == "place":
        tensors[f"places/{key}"] = tensors[f"places/{key}"] + 10**6
    if what == "shape":
        fields["shapes"] = {**fields["shapes"], key: [2, -1]}
    if what == "key":
        fields["keys"] = ["blocks.0.mlp.W_nothing", *fields["keys"]]
    if what == "share":
        fields["share"] = 1.5
    if what == "value":
        tensors[f"values/{key}"] = torch.full_like(tensors[f"values/{key}"], torch.nan)
    storage.write(tmp_path / "broken", "graft", tensors, fields)
    with pytest.raises(ValueError, match="broken"):
        ei.Graft.load(tmp_path / "broken")


def test_an_engram_is_no_graft(tmp_path):
    ei.extract(build("gpt2"), token_concept()).save(tmp_path / "engram")
    with pytest.raises(ValueError, match="engram"):
        ei.Graft.load(tmp_path / "engram")
