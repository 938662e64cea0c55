import re

import pytest

import engram_interp as ei
from engram_interp.report.tracks import lead, track_page
from tests.learning.tracking.test_track import OPTIONS, between, concepts


@pytest.fixture(scope="module")
def found() -> ei.Trajectory:
    one, _ = concepts()
    asked = ei.Concept(one.target, one.reference, "A <b>name</b>")
    return ei.track([*between(), "nowhere-7"], asked, load=lambda name: {}[name], **OPTIONS)


def test_the_page_has_the_film_and_needs_nothing_else(found):
    page = track_page(found, None, "made by a test")
    assert page.count("plotly-graph-div") == 6
    assert "A &lt;b&gt;name&lt;/b&gt;" in page
    assert "<b>name</b>" not in re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert not re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="http', page)
    assert "made by a test" in page
    assert "nowhere-7" in page


def test_the_lead_says_when_it_was_learned(found):
    row = found.formation().iloc[0]
    assert ("is not learned" in lead(found)) == bool(row["learned"] is None or row.isna()["learned"])
    assert "nowhere-7" in lead(found)


def test_an_unknown_quantity_is_refused(found):
    with pytest.raises(ValueError, match="luck"):
        track_page(found, "luck", "")
