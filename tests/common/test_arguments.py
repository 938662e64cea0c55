import re

import numpy as np
import pytest
import torch

from engram_interp.common.arguments import indices, number, read_once, whole


@pytest.mark.parametrize(
    "given", [2, 2.0, np.float32(2), np.int64(2), np.array(2.0), torch.tensor(2), torch.tensor(2.0)]
)
def test_every_real_scalar_is_a_number(given):
    found = number(given, "alpha")
    assert (found, type(found)) == (2.0, float)


@pytest.mark.parametrize(
    "given", ["2", b"2", True, np.True_, torch.tensor(True), None, [2], torch.tensor([2.0]), 2j, object], ids=repr
)
def test_what_is_no_number_is_refused_by_name(given):
    with pytest.raises(TypeError, match="alpha"):
        number(given, "alpha")


@pytest.mark.parametrize("given", [float("nan"), np.float32("inf"), torch.tensor(-torch.inf)], ids=repr)
def test_what_is_not_finite_is_refused_by_value(given):
    with pytest.raises(ValueError, match="alpha.*(nan|inf)"):
        number(given, "alpha")


@pytest.mark.parametrize("given", [3, np.int32(3), torch.tensor(3), np.array(3)])
def test_whole_numbers(given):
    assert whole(given, "n", 1) == 3
    with pytest.raises(ValueError, match="n .*4.*3"):
        whole(given, "n", 4)


@pytest.mark.parametrize("given", ["3", 3.0, True, None, torch.tensor(3.0), [3]], ids=repr)
def test_what_is_not_whole_is_refused(given):
    with pytest.raises(TypeError, match=f"n .*{re.escape(repr(given))}"):
        whole(given, "n", 1)


@pytest.mark.parametrize(
    "given", [2, np.int64(2), torch.tensor(2), [2], (2,), {2}, range(2, 3), np.array([2]), torch.tensor([2]), iter([2])]
)
def test_one_index_or_several(given):
    assert indices(given, "layers") == (2,)


@pytest.mark.parametrize("given", ["2", "", True, 2.0, [2.0], [True], ["2"], {2: 3}, torch.tensor(2.5), b"2"], ids=repr)
def test_what_is_no_index_is_refused(given):
    with pytest.raises(TypeError, match=f"layers.*{re.escape(repr(given))}"):
        indices(given, "layers")


def test_iterators_are_read_once_and_other_things_stay_themselves():
    assert read_once(iter("ab")) == ["a", "b"]
    kept = ["a"]
    assert read_once(kept) is kept
    assert read_once("ab") == "ab"
