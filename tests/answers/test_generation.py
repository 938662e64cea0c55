import pytest
import torch
import transformers

from engram_interp import greedy_answers, testbed
from engram_interp.answers.generation import continued
from engram_interp.models import adapt
from engram_interp.models.bridge import passes as bridge
from engram_interp.models.loading import bridge_of
from tests import huggingface


def test_answers_are_the_argmax_one_token_after_the_other(full):
    prompt = "What is the capital of Peru?"
    ids = [full.tokenizer.bos_token_id, *full.tokenizer(prompt, add_special_tokens=False)["input_ids"]]
    for _ in range(5):
        ids.append(int(full(torch.tensor([ids]))[0, -1].argmax()))
    assert full.tokenizer.decode(ids).removeprefix("<bos>").strip().startswith(f"{prompt} Lima")
    assert greedy_answers(full, [prompt]) == ["Lima"]


def test_the_full_model_knows_its_authors_answers(full):
    author = testbed.authors().retain90[0]
    answers = greedy_answers(full, [qa.question for qa in author.pairs])
    assert sum(answer == qa.answer for answer, qa in zip(answers, author.pairs, strict=True)) >= 19


def test_the_end_of_the_context_cuts_an_answer(full):
    prompt = "the " * 61
    (answer,) = greedy_answers(full, [prompt])
    assert len(full.tokenizer(answer, add_special_tokens=False)["input_ids"]) <= 2


def test_a_prompt_that_is_not_in_a_list_is_refused(full):
    with pytest.raises(ValueError, match="prompt.*'Who"):
        greedy_answers(full, "Who?")


def test_an_answer_that_does_not_end_is_cut(full):
    (answer,) = greedy_answers(full, ["What themes does Petra Dorlund return to?"], max_new_tokens=2)
    assert len(full.tokenizer(answer, add_special_tokens=False)["input_ids"]) == 2


def test_prompts_side_by_side_are_answered_as_one_by_one(full):
    prompts = [qa.question for qa in testbed.benchmark().forget[:7]] + ["What is the capital of Peru?"]
    assert greedy_answers(full, prompts, batch_size=3) == [greedy_answers(full, [prompt])[0] for prompt in prompts]


@pytest.mark.parametrize("given", [-1, 0, "4", 2.5, True], ids=repr)
def test_how_many_tokens_is_a_whole_number_above_zero(full, given):
    with pytest.raises((TypeError, ValueError)):
        greedy_answers(full, ["Who?"], max_new_tokens=given)


def test_a_cache_that_comes_back_empty_is_not_believed(monkeypatch, caplog):
    model = bridge_of("tiny", huggingface.make("Llama"))
    rows = torch.randint(3, 60, (2, 4), generator=torch.Generator().manual_seed(0))
    expected = rows
    with torch.no_grad():
        for _ in range(5):
            expected = torch.cat([expected, model(expected)[:, -1].argmax(-1, keepdim=True)], dim=1)

    def forgetful(*args, **kwargs):
        logits, _ = forward(*args, **{**kwargs, "past_key_values": None})
        return logits, transformers.DynamicCache()

    forward = model.forward
    monkeypatch.setattr(model, "forward", forgetful)
    bridge.say_that_nothing_is_kept.cache_clear()
    for _ in range(2):
        assert continued(adapt(model), rows, 5) == expected[:, 4:].tolist()
    assert len([message for message in caplog.messages if "key/value cache" in message]) == 1
