import pytest

from engram_interp import collect, extract
from engram_interp.models import adapt
from tests.conftest import tokens
from tests.models.bridge.tiny import CONCEPT, bridge


@pytest.mark.parametrize("flag", ["use_split_qkv_input", "use_attn_in"])
def test_inputs_split_by_head_are_refused(flag):
    model = bridge("GPT-2")
    getattr(model, f"set_{flag}")(True)
    with pytest.raises(ValueError, match=f"{flag}.*model.set_{flag}\\(False\\)"):
        collect(model, CONCEPT)


@pytest.mark.parametrize(
    ("done", "seen"),
    [
        (dict(fold_ln=False, center_writing_weights=False, center_unembed=False), "value-folded"),
        (dict(fold_ln=False, fold_value_biases=False, center_unembed=False), "centred"),
        (dict(fold_ln=False, fold_value_biases=False, center_writing_weights=False), "unembedding-centred"),
        (dict(center_writing_weights=False, center_unembed=False), "folded"),
        (dict(no_processing=True), "raw"),
    ],
)
def test_each_way_of_processing_is_told_from_the_others(done, seen):
    model = bridge("GPT-2")
    engram = extract(model, CONCEPT, components="in")
    model.enable_compatibility_mode(disable_warnings=True, **done)
    assert adapt(model).info.processing == seen
    if seen == "raw":
        assert engram.ablate(model)(tokens()).isfinite().all()
        return
    with pytest.raises(ValueError, match=f"raw.*'tiny-GPT-2'.* {seen} "):
        engram.ablate(model)
    if seen != "value-folded":  # whose edited copies have value biases again
        again = extract(model, CONCEPT)
        assert adapt(again.ablate(model)).info == again.info


def test_a_model_that_is_no_stack_of_blocks_is_refused():
    model = bridge()
    del model._modules["blocks"]
    with pytest.raises(NotImplementedError, match="'tiny-Llama'.*blocks"):
        collect(model, CONCEPT)
