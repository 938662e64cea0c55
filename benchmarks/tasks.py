"""What do a resampled null, a strength, a diagnosis and a decomposition cost on the testbed, beside one pass?"""

from __future__ import annotations

from collections.abc import Iterator

import engram_interp as ei
from benchmarks.timing import Row, medians

AUTHOR = "Petra Dorlund"


def rows(repeats: int) -> Iterator[Row]:
    """The lines of the testbed."""
    model, corpus = ei.testbed.load("full"), ei.testbed.authors()
    concept = corpus.concept(AUTHOR)
    concepts = {author.name: author.examples for author in corpus.full} | {"world": corpus.world_examples}
    found = ei.collect(model, concept, progress=False)
    engram = ei.extract(model, found, progress=False)
    took = medians(
        {
            "score": lambda: ei.score(model, concept.sides, progress=False),
            "collect": lambda: ei.collect(model, concept, progress=False),
            "extract": lambda: ei.extract(model, found, progress=False),
            "localize": lambda: ei.localize(model, found, progress=False),
            "resampled null": lambda: ei.localize(model, concept, null="resampled", progress=False),
            "choose_alpha": lambda: ei.choose_alpha(model, engram, concept, progress=False),
            "diagnose": lambda: ei.diagnose(model, found, progress=False),
            "decompose 201 concepts": lambda: ei.decompose(model, concepts, progress=False),
        },
        repeats,
    )
    beside = took["resampled null"] - took["collect"] - took["localize"]
    yield Row("resampled null, beside pass and map", "testbed", beside, "s", beside / took["collect"], "collect")
    yield Row("choose_alpha", "testbed", took["choose_alpha"], "s", took["choose_alpha"] / took["score"], "score")
    yield Row("diagnose", "testbed", took["diagnose"], "s", took["diagnose"] / took["extract"], "extract")
    name = "decompose 201 concepts"
    yield Row(name, "testbed", took[name], "s", took[name] / took["collect"], "collect")
