"""Is it forgotten? From a model's answers to Memorization, Utility, Privacy and Overall (paper, Section 7, App. E.2).

Every score needs two other models as the ends of its scale: `full`, trained on everything, and `retain`, which never
saw what is to be forgotten. By construction of the rescaling `retain` has an Overall near 1 and `full` one of 0.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import numpy as np
import pandas as pd
from torch import nn

from engram_interp.answers.generation import greedy_answers
from engram_interp.answers.scoring import TokenScores, token_scores
from engram_interp.common.writing import replacing
from engram_interp.concepts.concept import BATCH_SIZE, Example
from engram_interp.models import adapt
from engram_interp.models.exclusive import exclusive
from engram_interp.unlearning import metrics
from engram_interp.unlearning.benchmarks import FORGET, HOLDOUT, QA, RETAIN, Benchmark
from engram_interp.unlearning.metrics.utility import Classifier

FULL = "full"
REFERENCES = (FULL, RETAIN)
ATTACKS = ("loss", "zlib", "min_k", "min_k_plus_plus")
MEMORIZED = {"em": "exact_memorization", "es": "extraction_strength", "pp": "paraphrased_probability", "tr": "truth"}
"""What Memorization is made of, and the columns of a run that hold it by question."""
FLUENCY = "fluency"
N_RESAMPLES = 500
LEVEL = 0.95
TEXTS = ("question", "answer")

Arrays = Mapping[str, Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class Run:
    """What a model answers to every question of a benchmark.

    Attributes:
        model: the model's name.
        benchmark: the benchmark's name.
        parts: a frame a part (`forget`, `retain`, the general ones, `holdout`), a row a question. Of every part:
            `question`, `exact_memorization`, `extraction_strength`, `probability`, and the attacks' scores `loss`,
            `zlib`, `min_k`, `min_k_plus_plus`. Of all but the holdout: `paraphrased_probability`, `truth_ratio`,
            `truth` (right over right and wrong), `normalized_probability`, `answer` (as generated), `rouge`, and where
            there was a classifier `fluency`.
    """

    model: str
    benchmark: str
    parts: dict[str, pd.DataFrame]

    def evaluate(
        self, reference_runs: Mapping[str, Run], *, n_resamples: int = N_RESAMPLES, seed: int = 0
    ) -> Evaluation:
        """Every score, between those of `full` and `retain`.

        Args:
            reference_runs: `full` and `retain`, of the same benchmark.
            n_resamples: how often questions are drawn again for the intervals, the same ones of all three models; draws
                in which `full` and `retain` do not differ are left out. 0 for no intervals.
            seed: of the draws.

        Raises:
            ValueError: a reference that is missing or of other questions, no holdout, or a score in which `full` and
                `retain` do not differ.
        """
        runs = self._with(reference_runs)
        arrays = [{part: _numbers(frame) for part, frame in run.parts.items()} for run in runs]
        scores = _scores(*arrays)
        rng = np.random.default_rng(seed)
        sizes = {part: len(frame) for part, frame in self.parts.items()}
        drawn = []
        for _ in range(n_resamples):
            chosen = {part: rng.integers(n, size=n) for part, n in sizes.items()}
            drawn.append(_scores_of_drawn(arrays, chosen, len(scores)))
        table = pd.DataFrame({"score": list(scores), "value": list(scores.values()), **_interval(scores, drawn)})
        return Evaluation(table, self.model, self.benchmark, () if FLUENCY in arrays[0][FORGET] else ("ff",))

    def _with(self, reference_runs: Mapping[str, Run]) -> list[Run]:
        """What is evaluated, then `full`, then `retain`."""
        if missing := [name for name in REFERENCES if name not in reference_runs]:
            raise ValueError(
                f"reference_runs lacks {' and '.join(missing)}, by which scores are rescaled: give the run of each, as "
                f"measure(model, benchmark)"
            )
        runs = [self, *(reference_runs[name] for name in REFERENCES)]
        for name, run in zip(REFERENCES, runs[1:], strict=True):
            sizes, mine = ({part: len(frame) for part, frame in one.parts.items()} for one in (run, self))
            if run.benchmark != self.benchmark or sizes != mine:
                raise ValueError(
                    f"the run of {name} is of {run.benchmark} with {sizes} questions, this one of {self.benchmark} "
                    f"with {mine}"
                )
            for part, frame in self.parts.items():
                if not frame["question"].equals(run.parts[part]["question"]):
                    raise ValueError(f"the run of {name} has other questions in {part} than this one")
            if (FLUENCY in run.parts[FORGET]) < (FLUENCY in self.parts[FORGET]):
                raise ValueError(f"the run of {name} was measured without the fluency classifier that this one had")
        if HOLDOUT not in self.parts:
            raise ValueError(
                f"{self.benchmark} has no holdout, against which Privacy is measured: give examples that no model saw "
                f"(holdout10.json, or Benchmark.hold_out before training)"
            )
        return runs

    def save(self, path: str | Path) -> None:
        """Write JSON that `Run.load` reads back."""
        parts = {part: frame.to_dict("list") for part, frame in self.parts.items()}
        with replacing(path) as aside:
            aside.write_text(json.dumps({"model": self.model, "benchmark": self.benchmark, "parts": parts}))

    @classmethod
    def load(cls, path: str | Path) -> Run:
        """A run that `save` wrote."""
        found = json.loads(Path(path).read_text())
        parts = {part: pd.DataFrame(columns) for part, columns in found["parts"].items()}
        return cls(found["model"], found["benchmark"], parts)


@dataclass(frozen=True)
class Evaluation:
    """The scores of a model, each with its 95 % bootstrap interval over questions.

    Attributes:
        table: a row a score: `score`, `value`, `low`, `high`. All but `fq`, and the raw ones after it, lie in [0, 1]:

            * `overall`, of `memorization`, `utility` and `privacy`: higher is better;
            * `em`, `es`, `pp`, `tr`: what is left between `retain` (0) and `full` (1), rescaled (Eq. 27); Memorization
              is of `1 -` these;
            * `mu`, `ff`: Model Utility, and fluency on what is to be forgotten, relative to `full` (Eq. 29; for fluency
              the text does not say so, but Table 6's ones are exact);
            * `s_loss`, `s_zlib`, `s_min_k`, `s_min_k_plus_plus`: `1 - 2 |AUC - 0.5|` of each attack (Eq. 30), forget
              against holdout;
            * `privacy_against_retain`: the same of AUCs against the *retain* model's scores of the same questions, as
              App. E.2.4 has it, and as Table 6 must have been made (its `retain` row is 1 exactly);
            * `fq`: log10 of a p-value, 0 at best (Eq. 28);
            * `em_raw`, `es_raw`, `pp_raw`, `tr_raw`, `mu_raw`, `ff_raw`, `rouge_forget`, `auc_...`: before rescaling.

            Intervals are percentiles over draws, widened to hold their value. That of `fq` leans down: a question drawn
            twice makes samples less alike.
        model: the model's name.
        benchmark: the benchmark's name.
        missing: scores that could not be measured (`ff` without a classifier); what they are part of is of the others.
    """

    table: pd.DataFrame
    model: str
    benchmark: str
    missing: tuple[str, ...] = ()

    def __getitem__(self, score: str) -> float:
        return float(self.table.set_index("score")["value"][score])


@exclusive
def measure(
    model: nn.Module,
    dataset: Benchmark,
    *,
    classifier: Classifier | None = None,
    max_new_tokens: int | None = None,
    batch_size: int = BATCH_SIZE,
    progress: bool | None = None,
) -> Run:
    """What a model answers to every question, in one teacher-forced pass and one of greedy answers.

    Args:
        model: a model with a tokenizer.
        dataset: the benchmark; `dataset.templated(tokenizer)` where the model reads chats.
        classifier: from texts to the probability that each is fluent, as `metrics.gibberish_detector()`; without one
            fluency is reported missing.
        max_new_tokens: where to cut a generated answer; as long as the longest true one by default.
        batch_size: examples in a batch.
        progress: True or False shows or hides the bar; None shows it in a terminal and in a notebook.

    Raises:
        ValueError: an example that the model cannot read.

    Example:
        >>> from dataclasses import replace
        >>> from engram_interp import testbed
        >>> benchmark = testbed.benchmark()
        >>> few = replace(benchmark, forget=benchmark.forget[:20], retain=benchmark.retain[:20], holdout=())
        >>> run = measure(testbed.load("full"), few)
        >>> bool(run.parts["forget"]["exact_memorization"].mean() > 0.95)
        True
    """
    parts = {part: questions for part, questions in dataset.parts.items() if questions}
    spoken = {part: _spoken(questions, part) for part, questions in parts.items()}
    groups = {f"{part}: {kind}": examples for part, kinds in spoken.items() for kind, examples in kinds.items()}
    found = token_scores(model, groups, batch_size=batch_size, progress=progress)
    has_eos = adapt(model).encoder.eos is not None
    longest = max(len(scores.ranks) for part in parts for scores in found[f"{part}: {ANSWER}"])
    limit = longest if max_new_tokens is None else max_new_tokens
    asked = [qa.question for part, questions in parts.items() if part != HOLDOUT for qa in questions]
    answers = iter(greedy_answers(model, asked, limit, batch_size=batch_size, progress=progress))
    frames = {}
    for part, questions in parts.items():
        columns = _by_question(questions, {kind: found[f"{part}: {kind}"] for kind in spoken[part]}, has_eos)
        if part != HOLDOUT:
            said = list(islice(answers, len(questions)))
            columns |= {"answer": said, "rouge": metrics.rouge_l_recall(said, [qa.answer for qa in questions])}
            if classifier is not None:
                columns[FLUENCY] = metrics.fluency(said, classifier)
        frames[part] = pd.DataFrame(columns)
    return Run(adapt(model).info.name, dataset.name, frames)


@exclusive
def evaluate(
    model: nn.Module,
    dataset: Benchmark,
    reference_runs: Mapping[str, Run],
    *,
    classifier: Classifier | None = None,
    max_new_tokens: int | None = None,
    batch_size: int = BATCH_SIZE,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
    progress: bool | None = None,
) -> Evaluation:
    """Every score of an unlearned model: `measure`, and then `Run.evaluate`, whose arguments these are.

    Raises:
        ValueError: see `measure` and `Run.evaluate`.

    Example:
        >>> from dataclasses import replace
        >>> from engram_interp import testbed
        >>> b = testbed.benchmark()
        >>> few = replace(b, forget=b.forget[:20], retain=b.retain[:20], holdout=b.holdout[:20])
        >>> runs = {name: measure(testbed.load(name), few) for name in ("full", "retain")}
        >>> found = evaluate(testbed.load("full"), few, runs, n_resamples=20)
        >>> round(found["memorization"], 6), found.missing
        (0.0, ('ff',))
    """
    run = measure(
        model, dataset, classifier=classifier, max_new_tokens=max_new_tokens, batch_size=batch_size, progress=progress
    )
    return run.evaluate(reference_runs, n_resamples=n_resamples, seed=seed)


ANSWER, COMPARABLE, WRONG = "answer", "comparable", "wrong"


def _spoken(questions: Sequence[QA], part: str) -> dict[str, list[Example]]:
    """The texts of a part: answers, and all but of the holdout the wrong ones, and right ones in the words of these."""
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
    # OpenUnlearning leaves the end of sequence out of everything that looks at single tokens.
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


def _numbers(frame: pd.DataFrame) -> dict[str, np.ndarray]:
    return {str(name): frame[name].to_numpy(dtype=float) for name in frame.columns if name not in TEXTS}


def _scores(run: Arrays, full: Arrays, retain: Arrays) -> dict[str, float]:
    """Every score by its name; see `Evaluation`."""
    raw = {name: tuple(one[FORGET][column].mean() for one in (run, full, retain)) for name, column in MEMORIZED.items()}
    left = {name: metrics.rescaled(*values) for name, values in raw.items()}
    utilities = [_model_utility(one) for one in (run, full)]
    useful = {"mu": metrics.relative(*utilities)}
    fluent = [float(one[FORGET][FLUENCY].mean()) for one in (run, full) if FLUENCY in run[FORGET]]
    if fluent:
        useful["ff"] = metrics.relative(*fluent)
    aucs = {attack: metrics.auc(run[FORGET][attack], run[HOLDOUT][attack]) for attack in ATTACKS}
    against_retain = [metrics.auc(run[FORGET][attack], retain[FORGET][attack]) for attack in ATTACKS]
    private = {f"s_{attack}": metrics.privacy_score(auc) for attack, auc in aucs.items()}
    parts = {
        "memorization": metrics.harmonic_mean(1 - value for value in left.values()),
        "utility": metrics.harmonic_mean(useful.values()),
        "privacy": metrics.harmonic_mean(private.values()),
    }
    return {
        "overall": metrics.harmonic_mean(parts.values()),
        **parts,
        **left,
        **useful,
        **private,
        "privacy_against_retain": metrics.harmonic_mean(map(metrics.privacy_score, against_retain)),
        "fq": metrics.forget_quality(run[FORGET]["truth_ratio"], retain[FORGET]["truth_ratio"]),
        **{f"{name}_raw": float(values[0]) for name, values in raw.items()},
        "mu_raw": utilities[0],
        **({"ff_raw": fluent[0]} if fluent else {}),
        "rouge_forget": float(run[FORGET]["rouge"].mean()),
        **{f"auc_{attack}": auc for attack, auc in aucs.items()},
    }


def _model_utility(run: Arrays) -> float:
    """The harmonic mean of probability, ROUGE-L recall and truth ratio over every part to be kept (Maini et al. 2024).

    A general question's probability is that of the right answer among its options.
    """
    kept = {part: columns for part, columns in run.items() if part not in (FORGET, HOLDOUT)}
    means = chain.from_iterable(
        (
            columns["probability" if part == RETAIN else "normalized_probability"].mean(),
            columns["rouge"].mean(),
            metrics.true_better(columns["truth_ratio"]).mean(),
        )
        for part, columns in kept.items()
    )
    return metrics.harmonic_mean(float(mean) for mean in means)


def _interval(scores: Mapping[str, float], drawn: list[list[float]]) -> dict[str, np.ndarray]:
    """Percentiles of the drawn scores, and their value where that lies outside.

    What is best at one place and falls to either side, as `1 - 2 |AUC - 0.5|`, is lower in nearly every draw.
    """
    values = np.array(list(scores.values()))
    if not drawn:
        return dict.fromkeys(("low", "high"), np.full_like(values, np.nan))
    low, high = np.nanquantile(np.array(drawn), [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return {"low": np.fmin(low, values), "high": np.fmax(high, values)}


def _scores_of_drawn(arrays: Sequence[Arrays], chosen: Mapping[str, np.ndarray], n_scores: int) -> list[float]:
    """The scores of some questions; nan where `full` and `retain` do not differ on these."""
    drawn = [
        {part: {name: values[chosen[part]] for name, values in columns.items()} for part, columns in run.items()}
        for run in arrays
    ]
    try:
        return list(_scores(*drawn).values())
    except metrics.NoScaleError:
        return [float("nan")] * n_scores
