import pytest
import torch

from engram_interp.concepts.batches import any_batches
from engram_interp.concepts.data import Data
from engram_interp.concepts.digest import Digests, require_same_examples
from tests.conftest import token_concept


def digests(encoded, start=None) -> dict[str, str]:
    found = Digests(list(encoded), start)
    for batch in any_batches(encoded, 8, False, ""):
        found.add(batch)
    return found.values


def test_the_same_examples_have_the_same_digest_and_others_another():
    concept, other = token_concept(), token_concept(seed=4)
    mine = digests(concept.sides)
    assert mine == digests(concept.sides)
    assert digests({"target": other.target, "reference": concept.reference})["target"] != mine["target"]
    assert mine["target"] != mine["reference"]


def test_what_counts_is_part_of_it():
    concept = token_concept()
    from dataclasses import replace

    counting = [replace(one, counts=torch.ones_like(one.counts)) for one in concept.target]
    assert digests({"target": counting})["target"] != digests({"target": concept.target})["target"]


def test_a_digest_goes_on_from_what_was_stored():
    concept = token_concept()
    batches = list(any_batches(concept.sides, 8, False, ""))
    whole, first = Digests(["target", "reference"]), Digests(["target", "reference"])
    for batch in batches:
        whole.add(batch)
    for batch in batches[:5]:
        first.add(batch)
    rest = Digests(["target", "reference"], first.values)
    for batch in batches[5:]:
        rest.add(batch)
    assert rest.values == whole.values


def test_batches_of_other_data_are_told_apart_by_their_content():
    one, other = ({"target": Data([{"x": torch.full((2, 3), value)}])} for value in (1.0, 2.0))
    assert digests(one) != digests(other)


def test_the_groups_that_differ_are_named():
    require_same_examples({"a": "1"}, {"a": "1"}, "the store")
    with pytest.raises(ValueError, match="examples of b are not those of the store"):
        require_same_examples({"a": "1", "b": "2"}, {"a": "1", "b": "3"}, "the store")
