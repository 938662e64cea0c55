"""What objects show in a notebook: a small table and a picture, and no markup of a user's; in a terminal, a line."""

from dataclasses import replace

import pytest

import engram_interp as ei
from tests.figures.test_small import parsed

HOSTILE = "<script>alert(1)</script>"
WITHOUT_A_PICTURE = {"complement"}


@pytest.fixture(scope="module")
def shown():
    model, corpus = ei.testbed.load("full"), ei.testbed.authors()
    author, *others = corpus.forget10[:5]
    concept = ei.Concept(author.examples, [one for other in others for one in other.examples], name=HOSTILE)
    stats = ei.collect(model, concept, layers=[0, 1])
    engram = ei.extract(model, stats)
    parts = ei.decompose(model, {HOSTILE: author.examples, "b": others[0].examples}, layers=[0], components="gate")
    path = ei.track([ei.testbed.load("base"), model], concept, components="gate", null="analytic")
    classifier, pictures = ei.testbed.load_classifier(), ei.testbed.pictures("test")
    classes = ei.Concept.from_dataset(pictures, target=0, name=HOSTILE)
    return {
        "concept": concept,
        "concept of batches": classes,
        "statistics": stats,
        "engram": engram,
        "engram of a module": ei.extract(classifier, classes),
        "map": ei.localize(model, stats),
        "map of a module": ei.localize(classifier, classes, null="analytic"),
        "map against random sets": ei.localize(model, concept, null="resampled", draws=19, layers=0),
        "diagnosis": ei.diagnose(model, stats),
        "diagnosis of statistics": ei.diagnose(stats),
        "choice": ei.choose_alpha(model, engram, concept, progress=False),
        "criteria": ei.criteria(model, engram, concept, alpha=1.0),
        "ablation": ei.ablation_study(model, concept, {HOSTILE: ei.Only("gate")}, alpha=1.0),
        "trajectory": path,
        "decomposition": parts,
        "overlap": ei.overlap(parts),
        "complement": ei.complement(parts),
    }


def test_each_is_a_table_and_a_picture(shown):
    for name, one in shown.items():
        page = one._repr_html_()
        assert HOSTILE not in page, name
        assert len(page) < 30_000, name
        assert page.count("<tr") <= 20, name
        if name == "concept of batches":
            continue  # nothing is known of batches before they are read
        assert "<table" in page or "<li" in page, name
        assert ("<svg" in page) == (name not in WITHOUT_A_PICTURE), name
        if "<svg" in page:
            parsed(page[page.index("<svg") : page.index("</svg>") + 6])


def test_each_is_a_line_or_two_in_a_terminal(shown):
    for name, one in shown.items():
        assert len(repr(one)) < 300, name
        assert repr(one).count("\n") < 2, name
        assert type(one).__name__ in repr(one), name


def test_a_map_that_holds_no_matrix_of_a_layer_is_drawn(shown):
    wmap = replace(shown["map"], table=shown["map"].table.query("layer == 1"))
    assert "<svg" in wmap._repr_html_()
