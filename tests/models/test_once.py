import gc

import torch

from engram_interp.models.once import once


def counted():
    calls: list[int] = []
    return once(lambda tensor: calls.append(1) or tensor.sum().item()), calls


def test_a_result_is_kept_until_its_tensor_changes():
    total, calls = counted()
    x = torch.ones(3, 5)
    assert [total(x), total(x)] == [15.0, 15.0]
    assert len(calls) == 1
    x.add_(1)
    assert total(x) == 30.0
    x.data[1] = 0  # moves no version
    assert total(x) == 20.0
    assert len(calls) == 3


def test_views_have_results_of_their_own_with_the_tensor_that_they_are_views_of():
    total, calls = counted()
    x = torch.arange(6.0).view(2, 3).clone()
    assert (total(x.T), total(x[0]), total(x), total(x.T), total(x[0])) == (15.0, 3.0, 15.0, 15.0, 3.0)
    assert len(calls) == 3
    x.add_(1)
    assert (total(x.T), total(x[0])) == (21.0, 6.0)


def test_of_an_inference_tensor_nothing_is_kept():
    total, calls = counted()
    with torch.inference_mode():
        x = torch.ones(2)
        assert [total(x), total(x)] == [2.0, 2.0]
        x.add_(1)
    assert total(x) == 4.0
    assert len(calls) == 3


def test_nothing_outlives_its_tensor():
    total = once(lambda tensor: kept.append(tensor.clone()) or tensor.sum().item())
    kept: list[torch.Tensor] = []
    for value in range(50):  # memory, and so addresses, are used again
        x = torch.full((4, 4), float(value))
        assert total(x) == 16.0 * value
        del x
    gc.collect()
    assert len(kept) == 50
