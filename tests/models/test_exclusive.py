import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from engram_interp import collect, extract, score
from engram_interp.models import adapt
from engram_interp.models.exclusive import exclusive, held
from tests.conftest import build, token_concept


def in_another_thread(function, *args):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function, *args).result()


def test_while_a_thread_has_a_model_edited_others_may_neither_read_nor_edit_it(llama):
    engram = extract(llama, token_concept())
    before = {name: parameter.clone() for name, parameter in llama.named_parameters()}

    def edit():
        with engram.ablated(llama):
            pass

    with engram.ablated(llama, 2.0):
        for refused in (edit, lambda: collect(llama, token_concept()), lambda: engram.ablate(llama)):
            with pytest.raises(RuntimeError, match="another thread"):
                in_another_thread(refused)
        collect(llama, token_concept())  # the thread itself may
    in_another_thread(edit)
    assert all(torch.equal(before[name], parameter) for name, parameter in llama.named_parameters())


def test_passes_in_two_threads_count_every_token_once():
    llama, concept = build("llama"), token_concept()
    alone = collect(llama, concept)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: collect(llama, concept, batch_size=4), range(8)):
            assert found.counts == alone.counts
            for group, moments in alone.groups.items():
                for name, moment in moments.items():
                    torch.testing.assert_close(found.groups[group][name].second, moment.second, rtol=1e-4, atol=1e-4)


def test_edits_inside_of_edits_are_undone_one_by_one(llama):
    engram = extract(llama, token_concept())
    weight = adapt(llama).parameter("blocks.0.mlp.W_in").detach()
    original = weight.clone()
    before = {name: parameter.clone() for name, parameter in llama.named_parameters()}
    with engram.ablated(llama, 1.0), engram.ablated(llama, 1.0):
        assert not torch.equal(weight, original)
    assert all(torch.equal(before[name], parameter) for name, parameter in llama.named_parameters())


def test_another_thread_waits_for_a_call_to_end(llama):
    entered, leave, order = threading.Event(), threading.Event(), []

    def first():
        with held(llama):
            entered.set()
            leave.wait(10)
            order.append("first")

    def second():
        entered.wait(10)
        with held(llama):
            order.append("second")

    threads = [threading.Thread(target=one) for one in (first, second)]
    for thread in threads:
        thread.start()
    entered.wait(10)
    leave.set()
    for thread in threads:
        thread.join(10)
    assert order == ["first", "second"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_around_a_call_changes_nothing(llama, dtype):
    concept = token_concept()
    expected = extract(llama, concept)
    scores = score(llama, concept.sides)
    with torch.autocast("cpu", dtype=dtype):
        assert all(torch.equal(tensor, expected[key]) for key, tensor in extract(llama, concept).items())
        assert score(llama, concept.sides) == scores
        assert torch.is_autocast_enabled("cpu")


def test_a_wrapped_function_keeps_its_name_its_help_and_its_iterators():
    @exclusive
    def look(model, items):
        """Look."""
        return [list(items), list(items)]

    assert (look.__name__, look.__doc__) == ("look", "Look.")
    assert look(None, iter([1, 2])) == [[1, 2], [1, 2]]


def test_a_block_that_ends_in_another_thread_leaves_no_lock(llama):
    engram = extract(llama, token_concept())
    before = {name: parameter.clone() for name, parameter in llama.named_parameters()}

    def block():
        with engram.ablated(llama, 2.0):
            yield

    one = block()
    in_another_thread(next, one)
    one.close()
    assert all(torch.equal(before[name], parameter) for name, parameter in llama.named_parameters())
    assert in_another_thread(score, llama, {"a": token_concept().target[:4]})


def test_a_base_that_another_thread_has_edited_is_refused(llama):
    base = build("llama", seed=1)
    edit = extract(base, token_concept())
    with edit.ablated(base, 5.0), pytest.raises(RuntimeError, match="another thread"):
        in_another_thread(lambda: extract(llama, token_concept(), delta_from=base))
