import pandas as pd
import pytest

from engram_interp.figures.leaderboard import PANELS, leaderboard_figure


def test_a_point_is_a_target_and_the_bar_is_their_mean():
    # Target 0 was planted twice, with 1.0 and 0.5: its point is 0.75, and the mean of both targets 0.5.
    rows = [("ours", 0, 1.0), ("ours", 0, 0.5), ("ours", 1, 0.25), ("theirs", 0, 0.0), ("theirs", 1, 1.0)]
    table = pd.DataFrame(
        [{"method": method, "target_set": target, **dict.fromkeys(PANELS, value)} for method, target, value in rows]
    )
    points, means, *_ = leaderboard_figure(table, "t").data
    assert dict(zip(points.y, points.x))["ours"] in (0.75, 0.25)
    assert sorted(points.x) == [0.0, 0.25, 0.75, 1.0]
    assert list(means.y) == ["ours", "theirs"]
    assert list(means.x) == [pytest.approx(0.5), pytest.approx(0.5)]
