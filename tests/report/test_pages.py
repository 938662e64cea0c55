import re

import pytest

from engram_interp import diagnose, localize
from engram_interp.report.pages import diagnosis_page, map_page, render, write_report
from engram_interp.report.sentences import map_sentence


def test_the_page_says_what_was_found_and_needs_nothing_else(findings, tmp_path):
    write_report(findings, "made by a test", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert page == render(findings, "made by a test")
    assert page.count("plotly-graph-div") >= 6
    assert not re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="http', page)
    assert "A &lt;b&gt;name&lt;/b&gt;" in page
    assert f"alpha = {findings.choice.alpha:.3g}" in page
    assert "made by a test" in page
    assert page.count("family-wise)") >= 3
    rows = findings.criteria.to_frame()
    assert all(name in page and row.condition in page for name, row in rows.iterrows())
    assert f"{100 * rows.loc['necessity', 'behavioural']:.1f} %" in page
    assert findings.wmap.memories == "19 memories (by the subject that prompts share)"
    assert map_sentence(findings.wmap).split(" it comes")[0] in page


def test_a_report_that_cannot_be_written_leaves_what_was_there(findings, tmp_path):
    (tmp_path / "report.html").mkdir()
    with pytest.raises(OSError, match=r"report\.html"):
        write_report(findings, "", tmp_path / "report.html")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_a_page_shows_one_table_sorted_and_a_figure_of_every_quantity(full, concept):
    options = {"components": ["Q", "gate"], "layers": [0, 1], "progress": False}
    wmap = localize(full, concept, null="analytic", **options)
    page = map_page(wmap, "excess", "made by a test")
    table = page[: page.index("</table>")]
    keys = wmap.top(4, by="excess")["key"].tolist()
    assert [key for key in re.findall(r"blocks\.\d\.\w+\.W_\w+", table) if key in keys][-4:] == keys
    assert page.count('id="figure-') == 8  # four quantities, by matrix and by head
    of_sets = map_page(localize(full, concept, null="siblings", draws=19, **options), "score", "made by a test")
    assert of_sets.count('id="figure-') == 16  # gains and the score too
    assert of_sets.index("Score of") < of_sets.index("Score by head") < of_sets.index("<details>")
    assert of_sets.index("<details>") < of_sets.index("W-Norm by head")
    found = diagnose(full, concept, **options)
    page = diagnosis_page(found, "stretch", "made by a test")
    assert page.count('id="figure-') == 5  # the map, and four matrices
    assert page.count("<tr") == 5
