from dataclasses import replace

import pandas as pd
import pytest

from engram_interp.unlearning.run import Run


def test_a_reference_run_that_is_missing_is_an_error(runs):
    with pytest.raises(ValueError, match="reference_runs lacks retain,"):
        runs["base"].evaluate({"full": runs["full"]})
    with pytest.raises(ValueError, match="reference_runs lacks full and retain,"):
        runs["base"].evaluate({})


def test_runs_of_other_questions_are_not_compared(runs):
    other = replace(runs["retain"], benchmark="another")
    with pytest.raises(ValueError, match="retain .*another"):
        runs["base"].evaluate({**runs, "retain": other})
    fewer = replace(runs["full"], parts={part: frame[:1] for part, frame in runs["full"].parts.items()})
    with pytest.raises(ValueError, match="full .*testbed forget10.*{'forget': 1,"):
        runs["base"].evaluate({**runs, "full": fewer})


def test_runs_of_as_many_other_questions_are_not_compared(runs):
    frame = runs["full"].parts["forget"].assign(question="Who else?")
    other = replace(runs["full"], parts={**runs["full"].parts, "forget": frame})
    with pytest.raises(ValueError, match="full .*questions in forget"):
        runs["base"].evaluate({**runs, "full": other})


def test_runs_with_and_without_fluency_are_not_compared(runs):
    frame = runs["base"].parts["forget"].assign(fluency=0.5)
    fluent = replace(runs["base"], parts={**runs["base"].parts, "forget": frame})
    with pytest.raises(ValueError, match="full .*fluency"):
        fluent.evaluate(runs)


def test_privacy_needs_a_holdout(runs):
    without = {
        name: replace(run, parts={part: frame for part, frame in run.parts.items() if part != "holdout"})
        for name, run in runs.items()
    }
    with pytest.raises(ValueError, match="testbed forget10 has no holdout"):
        without["base"].evaluate(without)


def test_a_run_is_read_back_as_it_was(runs, tmp_path):
    runs["base"].save(tmp_path / "run.json")
    found = Run.load(tmp_path / "run.json")
    assert (found.model, found.benchmark) == (runs["base"].model, runs["base"].benchmark)
    for part, frame in runs["base"].parts.items():
        pd.testing.assert_frame_equal(found.parts[part], frame)
