import pytest

from engram_interp.models import adapt
from tests.models.bridge.tiny import bridge


def test_a_missing_parameter_is_named():
    adapter = adapt(bridge())
    for key in ("blocks.9.mlp.W_in", "blocks.0.attn.b_Q", "blocks.0.mlp.experts.0.W_in"):
        with pytest.raises(ValueError, match=f"'tiny-Llama'.*{key}"):
            adapter.parameter(key)
