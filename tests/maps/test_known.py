import pytest

from engram_interp import Concept, localize, testbed
from engram_interp.maps.known import warn_if_unknown
from engram_interp.models import adapt
from engram_interp.options import Run

CORPUS = testbed.authors()
RUN = Run(progress=False)


def checked(model, author, others) -> None:
    concept = Concept(author.examples, [example for other in others for example in other.examples])
    adapter = adapt(model)
    encoded = adapter.encode_concept(concept)
    warn_if_unknown(adapter, encoded["target"], encoded["reference"], RUN)


def test_an_author_whom_the_model_does_not_know_is_said_to_be_unknown(full, caplog):
    checked(full, CORPUS.holdout[0], CORPUS.retain90[:20])
    assert "does not know the target" in caplog.text


@pytest.mark.parametrize("number", range(5))
def test_an_author_whom_it_knows_is_not(full, caplog, number):
    checked(full, CORPUS.full[number], CORPUS.retain90[-20:])
    assert not caplog.text


def test_fewer_siblings_than_the_target_has_examples_are_enough(full, caplog):
    checked(full, CORPUS.holdout[0], CORPUS.retain90[:1])
    assert "does not know the target" in caplog.text


def test_a_map_against_siblings_says_it(full, caplog):
    others = [example for author in CORPUS.retain90[:20] for example in author.examples]
    concept = Concept(CORPUS.holdout[0].examples, others)
    localize(full, concept, null="siblings", draws=19, layers=[0], components="O", progress=False)
    assert "does not know the target" in caplog.text
