import logging

import pytest

from engram_interp import collect, localize
from engram_interp.models import adapt
from tests.conftest import token_concept


def test_there_is_one_pass_over_the_examples(llama, monkeypatch):
    seen = []
    run = type(adapt(llama)).run
    monkeypatch.setattr(
        type(adapt(llama)), "run", lambda self, batch, *rest: seen.append(len(batch.tokens)) or run(self, batch, *rest)
    )
    localize(llama, token_concept(), null="resampled", draws=19)
    assert sum(seen) == 40 + 80


def test_the_cost_is_said_before_it_starts(llama, caplog):
    with caplog.at_level(logging.INFO, logger="engram_interp"):
        localize(llama, token_concept(), null="resampled", draws=19)
    said = [record.message for record in caplog.records if "resampled null takes" in record.message]
    assert len(said) == 1
    assert said[0].endswith("19 null sets and 50 resamplings of the target, of 40 examples each")


@pytest.mark.parametrize(
    ("large", "progress", "level"), [(0, None, "WARNING"), (0, False, "INFO"), (1e9, None, "INFO")]
)
def test_a_warning_is_about_much_alone(llama, caplog, monkeypatch, large, progress, level):
    monkeypatch.setattr("engram_interp.maps.null_pass.LARGE", large)
    with caplog.at_level(logging.INFO, logger="engram_interp"):
        localize(llama, token_concept(), null="resampled", draws=19, progress=progress)
    (said,) = [record for record in caplog.records if "resampled null takes" in record.message]
    assert said.levelname == level


def test_what_cannot_be_resampled_is_refused(llama):
    concept = token_concept()
    with pytest.raises(ValueError, match="draws.*5"):
        localize(llama, concept, null="resampled", draws=5)
    with pytest.raises(TypeError, match="resampled.*Concept"):
        localize(llama, collect(llama, concept), null="resampled")
    with pytest.raises(ValueError, match="null.*permuted"):
        localize(llama, concept, null="permuted")


def test_a_filter_that_takes_of_what_is_not_owned_has_no_resampled_null(llama):
    with pytest.raises(ValueError, match="0.5"):
        localize(llama, token_concept(), null="resampled", draws=19, filter=lambda x: x + 0.5)
