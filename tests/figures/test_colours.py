"""Colours are those that plotly gives the same numbers."""

import math

import pytest
from plotly.colors import get_colorscale, sample_colorscale, unlabel_rgb

from engram_interp.figures.colours import Colours, takes_dark_text
from engram_interp.figures.scale import RATIO_SCALE, SHARE_SCALE, Scale


def test_a_share_is_measured_from_zero():
    # 0.5 is half of the largest, 1.0.
    colours = Colours(Scale("share"), [0.25, 1.0, math.nan]).of([0.5, math.nan])
    assert colours == [sample_colorscale(get_colorscale(SHARE_SCALE), [0.5])[0], None]


def test_a_ratio_is_measured_in_logarithms_around_one():
    # 4 = 2^2 is the end of the scale; 2 lies three quarters along from 2^-2.
    colours = Colours(Scale("ratio", ratio=True), [4.0, 0.5])
    assert colours.of([2.0]) == sample_colorscale(get_colorscale(RATIO_SCALE), [0.75])
    assert [text for text, _ in colours.legend()] == ["0.25", "0.5", "1", "2", "4"]


def test_a_difference_is_measured_around_zero():
    colours = Colours(Scale("score", signed=True), [-3.0, 1.0])
    assert [text for text, _ in colours.legend()] == ["-3", "-1.5", "0", "1.5", "3"]
    assert colours.of([0.0]) == sample_colorscale(get_colorscale(RATIO_SCALE), [0.5])


def test_an_infinite_number_has_the_colour_of_the_end():
    for scale in (Scale("share"), Scale("ratio", ratio=True), Scale("score", signed=True)):
        colours = Colours(scale, [math.inf, 2.0])
        assert colours.of([math.inf]) == colours.of([2.0])


def test_nothing_known_has_a_scale_all_the_same():
    assert Colours(Scale("share"), [math.nan]).of([math.nan]) == [None]


@pytest.mark.parametrize("name", [SHARE_SCALE, RATIO_SCALE])
def test_text_is_read_on_every_colour(name):
    for colour in sample_colorscale(get_colorscale(name), [i / 40 for i in range(41)]):
        light = _luminance(colour)
        contrast = (light + 0.05) / 0.05 if takes_dark_text(colour) else 1.05 / (light + 0.05)
        assert contrast >= 4.5  # WCAG 2, AA


def _luminance(colour):
    parts = [
        (c / 255 / 12.92) if c / 255 <= 0.04045 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in unlabel_rgb(colour)
    ]
    return sum(share * part for share, part in zip((0.2126, 0.7152, 0.0722), parts))
