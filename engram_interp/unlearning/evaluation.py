"""Is it forgotten? A model's answers to a benchmark, and from these to Memorization, Utility, Privacy and Overall."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice

import numpy as np
from torch import nn

from engram_interp.answers.generation import greedy_answers
from engram_interp.answers.scoring import TokenScores, token_scores
from engram_interp.concepts.concept import Example
from engram_interp.models import adapt_language
from engram_interp.models.exclusive import exclusive
from engram_interp.options import Run as Running
from engram_interp.options import takes
from engram_interp.unlearning import metrics
from engram_interp.unlearning.benchmarks import HOLDOUT, QA, Benchmark
from engram_interp.unlearning.metrics.utility import Classifier
from engram_interp.unlearning.run import N_RESAMPLES, Run
from engram_interp.unlearning.scores import FLUENCY, Evaluation

ANSWER, COMPARABLE, WRONG = "answer", "comparable", "wrong"


@exclusive
@takes(Running)
def measure(
    model: nn.Module,
    dataset: Benchmark,
    *,
    classifier: Classifier | None = None,
    max_new_tokens: int | None = None,
    run: Running,
) -> Run:
    """What a model answers to every question, in one teacher-forced pass and one pass of greedy answers.

    Args:
        model: a model with a tokenizer.
        dataset: the benchmark. Use `dataset.templated(tokenizer)` if the model reads chats.
        classifier: from texts to the probability that each is fluent, for example `metrics.gibberish_detector()`.
            Without one, fluency is reported as missing.
        max_new_tokens: the length at which a generated answer is cut. None means the length of the longest true answer.

    Raises:
        ValueError: if the model cannot read an example.

    Example:
        >>> from engram_interp import testbed
        >>> few = testbed.benchmark().asking(lambda questions: questions[:20])
        >>> run = measure(testbed.load("full"), few)
        >>> bool(run.parts["forget"]["exact_memorization"].mean() > 0.95)
        True
    """
    import pandas as pd

    parts = {part: questions for part, questions in dataset.parts.items() if questions}
    spoken = {part: _spoken(questions, part) for part, questions in parts.items()}
    groups = {f"{part}: {kind}": examples for part, kinds in spoken.items() for kind, examples in kinds.items()}
    found = token_scores(model, groups, **vars(run))
    adapter = adapt_language(model)
    longest = max(len(scores.ranks) for part in parts for scores in found[f"{part}: {ANSWER}"])
    limit = longest if max_new_tokens is None else max_new_tokens
    asked = [qa.question for part, questions in parts.items() if part != HOLDOUT for qa in questions]
    answers = iter(greedy_answers(model, asked, limit, **vars(run)))
    frames = {}
    for part, questions in parts.items():
        said = {kind: found[f"{part}: {kind}"] for kind in spoken[part]}
        columns = _by_question(questions, said, adapter.encoder.eos is not None)
        if part != HOLDOUT:
            columns |= _generated(questions, list(islice(answers, len(questions))), classifier)
        frames[part] = pd.DataFrame(columns)
    return Run(adapter.info.name, dataset.name, frames)


@exclusive
@takes(Running)
def evaluate(
    model: nn.Module,
    dataset: Benchmark,
    reference_runs: Mapping[str, Run],
    *,
    classifier: Classifier | None = None,
    max_new_tokens: int | None = None,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
    run: Running,
) -> Evaluation:
    """Every score of an unlearned model: `measure`, then `Run.evaluate`.

    Args:
        model: see `measure`.
        dataset: see `measure`.
        reference_runs: see `Run.evaluate`.
        classifier: see `measure`.
        max_new_tokens: see `measure`.
        n_resamples: see `Run.evaluate`.
        seed: see `Run.evaluate`.

    Raises:
        ValueError: see `measure` and `Run.evaluate`.

    Example:
        >>> from engram_interp import testbed
        >>> few = testbed.benchmark().asking(lambda questions: questions[:20])
        >>> runs = {name: measure(testbed.load(name), few) for name in ("full", "retain")}
        >>> found = evaluate(testbed.load("full"), few, runs, n_resamples=20)
        >>> round(found["memorization"], 6), found.missing
        (0.0, ('ff',))
    """
    measured = measure(model, dataset, classifier=classifier, max_new_tokens=max_new_tokens, **vars(run))
    return measured.evaluate(reference_runs, n_resamples=n_resamples, seed=seed)


def _spoken(questions: Sequence[QA], part: str) -> dict[str, list[Example]]:
    """The texts of a part by kind: the answers, and except for the holdout the wrong and the comparable right ones."""
    spoken: dict[str, list[Example]] = {ANSWER: [qa.example for qa in questions]}
    if part == HOLDOUT:
        return spoken
    comparable: list[Example] = [(qa.question, qa.comparable_answer) for qa in questions]
    if comparable != spoken[ANSWER]:
        spoken[COMPARABLE] = comparable
    for i in range(len(questions[0].perturbed_answers)):
        spoken[f"{WRONG} {i}"] = [(qa.question, qa.perturbed_answers[i]) for qa in questions]
    return spoken


def _by_question(questions: Sequence[QA], found: dict[str, list[TokenScores]], has_eos: bool) -> dict[str, object]:
    """The columns of a part that need no generated answers."""
    answers = found[ANSWER]
    # OpenUnlearning leaves the end-of-sequence token out of every score that looks at single tokens.
    words = [slice(None, -1) if has_eos and len(one.ranks) > 1 else slice(None) for one in answers]
    pairs = list(zip(answers, words, strict=True))
    columns: dict[str, object] = {
        "question": [qa.question for qa in questions],
        "exact_memorization": [metrics.exact_memorization(one.ranks[word]) for one, word in pairs],
        "extraction_strength": [metrics.extraction_strength(one.ranks[word]) for one, word in pairs],
        "probability": [metrics.probability(one.log_probs) for one in answers],
        "loss": [metrics.loss_attack(one.log_probs) for one in answers],
        "zlib": [metrics.zlib_attack(one.log_probs, qa.answer) for one, qa in zip(answers, questions, strict=True)],
        "min_k": [metrics.min_k_attack(one.log_probs[word]) for one, word in pairs],
        "min_k_plus_plus": [
            metrics.min_k_plus_plus_attack(one.log_probs[word], one.mean[word], one.variance[word])
            for one, word in pairs
        ],
    }
    wrongs = [[one.log_probs.mean() for one in scores] for name, scores in found.items() if name.startswith(WRONG)]
    if not wrongs:
        return columns
    right = np.array([one.log_probs.mean() for one in found.get(COMPARABLE, answers)])
    wrong = np.array(wrongs).T
    return columns | {
        "paraphrased_probability": np.exp(right),
        "truth_ratio": metrics.truth_ratio(right, wrong),
        "truth": metrics.truth_probability(right, wrong),
        "normalized_probability": metrics.normalized_probability(right, wrong),
    }


def _generated(questions: Sequence[QA], said: list[str], classifier: Classifier | None) -> dict[str, object]:
    """The columns of a part that need generated answers."""
    columns: dict[str, object] = {
        "answer": said,
        "rouge": metrics.rouge_l_recall(said, [qa.answer for qa in questions]),
    }
    if classifier is not None:
        columns[FLUENCY] = metrics.fluency(said, classifier)
    return columns
