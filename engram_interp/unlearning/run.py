"""What does a model answer to every question of a benchmark? The answers' numbers, to save and to compare."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from engram_interp.common.writing import replacing
from engram_interp.unlearning.benchmarks import FORGET, HOLDOUT, RETAIN
from engram_interp.unlearning.scores import FLUENCY, Evaluation, intervals, resampled, scores

if TYPE_CHECKING:
    import pandas as pd

FULL = "full"
SCALE_ENDS = (FULL, RETAIN)
"""The two models between which scores are placed."""
N_RESAMPLES = 500
TEXTS = ("question", "answer")
"""The columns that are not numbers."""


@dataclass(frozen=True)
class Run:
    """What a model answers to every question of a benchmark.

    Attributes:
        model: the name of the model.
        benchmark: the name of the benchmark.
        parts: one table per part (`forget`, `retain`, the general ones, `holdout`), one row per question. Every part
            has `question`, `exact_memorization`, `extraction_strength`, `probability`, and the attacks' scores `loss`,
            `zlib`, `min_k`, `min_k_plus_plus`. All parts except the holdout also have `paraphrased_probability`,
            `truth_ratio`, `truth` (right over right and wrong), `normalized_probability`, `answer` (as generated),
            `rouge`, and `fluency` if there was a classifier.
    """

    model: str
    benchmark: str
    parts: dict[str, pd.DataFrame]

    def evaluate(
        self, reference_runs: Mapping[str, Run], *, n_resamples: int = N_RESAMPLES, seed: int = 0
    ) -> Evaluation:
        """Every score, placed between those of `full` and `retain`.

        Args:
            reference_runs: the runs of `full` and `retain` on the same benchmark.
            n_resamples: how often questions are drawn again for the intervals, the same ones for all three models.
                Draws in which `full` and `retain` score the same are left out. 0 gives no intervals.
            seed: the seed of the draws.

        Raises:
            ValueError: if a reference run is missing or has other questions, if there is no holdout, or if `full` and
                `retain` have the same value of a score.
        """
        import pandas as pd

        arrays = [_arrays(run) for run in self._with(reference_runs)]
        found = scores(*arrays)
        drawn = resampled(arrays, n_resamples, seed)
        columns = {"score": list(found), "value": list(found.values()), **intervals(list(found.values()), drawn)}
        missing = () if FLUENCY in arrays[0][FORGET] else ("ff",)
        return Evaluation(pd.DataFrame(columns), self.model, self.benchmark, missing)

    def _with(self, reference_runs: Mapping[str, Run]) -> list[Run]:
        """The run that is evaluated, then `full`, then `retain`."""
        if missing := [name for name in SCALE_ENDS if name not in reference_runs]:
            raise ValueError(
                f"reference_runs lacks {' and '.join(missing)}, between which scores are placed: give the run of each, "
                f"as measure(model, benchmark)"
            )
        ends = {name: reference_runs[name] for name in SCALE_ENDS}
        for name, run in ends.items():
            _require_comparable(self, run, f"the run of {name}")
        if HOLDOUT not in self.parts:
            raise ValueError(
                f"{self.benchmark} has no holdout, which Privacy is measured against: give examples that no model saw "
                f"(holdout10.json, or Benchmark.hold_out before training)"
            )
        return [self, *ends.values()]

    def save(self, path: str | Path) -> None:
        """Writes JSON that `Run.load` reads back."""
        parts = {part: frame.to_dict("list") for part, frame in self.parts.items()}
        with replacing(path) as aside:
            aside.write_text(json.dumps({"model": self.model, "benchmark": self.benchmark, "parts": parts}))

    @classmethod
    def load(cls, path: str | Path) -> Run:
        """Reads a run that `save` wrote."""
        import pandas as pd

        found = json.loads(Path(path).read_text())
        parts = {part: pd.DataFrame(columns) for part, columns in found["parts"].items()}
        return cls(found["model"], found["benchmark"], parts)


def _require_comparable(run: Run, other: Run, name: str) -> None:
    """Raises ValueError unless both runs answer the same questions with the same columns."""
    sizes, mine = ({part: len(frame) for part, frame in one.parts.items()} for one in (other, run))
    if other.benchmark != run.benchmark or sizes != mine:
        raise ValueError(
            f"{name} is on {other.benchmark} with {sizes} questions, this run on {run.benchmark} with {mine}"
        )
    for part, frame in run.parts.items():
        if not frame["question"].equals(other.parts[part]["question"]):
            raise ValueError(f"{name} has other questions in {part} than this run")
    if (FLUENCY in other.parts[FORGET]) < (FLUENCY in run.parts[FORGET]):
        raise ValueError(f"{name} was measured without the fluency classifier that this run was measured with")


def _arrays(run: Run) -> dict[str, dict[str, np.ndarray]]:
    """The numbers of a run, by part and column."""
    return {
        part: {str(name): frame[name].to_numpy(dtype=float) for name in frame.columns if name not in TEXTS}
        for part, frame in run.parts.items()
    }
