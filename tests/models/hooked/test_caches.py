import pytest

from engram_interp import names_filter
from tests.conftest import hooked_only
from tests.models.hooked.tiny import mixture

pytestmark = hooked_only


def test_a_cache_has_no_experts():
    with pytest.raises(NotImplementedError, match=r"blocks\.0\.mlp\.experts\.0\.in"):
        names_filter(mixture())
    assert names_filter(mixture(), components="O") == ["blocks.0.attn.hook_z", "blocks.1.attn.hook_z"]
