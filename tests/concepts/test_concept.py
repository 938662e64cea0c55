import copy
import pickle
import re

import numpy as np
import pytest
import torch

from engram_interp import Concept
from engram_interp.concepts.concept import Pair, _from_rows, check_example, require_concept
from tests.conftest import tokens


def test_a_pair_that_is_not_in_a_list_is_refused():
    with pytest.raises(ValueError, match=r"target.*\('Who\?', 'Bob'\)"):
        Concept(("Who?", "Bob"), ["a"])


def test_tokens_are_taken_as_given():
    given = tokens(3, 5)
    concept = Concept.from_tokens(given, given[:1], target_mask=given > 10)
    assert all(torch.equal(example.tokens, row) for example, row in zip(concept.target, given, strict=True))
    assert concept.reference[0].counts.all()


@pytest.mark.parametrize(
    ("target", "reference", "says"),
    [
        ([], ["a"], r"target.*\[\]"),
        (["a"], [], r"reference.*\[\]"),
        ("a text", ["a"], "target.*'a text'"),
        (["a"], ["b", "  "], r"reference\[1\].*'  '"),
    ],
)
def test_what_is_no_concept_is_refused(target, reference, says):
    with pytest.raises(ValueError, match=says):
        Concept(target, reference)


@pytest.mark.parametrize("example", [3, ("q", "a", "b"), ("q", None)])
def test_what_is_no_example_is_refused(example):
    with pytest.raises(TypeError, match=rf"target\[1\].*{re.escape(repr(example))}"):
        check_example(example, "target[1]")


def test_masks_must_fit_and_have_a_true():
    given = tokens(2, 4)
    with pytest.raises(ValueError, match=r"target_mask.*\[2, 4\].*\[2, 3\]"):
        Concept.from_tokens(given, given, target_mask=torch.ones(2, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match="reference_mask.*true"):
        Concept.from_tokens(given, given, reference_mask=torch.zeros(2, 4, dtype=torch.bool))


@pytest.mark.parametrize("tokens_given", [torch.ones(3, dtype=torch.long), torch.rand(2, 3), torch.ones(0, 3).long()])
def test_tokens_are_rows_of_integers(tokens_given):
    with pytest.raises(
        ValueError, match=rf"target tokens.*{tokens_given.dtype}.*{re.escape(str(list(tokens_given.shape)))}"
    ):
        _from_rows(tokens_given, None, "target")


def test_a_mask_of_numbers_is_refused():
    with pytest.raises(ValueError, match=r"target_mask.*torch\.int64"):
        _from_rows(tokens(2, 3), torch.ones(2, 3, dtype=torch.long), "target")


def test_something_else_in_a_concepts_place_is_refused():
    with pytest.raises(TypeError, match="concept.*list"):
        require_concept(["a"])


def test_a_concept_is_a_line():
    assert repr(Concept(["a", "b"], ["c"], "x")) == "Concept('x', 2 target and 1 reference examples)"
    shown = Concept(["a <b>"] * 5, [("q", "a")])._repr_html_()
    assert "a &lt;b&gt;" in shown
    assert "... and 2 more" in shown


@pytest.mark.parametrize("given", [{"a"}, {"a": "b"}, b"ab", 3, None, range(0), []], ids=repr)
def test_what_has_no_order_or_no_example_is_refused(given):
    with pytest.raises((TypeError, ValueError)):
        Concept(given, ["b"])


def test_the_callers_tensors_are_copied():
    rows, mask = torch.tensor([[1, 2], [3, 4]]), torch.tensor([[True, False], [True, True]])
    concept = Concept.from_tokens(rows, rows, mask, mask)
    rows.zero_()
    mask.zero_()
    assert [example.tokens.tolist() for example in concept.target] == [[1, 2], [3, 4]]
    assert [example.counts.tolist() for example in concept.target] == [[True, False], [True, True]]
    array = np.array([[1, 2]])
    assert Concept.from_tokens(array, array).target[0].tokens.tolist() == [1, 2]


@pytest.mark.parametrize(
    "given",
    [{1, 2}, {1: 2}, [[1, 2]], torch.ones(1, 2), torch.ones(1, 2).bool(), np.ones((1, 2), bool), "ab"],
    ids=repr,
)
def test_what_are_no_tokens_is_refused(given):
    rows = torch.tensor([[1, 2]])
    with pytest.raises((TypeError, ValueError)):
        Concept.from_tokens(given, rows)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.int32])
def test_integers_of_any_kind_are_tokens(dtype):
    array = np.array([[1, 2]], dtype=dtype)
    (example,) = Concept.from_tokens(array, array).target
    assert example.tokens.dtype == torch.int64


@pytest.mark.parametrize(("name", "given"), [("positions", "middle"), ("positions", None), ("eos", "no")])
def test_positions_that_are_none_are_refused(name, given):
    with pytest.raises((ValueError, TypeError), match=rf"{name}.*{given!r}"):
        Concept(["a"], ["b"], **{name: given})


def test_pairs_can_be_copied_and_pickled():
    pair = Pair("Where?", "Oslo", positions="both", eos=False)
    for same in (copy.deepcopy(pair), pickle.loads(pickle.dumps(pair))):
        assert (same, same.positions, same.eos) == (pair, "both", False)


def test_a_target_in_its_own_reference_is_said(caplog):
    Concept(["a", ("b", "c"), "d"], [("b", "c"), "d", "e"])
    assert "2 of the target's 3 examples" in caplog.text
    caplog.clear()
    Concept(["a", ("b", "c")], [("b", "d"), "e"])
    assert caplog.text == ""
