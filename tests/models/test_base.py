import pytest
import torch
from torch import nn

from engram_interp.models import adapt
from engram_interp.models.loading import bridge_of
from tests import huggingface
from tests.conftest import build, hooked_only


@hooked_only
@pytest.mark.parametrize("variant", ["llama", "gpt2", "attn_only", "sandwich"])
def test_every_parameter_is_a_matrix_a_bias_or_another(variant):
    model = build(variant)
    adapter = adapt(model)
    keys = dict.fromkeys(key for site in adapter.all_sites() for key in (site.path, site.bias) if key is not None)
    n = sum(adapter.parameter(key).numel() for key in keys)
    assert n + sum(one.numel() for one in adapter.other_parameters().values()) == sum(
        p.numel() for p in model.parameters()
    )
    assert "embed.W_E" in adapter.other_parameters()


@pytest.mark.parametrize("family", huggingface.FAMILIES)
def test_a_bridges_other_parameters_are_found_by_their_names(family):
    adapter = adapt(bridge_of("tiny", huggingface.make(family)))
    for name, one in adapter.other_parameters().items():
        assert adapter.parameter(name) is one
    matrices = [adapter.parameter(site.path) for site in adapter.all_sites()]
    places = {one.untyped_storage().data_ptr() for one in matrices}
    assert not places & {one.untyped_storage().data_ptr() for one in adapter.other_parameters().values()}


def test_a_norm_of_a_plain_module_is_another_parameter():
    net = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    assert list(adapt(net).other_parameters()) == ["1.weight", "1.bias"]
    assert isinstance(adapt(net).other_parameters()["1.weight"], torch.nn.Parameter)
