"""How a bridge is read; that its inputs are right is in test_families.py."""

import pytest

from engram_interp import collect
from engram_interp.models import adapt
from engram_interp.models.sites import Input
from tests.conftest import as_batch, tokens
from tests.models.bridge.tiny import CONCEPT, bridge


def test_an_input_whose_module_does_not_run_is_an_error():
    model = bridge()
    model.blocks[1].mlp.forward = lambda x: x
    with pytest.raises(RuntimeError, match=r"blocks\.1\.mlp\.in, blocks\.1\.mlp\.post"):
        collect(model, CONCEPT)


def test_hooks_are_gone_after_the_pass_also_after_an_error():
    model = bridge()
    collect(model, CONCEPT)
    before = {module: len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()}

    def fail(*_):
        raise ValueError("stop here")

    with pytest.raises(ValueError, match="stop here"):
        adapt(model).run(as_batch(tokens(2, 4)), [Input("attn.in", 0), Input("mlp.post", 1)], fail)
    after = {module: len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()}
    assert after == before


def test_the_pass_stops_behind_the_last_block_that_is_asked_for_and_never_unembeds():
    model, ran = bridge(), []
    for index, block in enumerate(model.blocks):
        block.register_forward_hook(lambda *_, index=index: ran.append(index))
    model.unembed.register_forward_hook(lambda *_: ran.append("unembed"))
    collect(model, CONCEPT, layers=[0])
    assert set(ran) == {0}
    collect(model, CONCEPT)
    assert set(ran) == {0, 1}
