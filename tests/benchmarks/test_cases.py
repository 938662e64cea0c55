from engram_interp import testbed
from engram_interp.benchmarks import decoys, modules_of, nothing_planted, planted, standard_cases

CORPUS = testbed.authors()
TARGETS = [author.examples for author in CORPUS.holdout[:2]]


def test_every_target_is_planted_everywhere(full):
    cases = list(planted(full, TARGETS, CORPUS.examples, modules_of(full)))
    assert [(case.target_set, case.place.name) for case in cases] == [
        (target, place.name) for target in (0, 1) for place in modules_of(full)
    ]
    assert all(case.base is full for case in cases)


def test_a_decoy_lies_elsewhere_and_is_a_sibling(full):
    cases = list(decoys(full, TARGETS, CORPUS.examples, modules_of(full)))
    assert len(cases) == 4
    for case in cases:
        assert not case.place.keys & case.elsewhere.keys
        other = TARGETS[1 - case.target_set]
        assert set(other) <= set(case.concept.reference)
        assert not set(other) & set(case.concept.target)


def test_what_is_known_all_along_is_not_in_its_own_reference(full):
    unknown, known = nothing_planted(full, TARGETS[:1], [CORPUS.full[0].examples], CORPUS.examples)
    assert unknown.place is known.place is None
    assert (unknown.kind, known.kind) == ("before", "ordinary")
    assert not set(known.concept.target) & set(known.concept.reference)
    assert len(known.concept.reference) == len(CORPUS.examples) - 20


def test_the_standard_cases_are_many():
    kinds = [case.kind for case in standard_cases()]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {"planted": 40, "decoy": 10, "before": 5, "ordinary": 20}
