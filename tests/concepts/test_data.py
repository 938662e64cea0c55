import html

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from engram_interp import Concept
from engram_interp.concepts.data import Data, data_batches, size_of, taken


def numbers_of(data: Data) -> list[float]:
    return [float(x) for batch in data_batches({"a": data}, None, False, "") for x in batch.args[0].flatten()]


def test_batches_are_tensors_tuples_or_dictionaries_in_any_iterable():
    x = torch.arange(6.0)[:, None]
    for source in ([x[:4], x[4:]], (batch for batch in (x[:4], x[4:])), DataLoader(TensorDataset(x), 4)):
        assert numbers_of(Data(source)) == [0, 1, 2, 3, 4, 5]
    (batch,) = data_batches({"a": Data([{"x": x, "scale": 2.0}])}, None, False, "")
    assert batch.args == ()
    assert set(batch.kwargs) == {"x", "scale"}
    (batch,) = data_batches({"a": Data([(x, x + 1)])}, None, False, "")
    assert len(batch.args) == 2
    assert batch.examples[3] == "a[3]"


@pytest.mark.parametrize("wrong", [torch.zeros(3, 2), "text", {"x": 1}, 5])
def test_what_is_no_iterable_of_batches_is_refused(wrong):
    with pytest.raises(TypeError, match=type(wrong).__name__):
        Data(wrong)


def test_an_iterator_is_read_once():
    data = Data(iter([torch.zeros(3, 2)]))
    assert data.is_once
    assert numbers_of(data) == [0.0] * 6
    with pytest.raises(ValueError, match="once"):
        numbers_of(data)


def test_some_examples_are_read_in_the_places_that_they_have_in_a_list():
    x = torch.arange(10.0)[:, None]
    data = Data([x[:4], x[4:8], x[8:]])
    chosen = [data[9], data[2], data[5]]
    found = {}
    for batch in data_batches({"a": chosen}, None, False, ""):
        for value, place in zip(batch.args[0].flatten().tolist(), batch.numbers.tolist(), strict=True):
            found[place] = value
    assert found == {0: 9.0, 1: 2.0, 2: 5.0}
    assert len(data) == 10
    assert [one.number for one in data[7:]] == [7, 8, 9]
    with pytest.raises(IndexError, match="10"):
        data[10]


def test_a_shuffling_loader_leaves_the_global_random_state():
    loader = DataLoader(TensorDataset(torch.arange(8.0)[:, None]), 3, shuffle=True)
    before = torch.get_rng_state()
    first = numbers_of(Data(loader))
    assert torch.equal(torch.get_rng_state(), before)
    assert sorted(first) == list(range(8))
    assert numbers_of(Data(loader)) == first  # the same call, the same order


def test_a_mask_says_what_counts():
    x = torch.arange(12.0).view(3, 4)
    (batch,) = data_batches({"a": Data([x], mask=lambda batch: batch > 5)}, None, False, "")
    assert batch.counts.sum() == 6
    assert batch.counted(0).tolist() == [6, 7, 8, 9, 10, 11]
    (batch,) = data_batches({"a": Data([x], mask=lambda batch: batch[:, 0] > 3)}, None, False, "")
    assert batch.counts.flatten().tolist() == [False, True, True]


@pytest.mark.parametrize("mask", [lambda x: x[0] > 0, lambda x: x, lambda _x: None, lambda x: x[..., None] > 0])
def test_a_mask_that_does_not_fit_is_refused(mask):
    with pytest.raises(ValueError, match="mask"):
        numbers_of(Data([torch.ones(3, 4)], mask=mask))


def test_labels_end_a_batch():
    (batch,) = data_batches({"a": Data([(torch.zeros(3, 2), torch.tensor([1, 0, 1]))], labelled=True)}, None, False, "")
    assert batch.labels.tolist() == [1, 0, 1]
    with pytest.raises(ValueError, match="Tensor"):
        numbers_of(Data([torch.zeros(3, 2)], labelled=True))


def test_the_size_of_a_batch_is_that_of_its_first_tensor():
    assert size_of({"scale": 2.0, "x": (torch.zeros(5, 1),)}) == 5
    with pytest.raises(ValueError, match="float"):
        size_of(2.0)
    with pytest.raises(ValueError, match="empty"):
        size_of(torch.zeros(0, 3))
    kept = taken({"x": torch.arange(5), "scale": torch.tensor(2.0)}, torch.tensor([3]), 5)
    assert kept["x"].tolist() == [3]
    assert kept["scale"] == 2.0


def test_both_sides_of_a_concept_are_of_one_kind():
    with pytest.raises(TypeError, match="kind"):
        Concept(Data([torch.zeros(2, 2)]), ["text"])
    concept = Concept.from_batches([torch.zeros(2, 2)], [torch.zeros(2, 2)], name="zeros")
    assert repr(concept) == "Concept('zeros', batches of target and reference)"
    assert html.unescape(concept._repr_html_()) == repr(concept)
    assert concept.in_words is None


def test_large_batches_are_divided_on_demand():
    x = torch.arange(10.0)[:, None]
    sizes = [len(one.numbers) for one in data_batches({"a": Data([x[:7], x[7:]])}, 3, False, "")]
    assert sizes == [3, 3, 1, 3]
    some = Data([x[:7], x[7:]])
    found = [one.args[0].flatten().tolist() for one in data_batches({"a": [some[1], some[2], some[8]]}, 1, False, "")]
    assert found == [[1.0], [2.0], [8.0]]
