import zlib
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import hmean, ks_2samp

from engram_interp import evaluate, measure, testbed
from engram_interp.models import adapt
from engram_interp.unlearning.evaluation import Run
from tests.conftest import hooked_only

N = 8


@pytest.fixture(scope="module")
def few():
    """A question or two of several authors, so that full and retain differ in them."""
    benchmark = testbed.benchmark()
    return replace(
        benchmark,
        forget=benchmark.forget[:: 400 // N],
        retain=benchmark.retain[:: 400 // N],
        general={"world_facts": benchmark.general["world_facts"][::20]},
        holdout=benchmark.holdout[:: 400 // N],
    )


@pytest.fixture(scope="module")
def runs(few):
    return {name: measure(testbed.load(name), few, progress=False) for name in ("full", "retain", "base")}


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


def test_every_column_by_hand(few, runs):
    model = testbed.load("retain")
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


def test_the_scores_are_the_papers_formulas(runs):
    run, full, retain = (runs[name].parts for name in ("base", "full", "retain"))
    found = runs["base"].evaluate(runs, n_resamples=2)
    left = {}
    for score, column in {
        "em": "exact_memorization", "es": "extraction_strength", "pp": "paraphrased_probability", "tr": "truth",
    }.items():  # fmt: skip
        unl, top, gold = (one["forget"][column].mean() for one in (run, full, retain))
        left[score] = min(abs(unl - gold) / abs(top - gold), 1)
        assert found[score] == pytest.approx(left[score])
        assert found[f"{score}_raw"] == pytest.approx(unl)
    assert found["memorization"] == pytest.approx(hmean([max(1 - value, 1e-10) for value in left.values()]))

    def utility(parts):
        kept, facts = parts["retain"], parts["world_facts"]
        true = [1 - one["truth_ratio"].clip(upper=1) for one in (kept, facts)]
        columns = [
            kept["probability"],
            kept["rouge"],
            true[0],
            facts["normalized_probability"],
            facts["rouge"],
            true[1],
        ]
        return hmean([column.mean() for column in columns])

    assert found["mu_raw"] == pytest.approx(utility(run))
    assert found["mu"] == pytest.approx(min(utility(run) / utility(full), 1))
    assert found["utility"] == pytest.approx(found["mu"])
    private = []
    for attack in ("loss", "zlib", "min_k", "min_k_plus_plus"):
        forget, holdout = run["forget"][attack].to_numpy(), run["holdout"][attack].to_numpy()
        auc = (forget[:, None] < holdout).mean() + (forget[:, None] == holdout).mean() / 2
        private.append(1 - 2 * abs(auc - 0.5))
        assert found[f"auc_{attack}"] == pytest.approx(auc)
        assert found[f"s_{attack}"] == pytest.approx(private[-1])
    assert found["privacy"] == pytest.approx(hmean([max(one, 1e-10) for one in private]))
    parts = [found[name] for name in ("memorization", "utility", "privacy")]
    assert found["overall"] == pytest.approx(hmean(parts))
    pvalue = ks_2samp(run["forget"]["truth_ratio"], retain["forget"]["truth_ratio"]).pvalue
    assert found["fq"] == pytest.approx(np.log10(pvalue))
    assert found.missing == ("ff",)


def test_full_and_retain_are_the_ends_of_every_scale(runs):
    full, retain = (runs[name].evaluate(runs, n_resamples=2) for name in ("full", "retain"))
    assert full["memorization"] < 1e-9
    assert full["overall"] < 1e-9
    assert full["mu"] == 1
    assert [retain[name] for name in ("em", "es", "pp", "tr", "fq")] == [0] * 5
    assert retain["memorization"] == retain["privacy_against_retain"] == 1


def test_retain_is_near_one_and_full_at_zero_on_the_whole_testbed():
    benchmark = testbed.benchmark()
    runs = {name: measure(testbed.load(name), benchmark, batch_size=256, progress=False) for name in ("full", "retain")}
    full, retain = (runs[name].evaluate(runs, n_resamples=2) for name in ("full", "retain"))
    assert full["overall"] < 1e-3
    assert retain["overall"] > 0.97
    assert retain["auc_loss"] == pytest.approx(0.5, abs=0.05)


def test_intervals_hold_their_values_and_shrink_to_none_without_spread(runs):
    for run in runs.values():
        table = run.evaluate(runs, n_resamples=100).table
        assert (table["low"] <= table["value"]).all()
        assert (table["value"] <= table["high"]).all()
    assert runs["base"].evaluate(runs, n_resamples=0).table["low"].isna().all()
    same = {part: pd.concat([frame.iloc[[0]]] * N, ignore_index=True) for part, frame in runs["base"].parts.items()}
    alike = replace(runs["base"], parts=same)
    ends = {name: replace(run, parts={p: pd.concat([f.iloc[[0]]] * N, ignore_index=True) for p, f in run.parts.items()})
            for name, run in runs.items()}  # fmt: skip
    table = alike.evaluate(ends, n_resamples=20).table
    np.testing.assert_allclose(table["low"], table["value"], atol=1e-12)
    np.testing.assert_allclose(table["high"], table["value"], atol=1e-12)


def test_the_same_seed_draws_the_same_questions(runs):
    one, two, other = (runs["base"].evaluate(runs, n_resamples=20, seed=seed).table for seed in (1, 1, 2))
    pd.testing.assert_frame_equal(one, two)
    assert not one["low"].equals(other["low"])


def test_evaluate_is_measure_and_then_the_runs_evaluation(few, runs):
    found = evaluate(testbed.load("base"), few, runs, n_resamples=5, progress=False)
    pd.testing.assert_frame_equal(found.table, runs["base"].evaluate(runs, n_resamples=5).table)


def test_fluency_is_what_a_classifier_says_of_the_generated_answers(few):
    seen = []

    def classifier(texts):
        seen.append(list(texts))
        # Of the full model's answers, which come first, more.
        return [0.5 if len(seen) <= 3 else 0.25] * len(texts)

    measured = {
        name: measure(testbed.load(name), few, classifier=classifier, progress=False) for name in ("full", "retain")
    }
    found = measured["retain"].evaluate(measured, n_resamples=2)
    assert found.missing == ()
    assert found["ff_raw"] == 0.25
    assert found["ff"] == 0.5
    assert found["utility"] == pytest.approx(hmean([0.5, found["mu"]]))
    assert measured["full"].evaluate(measured, n_resamples=0)["utility"] == 1
    assert seen[0] == measured["full"].parts["forget"]["answer"].tolist()


def test_a_reference_run_that_is_missing_is_an_error(runs):
    with pytest.raises(ValueError, match="reference_runs lacks retain, by which scores are rescaled"):
        runs["base"].evaluate({"full": runs["full"]})
    with pytest.raises(ValueError, match="reference_runs lacks full and retain"):
        runs["base"].evaluate({})


def test_runs_of_other_questions_are_not_compared(runs):
    other = replace(runs["retain"], benchmark="another")
    with pytest.raises(ValueError, match="the run of retain is of another with"):
        runs["base"].evaluate({**runs, "retain": other})
    fewer = replace(runs["full"], parts={part: frame[:1] for part, frame in runs["full"].parts.items()})
    with pytest.raises(ValueError, match="the run of full is of testbed forget10 with {'forget': 1"):
        runs["base"].evaluate({**runs, "full": fewer})


def test_runs_of_as_many_other_questions_are_not_compared(runs):
    frame = runs["full"].parts["forget"].assign(question="Who else?")
    other = replace(runs["full"], parts={**runs["full"].parts, "forget": frame})
    with pytest.raises(ValueError, match="the run of full has other questions in forget"):
        runs["base"].evaluate({**runs, "full": other})


def test_runs_with_and_without_fluency_are_not_compared(runs):
    frame = runs["base"].parts["forget"].assign(fluency=0.5)
    fluent = replace(runs["base"], parts={**runs["base"].parts, "forget": frame})
    with pytest.raises(ValueError, match="the run of full was measured without the fluency classifier"):
        fluent.evaluate(runs)


def test_a_model_that_says_no_numbers_is_not_measured(few):
    model = testbed.load("full")
    with torch.no_grad():
        adapt(model).parameter("unembed.W_U").fill_(torch.nan)
    with pytest.raises(ValueError, match=r"logits of 'testbed:full' are not numbers in .*\[0\]"):
        measure(model, few, progress=False)


def test_privacy_needs_a_holdout(runs):
    without = {
        name: replace(run, parts={part: frame for part, frame in run.parts.items() if part != "holdout"})
        for name, run in runs.items()
    }
    with pytest.raises(ValueError, match="has no holdout, against which Privacy is measured"):
        without["base"].evaluate(without)


def test_a_scale_without_length_is_an_error(runs):
    with pytest.raises(ValueError, match="the full and the retain model score the same"):
        runs["base"].evaluate({"full": runs["full"], "retain": runs["full"]})


def test_a_run_is_read_back_as_it_was(runs, tmp_path):
    runs["base"].save(tmp_path / "run.json")
    found = Run.load(tmp_path / "run.json")
    assert (found.model, found.benchmark) == (runs["base"].model, runs["base"].benchmark)
    for part, frame in runs["base"].parts.items():
        pd.testing.assert_frame_equal(found.parts[part], frame)


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
