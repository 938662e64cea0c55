"""Which adapter a model gets, and how a class of one's own gets one."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from engram_interp import collect, extract
from engram_interp.models import adapt, adapt_language, register, registry
from engram_interp.models.torch_module.adapter import TorchModuleAdapter
from tests.conftest import build, token_concept


@pytest.fixture(autouse=True)
def _registered_for_this_test(monkeypatch):
    monkeypatch.setattr(registry, "_registered", {})


class Wrapper(nn.Module):
    """A model class of somebody else's."""

    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self.inside = inside
        self.cfg = inside.cfg


def test_a_class_of_ones_own_gets_the_adapter_that_is_registered_for_it():
    inside = build("llama")
    base = type(adapt(inside))

    class WrapperAdapter(base):
        """An adapter that unwraps."""

        def __init__(self, model: Wrapper) -> None:
            super().__init__(model.inside)

    model = Wrapper(inside)
    register(Wrapper, WrapperAdapter)
    assert isinstance(adapt(model), WrapperAdapter)
    assert collect(model, token_concept()).counts == collect(inside, token_concept()).counts
    found, expected = extract(model, token_concept()), extract(inside, token_concept())
    assert list(found) == list(expected)
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_a_class_derived_from_a_known_one_is_known():
    model = build("llama")
    known = type(adapt(model))
    model.__class__ = type("Mine", (type(model),), {})
    assert type(adapt(model)) is known


def test_a_registered_adapter_goes_before_the_packages_own_and_only_for_its_class():
    model, other = build("llama"), build("gpt2")
    known = type(adapt(model))
    mine, my_adapter = type("Mine", (type(model),), {}), type("MyAdapter", (known,), {})
    register(mine, my_adapter)
    model.__class__ = mine
    assert type(adapt(model)) is my_adapter
    assert type(adapt(other)) is known


def test_any_other_module_is_a_plain_one():
    adapter = adapt(nn.Sequential(nn.Linear(2, 2)))
    assert isinstance(adapter, TorchModuleAdapter)
    assert adapter.info.is_plain


def test_what_is_no_module_is_refused():
    with pytest.raises(TypeError, match="weights.pt"):
        adapt("weights.pt")


def test_a_plain_module_is_no_language_model():
    with pytest.raises(TypeError, match=r"torch\.Linear"):
        adapt_language(nn.Linear(2, 2))


@pytest.mark.parametrize("given", [(nn.Linear(1, 1), None), (nn.Linear, nn.Linear), (int, int)])
def test_only_classes_are_registered(given):
    with pytest.raises(TypeError, match="model_class|adapter"):
        register(*given)


def test_a_bridge_is_adapted_without_a_look_at_hooked_transformers():
    # TransformerLens 4 has none.
    program = """
import sys
from engram_interp.models import adapt
from engram_interp.models.loading import bridge_of
from tests import huggingface
print(type(adapt(bridge_of("tiny", huggingface.make("Llama")))).__name__)
print([name for name in sys.modules if name.startswith("engram_interp.models.hooked")])
"""
    found = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert found.split() == ["TransformerBridgeAdapter", "[]"]
