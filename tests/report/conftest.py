"""One investigation of one author, with a gold model: every test of a report reads it."""

import pytest

from engram_interp import Concept, testbed
from engram_interp.report.findings import Findings, investigate


@pytest.fixture(scope="session")
def concept() -> Concept:
    corpus = testbed.authors()
    author, *others = corpus.forget10
    reference = [example for other in others for example in other.examples] + corpus.world_examples[:20]
    return Concept(author.examples, reference, name="A <b>name</b>")


@pytest.fixture(scope="session")
def findings(_full, concept) -> Findings:
    return investigate(_full, concept, keep=0.97, gold=testbed.load("retain"), progress=False)
