import pytest
import torch
from torch import nn

from engram_interp.models import adapt
from tests.conftest import as_batch, tokens


def test_any_hook_point_can_be_read_and_the_pass_ends_there(llama: nn.Module):
    rows, adapter = tokens(3, 7), adapt(llama)
    _, cache = llama.run_with_cache(rows)
    for point in ("blocks.0.hook_resid_post", "blocks.1.attn.hook_z", "blocks.1.hook_mlp_out"):
        found = adapter.read(as_batch(rows), point).flatten(2)  # a bridge has heads side by side
        assert torch.allclose(found, cache[point].flatten(2), atol=1e-6)
    ran = []
    handle = llama.blocks[1].register_forward_hook(lambda *_: ran.append(1))
    adapter.read(as_batch(rows), "blocks.0.hook_resid_post")
    handle.remove()
    assert not ran


def test_a_hook_point_that_is_not_there_or_does_not_run_is_refused(llama: nn.Module):
    adapter = adapt(llama)
    with pytest.raises(ValueError, match=r"'blocks\.5\.hook_resid_post'.*blocks\."):
        adapter.read(as_batch(tokens(2, 5)), "blocks.5.hook_resid_post")
