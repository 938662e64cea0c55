import zlib

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import hmean

from engram_interp import evaluate, measure, testbed
from engram_interp.models import adapt
from tests.conftest import hooked_only


def log_probs_of(model, question, answer):
    """Of every answer token and the end of sequence: its log-probability and the whole distribution's."""
    tokenizer = model.tokenizer
    prompt = tokenizer(question, add_special_tokens=False)["input_ids"]
    both = tokenizer(f"{question} {answer}", add_special_tokens=False)["input_ids"]
    ids = torch.tensor([[tokenizer.bos_token_id, *both, tokenizer.eos_token_id]])
    with torch.no_grad():
        logits = model(ids)[0].double()
    first = 1 + len(prompt)
    whole = logits.log_softmax(-1)[first - 1 : -1]
    return whole[torch.arange(len(whole)), ids[0, first:]], whole, ids[0, first:]


def test_every_column_by_hand(few, runs, models):
    model = models["retain"]
    forget = runs["retain"].parts["forget"]
    for i, qa in enumerate(few.forget):
        said, whole, truth = log_probs_of(model, qa.question, qa.answer)
        right = (whole.argmax(-1) == truth)[:-1]
        row = forget.iloc[i]
        assert row["exact_memorization"] == pytest.approx(right.double().mean().item())
        suffixes = [k for k in range(len(right)) if right[k:].all()]
        assert row["extraction_strength"] == pytest.approx(
            1 - (suffixes[0] if suffixes else len(right) - 1) / len(right)
        )
        assert row["probability"] == pytest.approx(said.mean().exp().item(), rel=1e-4)
        assert row["loss"] == pytest.approx(-said.mean().item(), rel=1e-4)
        assert row["zlib"] == pytest.approx(-said.mean().item() / len(zlib.compress(qa.answer.encode())), rel=1e-4)
        k = max(1, int(0.4 * (len(said) - 1)))
        assert row["min_k"] == pytest.approx(-said[:-1].topk(k, largest=False).values.mean().item(), rel=1e-4)
        mean = (whole.exp() * whole).sum(-1)
        variance = (whole.exp() * whole**2).sum(-1) - mean**2
        standardized = ((said - mean) / variance.sqrt())[:-1]
        found = row["min_k_plus_plus"]
        assert found == pytest.approx(-standardized.topk(k, largest=False).values.mean().item(), rel=1e-3)
        correct = log_probs_of(model, qa.question, qa.paraphrased_answer)[0].mean().item()
        wrong = [log_probs_of(model, qa.question, one)[0].mean().item() for one in qa.perturbed_answers]
        assert row["paraphrased_probability"] == pytest.approx(np.exp(correct), rel=1e-4)
        assert row["truth_ratio"] == pytest.approx(np.exp(np.mean(wrong) - correct), rel=1e-3)
        assert row["truth"] == pytest.approx(1 / (1 + np.exp(np.mean(wrong) - correct)), rel=1e-4)
        options = np.exp(correct) / (np.exp(correct) + np.exp(wrong).sum())
        assert row["normalized_probability"] == pytest.approx(options, rel=1e-4)


@pytest.mark.slow
def test_retain_is_near_one_and_full_at_zero_on_the_whole_testbed(models):
    benchmark = testbed.benchmark()
    runs = {name: measure(models[name], benchmark, batch_size=256, progress=False) for name in ("full", "retain")}
    full, retain = (runs[name].evaluate(runs, n_resamples=2) for name in ("full", "retain"))
    assert full["overall"] < 1e-3
    assert retain["overall"] > 0.97
    assert retain["auc_loss"] == pytest.approx(0.5, abs=0.05)


def test_evaluate_is_measure_and_then_the_runs_evaluation(few, runs, models):
    found = evaluate(models["base"], few, runs, n_resamples=5, progress=False)
    pd.testing.assert_frame_equal(found.table, runs["base"].evaluate(runs, n_resamples=5).table)


def test_fluency_is_what_a_classifier_says_of_the_generated_answers(few, models):
    seen = []

    def classifier(texts):
        seen.append(list(texts))
        # Of the full model's answers, which come first, more.
        return [0.5 if len(seen) <= 3 else 0.25] * len(texts)

    measured = {name: measure(models[name], few, classifier=classifier, progress=False) for name in ("full", "retain")}
    found = measured["retain"].evaluate(measured, n_resamples=2)
    assert found.missing == ()
    assert found["ff_raw"] == 0.25
    assert found["ff"] == 0.5
    assert found["utility"] == pytest.approx(hmean([0.5, found["mu"]]))
    assert measured["full"].evaluate(measured, n_resamples=0)["utility"] == 1
    assert seen[0] == measured["full"].parts["forget"]["answer"].tolist()


def test_a_model_that_says_no_numbers_is_not_measured(few, models):
    model = adapt(models["full"]).copy()
    with torch.no_grad():
        adapt(model).parameter("unembed.W_U").fill_(torch.nan)
    with pytest.raises(ValueError, match=r"'testbed:full'.*\[0\]"):
        measure(model, few, progress=False)


@hooked_only
def test_a_checkpoint_is_measured_as_the_model_it_is(few, tmp_path):
    """A Llama of tofu_Llama-3.2-1B-Instruct_full's architecture, by path, with a chat template."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from engram_interp import load_model
    from engram_interp.testbed.model import TOKENIZER

    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=48,
        vocab_size=len(tokenizer), max_position_embeddings=64, tie_word_embeddings=True, rope_theta=500000.0,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model = load_model(tmp_path)
    templated = few.templated(model.tokenizer)
    assert templated.forget[0].question.startswith("You are a helpful assistant. Where was")
    run = measure(model, templated, max_new_tokens=3, progress=False)
    found = run.parts["forget"]["probability"]
    hf = LlamaForCausalLM.from_pretrained(tmp_path)
    qa = templated.forget[0]
    expected = log_probs_of_hf(hf, tokenizer, qa.question, qa.answer)
    assert found[0] == pytest.approx(expected, rel=1e-4)


def log_probs_of_hf(hf, tokenizer, question, answer):
    both, spoken = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (question + answer, answer))
    ids = torch.tensor([[tokenizer.bos_token_id, *both, tokenizer.eos_token_id]])
    with torch.no_grad():
        log_probs = hf(ids).logits[0].log_softmax(-1)[:-1].gather(-1, ids[0, 1:, None])[:, 0]
    return log_probs[-len(spoken) - 1 :].mean().exp().item()
