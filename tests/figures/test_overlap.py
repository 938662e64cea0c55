import math

import pandas as pd
import pytest

from engram_interp.figures.overlap import overlap_and_cost, overlap_map
from engram_interp.figures.scale import Scale

NAMES = ["a", "b", "c"]
SHARED = pd.DataFrame([[1.0, 0.2, 0.3], [0.2, 1.0, 0.4], [0.3, 0.4, 1.0]], index=NAMES, columns=NAMES)
COST = pd.DataFrame([[0.9, -0.1, 0.2], [0.0, 0.9, 0.3], [0.1, 0.5, 0.9]], index=NAMES, columns=NAMES)


def test_what_a_concept_shares_with_itself_is_left_blank():
    figure = overlap_map(SHARED, Scale("overlap"), "t")
    (square,) = figure.data
    assert [math.isnan(square.z[i][i]) for i in range(3)] == [True] * 3
    assert square.z[0][1] == 0.2
    assert figure.layout.coloraxis.cmax == pytest.approx(0.4)  # without the diagonal


def test_every_ordered_pair_is_a_point_of_overlap_against_cost():
    figure = overlap_and_cost(SHARED, COST, Scale("overlap"), "t")
    points = figure.data[2]
    assert list(points.text)[:2] == ["ablating a costs b", "ablating a costs c"]
    assert list(points.x) == [0.2, 0.3, 0.2, 0.4, 0.3, 0.4]
    assert list(points.y) == [-0.1, 0.2, 0.0, 0.3, 0.1, 0.5]
    assert (figure.layout.coloraxis2.cmin, figure.layout.coloraxis2.cmax) == (-0.5, 0.5)
