import pandas as pd
import pytest
import torch

import engram_interp as ei
from engram_interp.common import storage
from tests.learning.tracking.test_track import OPTIONS, between, concepts


@pytest.fixture(scope="module")
def found() -> ei.Trajectory:
    return ei.track(between(), concepts(), **OPTIONS)


def test_a_file_holds_it_to_the_bit(found, tmp_path):
    found.save(tmp_path / "trajectory.safetensors")
    again = ei.Trajectory.load(tmp_path / "trajectory.safetensors")
    for name in ("table", "answers", "overlaps", "steps"):
        one, other = (getattr(of, name) for of in (found, again))
        pd.testing.assert_frame_equal(one, other, check_dtype=False, check_exact=True)
    assert again.map("other", 40).table.equals(found.map("other", 40).table)
    assert repr(again) == repr(found)


def test_another_file_is_refused(found, tmp_path):
    storage.write(tmp_path / "other", "engram", {"a": torch.ones(1)}, {})
    with pytest.raises(ValueError, match="engram"):
        ei.Trajectory.load(tmp_path / "other")
    found.save(tmp_path / "cut")
    (tmp_path / "cut").write_bytes((tmp_path / "cut").read_bytes()[:-5])
    with pytest.raises(ValueError, match="cut short"):
        ei.Trajectory.load(tmp_path / "cut")


def test_unknown_concepts_steps_and_quantities_are_named(found):
    with pytest.raises(KeyError, match="one, other"):
        found.map("nobody")
    with pytest.raises(KeyError, match="0, 40, 100"):
        found.map("one", 41)
    with pytest.raises(ValueError, match="luck"):
        found.plot("luck")


def test_figures_show_every_step_and_the_null(found):
    lines = found.plot("fisher", "other")
    names = {trace.name for trace in lines.data}
    assert {"the engram", "the null's band", "target's answers"} <= names
    assert list(lines.data[2].x) == [0, 40, 100]
    film = found.animate("wnorm")
    assert [frame.name for frame in film.frames] == ["0", "40", "100"]
    grid = found.map("one", 40).grid("wnorm")
    shown = torch.as_tensor(film.frames[1].data[0].customdata)
    assert shown[0].tolist() == pytest.approx(grid[:, 0].tolist())
    heat = found.plot_map("cosine")
    assert heat.data[0].x == ("0", "40", "100")
    assert len(found.plot_answers().data) == 8
    assert "2" in found._repr_html_() or "one" in found._repr_html_()


def formed(accuracies, cosines) -> dict:
    """When a memory with these numbers at steps 0, 1, ... was learned and settled."""
    steps = range(len(accuracies))
    rows = [
        {"step": step, "concept": "c", "key": "k", "head": pd.NA, "wnorm": 0.1, "weight_norm": 1.0, "cosine": one}
        for step, one in zip(steps, cosines)
    ]
    table = pd.DataFrame(rows)
    answers = pd.DataFrame(
        [{"step": step, "concept": "c", "side": "target", "accuracy": one} for step, one in zip(steps, accuracies)]
    )
    header = {"n_layers": 1, "null": "analytic", "name": "c", "columns": ["key", "head", "wnorm", "weight_norm"]}
    frame = pd.DataFrame({"step": list(steps)})
    trajectory = ei.Trajectory(table, answers, pd.DataFrame(), frame, {str(step): {"c": header} for step in steps})
    return trajectory.formation().iloc[0].to_dict()


def test_a_memory_is_learned_when_its_answers_stay_near_the_top():
    # From 0.5 to 0.9: nine tenths of the rise are 0.86. Step 1 reaches it, and step 2 falls below again.
    assert formed([0.5, 0.88, 0.6, 0.87, 0.9], [0.1, 0.5, 0.95, 0.92, 1.0])["learned"] == 3
    assert formed([0.5, 0.88, 0.6, 0.87, 0.9], [0.1, 0.5, 0.95, 0.92, 1.0])["settled"] == 2


def test_what_is_not_learned_has_no_step():
    found = formed([0.5, 0.4, 0.3], [0.1, 0.2, 0.3])
    assert pd.isna(found["learned"])
    assert pd.isna(found["settled"])
