import copy
import pickle
import re

import pytest
import torch

from engram_interp import Engram, collect, decompose, extract, filters
from engram_interp.linalg.ownership import ownership
from engram_interp.linalg.spectrum import spectrum
from engram_interp.models import adapt
from tests.conftest import token_concept
from tests.linalg.test_ownership import CHOICES


@pytest.mark.parametrize("g", CHOICES, ids=str)
def test_engrams_are_the_weights_times_the_filtered_projector(llama, g):
    statistics = collect(llama, token_concept())
    engram, key = extract(llama, statistics, filter=g), "blocks.1.mlp.W_in"
    moments = [statistics.groups[group]["blocks.1.mlp.in"].matrix(ones=False) for group in ("target", "reference")]
    P = ownership(moments[0], spectrum(sum(moments))).projector(g)
    W = adapt(llama).parameter(key).detach().double()
    torch.testing.assert_close(engram[key].double(), P.T @ W, rtol=1e-4, atol=1e-5)
    assert engram.options["filter"] == repr(g)


def test_a_bias_is_filtered_with_its_weight(gpt2):
    soft, squared = extract(gpt2, token_concept()), extract(gpt2, token_concept(), filter=filters.power(2))
    assert list(soft) == list(squared)
    assert not torch.allclose(soft["blocks.0.attn.b_Q"], squared["blocks.0.attn.b_Q"], rtol=1e-2)


def test_a_file_says_how_its_engram_was_filtered(llama, tmp_path):
    def bent(x):
        return x**3

    extract(llama, token_concept(), components="Q", ridge=0.5, filter=bent).save(tmp_path / "engram.safetensors")
    options = Engram.load(tmp_path / "engram.safetensors").options
    assert (options["filter"], options["ridge"]) == ("bent", 0.5)


def test_parts_are_filtered_when_they_are_asked_for(llama):
    concept = token_concept()
    parts = decompose(llama, {"mine": concept.target, "other": concept.reference})
    found, expected = parts.engram("mine", filter=filters.power(2)), extract(llama, concept, filter=filters.power(2))
    for key in expected:
        torch.testing.assert_close(found[key], expected[key], rtol=1e-4, atol=1e-6)
    assert found.options["filter"] == "power(2)"
    assert parts.token_share("mine") == collect(llama, concept).token_share()


@pytest.mark.parametrize(
    ("make", "given", "message"),
    [
        (filters.power, 0, r"^p .* 0\.0$"),
        (filters.power, float("inf"), "^p .* inf$"),
        (filters.hard, 0, r"^tau .* 0\.0$"),
        (filters.hard, 1e-9, "^tau .* 1e-09$"),
        (filters.hard, 1.0, r"^tau .* 1\.0$"),
        (filters.clip, -1, r"^gain .* -1\.0$"),
        (filters.over, 1, r"^share .* 1\.0$"),
    ],
)
def test_parameters_out_of_range_are_refused(make, given, message):
    with pytest.raises(ValueError, match=message):
        make(given)


@pytest.mark.parametrize("g", CHOICES, ids=str)
def test_a_filter_is_found_by_its_name(g):
    x = torch.linspace(0, 1, 9)
    assert torch.equal(filters.named(repr(g))(x), g(x))
    assert repr(filters.named(repr(g))) == repr(g)


def test_a_name_is_exact():
    assert filters.named(repr(filters.power(1 / 3))) == filters.power(1 / 3)
    x = torch.tensor([0.12345679], dtype=torch.float64)
    assert filters.named(repr(filters.hard(0.12345678)))(x).item() == 1
    assert repr(filters.over(1e-7)) == "over(1e-07)"


@pytest.mark.parametrize("name", ["hard", "power()", "power(2) ", "soft(1)", "power(e)", "hard(+-1)", "__class__(1)"])
def test_another_name_is_refused(name):
    with pytest.raises(ValueError, match=f"filter.*{re.escape(repr(name))}"):
        filters.named(name)


def test_what_is_no_function_is_refused():
    with pytest.raises(TypeError, match=r"filter.*'power\(2\)'.*filters\.named\('power\(2\)'\)"):
        filters.require_filter("power(2)")


@pytest.mark.parametrize("g", CHOICES, ids=str)
def test_a_filter_is_copied_and_pickled(g):
    x = torch.linspace(0, 1, 9, dtype=torch.float64)
    for other in (copy.deepcopy(g), pickle.loads(pickle.dumps(g))):
        assert (other, repr(other)) == (g, repr(g))
        assert torch.equal(other(x), g(x))


def test_a_copy_of_the_papers_filter_gives_the_papers_engram(llama):
    concept = token_concept()
    expected, found = (extract(llama, concept, filter=g) for g in (filters.soft, copy.deepcopy(filters.soft)))
    assert all(torch.equal(found[key], expected[key]) for key in expected)
