"""`H(1 - rescaled)`, `H(relative)`, `H(privacy)`: from three models' answers to Memorization, Utility, Privacy.

Every score is placed between two other models (paper, Section 7, App. E.2): `full`, trained on everything, and
`retain`, which never saw what is to be forgotten. By this rescaling `retain` has an Overall near 1 and `full` has 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from engram_interp.unlearning import metrics
from engram_interp.unlearning.benchmarks import FORGET, HOLDOUT, RETAIN

if TYPE_CHECKING:
    import pandas as pd

ATTACKS = ("loss", "zlib", "min_k", "min_k_plus_plus")
MEMORIZED = {"em": "exact_memorization", "es": "extraction_strength", "pp": "paraphrased_probability", "tr": "truth"}
"""The scores that Memorization consists of, and the column of a run that has each by question."""
FLUENCY = "fluency"
LEVEL = 0.95

Arrays: TypeAlias = Mapping[str, Mapping[str, np.ndarray]]
"""The columns of a run by part of the benchmark and name: one number per question."""


@dataclass(frozen=True)
class Evaluation:
    """The scores of a model, each with its 95 % bootstrap interval over questions.

    Attributes:
        table: one row per score: `score`, `value`, `low`, `high`. All scores except `fq` and the raw ones after it lie
            in [0, 1]:

            * `overall`, the harmonic mean of `memorization`, `utility` and `privacy`: higher is better;
            * `em`, `es`, `pp`, `tr`: what is left between `retain` (0) and `full` (1), rescaled (Eq. 27); Memorization
              is the harmonic mean of 1 minus each;
            * `mu`, `ff`: Model Utility, and fluency on what is to be forgotten, relative to `full` (Eq. 29; the text
              does not say so for fluency, but the ones in Table 6 are exact);
            * `s_loss`, `s_zlib`, `s_min_k`, `s_min_k_plus_plus`: `1 - 2 |AUC - 0.5|` of each attack (Eq. 30), forget
              against holdout;
            * `privacy_against_retain`: the same with AUCs against the scores of the *retain* model for the same
              questions, as App. E.2.4 describes it, and as Table 6 must have been made (its `retain` row is 1 exactly);
            * `fq`: log10 of a p-value, 0 at best (Eq. 28);
            * `em_raw`, `es_raw`, `pp_raw`, `tr_raw`, `mu_raw`, `ff_raw`, `rouge_forget`, `auc_...`: before rescaling.

            Intervals are percentiles over draws, widened to contain their value. The interval of `fq` is biased
            downwards: a question that is drawn twice makes two samples less alike.
        model: the name of the model.
        benchmark: the name of the benchmark.
        missing: the scores that could not be measured (`ff` without a classifier). What they are part of is computed
            from the others.
    """

    table: pd.DataFrame
    model: str
    benchmark: str
    missing: tuple[str, ...] = ()

    def __getitem__(self, score: str) -> float:
        return float(self.table.set_index("score")["value"][score])


def scores(run: Arrays, full: Arrays, retain: Arrays) -> dict[str, float]:
    """Every score by its name; see `Evaluation`.

    Raises:
        NoScaleError: if `full` and `retain` score the same, a `ValueError`.
    """
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
    """The harmonic mean of probability, ROUGE-L recall and truth ratio over every part to keep (Maini et al. 2024).

    The probability of a general question is that of the right answer among its options.
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


def resampled(runs: Sequence[Arrays], n_resamples: int, seed: int) -> list[list[float]]:
    """The scores when questions are drawn again, the same ones for all models, once per resample.

    They are NaN in a draw in which `full` and `retain` score the same.

    Args:
        runs: the run that is evaluated, then `full`, then `retain`.
        n_resamples: how often questions are drawn.
        seed: the seed of the draws.
    """
    sizes = {part: len(next(iter(columns.values()))) for part, columns in runs[0].items()}
    rng = np.random.default_rng(seed)
    draws = [{part: rng.integers(n, size=n) for part, n in sizes.items()} for _ in range(n_resamples)]
    n_scores = len(scores(*runs))
    return [_scores_of_drawn(runs, chosen, n_scores) for chosen in draws]


def _scores_of_drawn(runs: Sequence[Arrays], chosen: Mapping[str, np.ndarray], n_scores: int) -> list[float]:
    drawn = [
        {part: {name: values[chosen[part]] for name, values in columns.items()} for part, columns in run.items()}
        for run in runs
    ]
    try:
        return list(scores(*drawn).values())
    except metrics.NoScaleError:
        return [float("nan")] * n_scores


def intervals(values: Sequence[float], drawn: Sequence[Sequence[float]]) -> dict[str, np.ndarray]:
    """The percentiles of the drawn scores as `low` and `high`, widened to contain the value.

    A score that is best at one place and falls to either side, as `1 - 2 |AUC - 0.5|`, is lower in nearly every draw.

    Args:
        values: the scores.
        drawn: the same scores in every draw. Without draws, `low` and `high` are NaN.
    """
    found = np.array(values)
    if not drawn:
        return dict.fromkeys(("low", "high"), np.full_like(found, np.nan))
    low, high = np.nanquantile(np.array(drawn), [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return {"low": np.fmin(low, found), "high": np.fmax(high, found)}
