import pytest

from engram_interp import diagnose, localize
from engram_interp.report.sentences import diagnosis_sentence, lead, map_sentence


def test_the_lead_gives_the_accuracies_of_both_sides(findings):
    said = lead(findings)
    assert said.startswith(map_sentence(findings.wmap))
    for value in findings.scores.to_numpy().flatten()[:5]:
        assert f"{value:.1%}" in said


def test_without_p_values_a_map_says_that_noise_is_left_out(full, concept):
    wmap = localize(full, concept, null="analytic", components="gate", progress=False)
    first = wmap.top(1, by="fisher_excess").iloc[0]
    assert f"most in {first['key']}: {first['fisher_excess']:.2f} times" in map_sentence(wmap)
    assert "resampled null" in map_sentence(wmap)


@pytest.mark.parametrize(("size", "says"), [(0.5, "50.0% of the matrix's norm"), (1.5, "1.50 times as large")])
def test_an_engram_larger_than_its_matrix_is_not_called_a_share(full, concept, size, says):
    wmap = localize(full, concept, components="gate", layers=0, progress=False)
    wmap.table["wnorm"] = size
    assert says in map_sentence(wmap)


@pytest.mark.parametrize(
    ("null", "p_value", "first"),
    [("resampled", "fisher_p_value", "fisher_excess"), ("siblings", "score_p_value", "score")],
)
def test_what_is_significant_is_said_and_so_is_that_nothing_is(full, concept, null, p_value, first):
    options = {"components": "gate", "draws": 19, "progress": False}
    wmap = localize(full, concept, null=null, **options)
    wmap.table[p_value] = 1.0
    assert "none of 4 matrices" in map_sentence(wmap)
    assert ("try the gradient" in map_sentence(wmap)) == (null == "siblings")
    best = wmap.top(1, by=first)["key"][0]
    wmap.table.loc[wmap.table["key"] == best, p_value] = 0.01
    assert f"in 1 of 4 matrices (p ≤ 0.05), most of all in {best}" in map_sentence(wmap).replace("family-wise ", "")
    assert (wmap.memories or "random sets") in map_sentence(wmap)


def test_what_answers_rely_on_is_said(full, concept):
    wmap = localize(full, concept, null="siblings", gradient=True, components="gate", draws=19, progress=False)
    wmap.table["reliance_p_value"] = 1.0
    assert "rely on none of 4 matrices" in map_sentence(wmap)
    first = wmap.top(1, by="reliance").iloc[0]
    wmap.table.loc[wmap.table["key"] == first["key"], "reliance_p_value"] = 0.01
    assert f"rely on 1 of 4 matrices more than those of others do, most of all on {first['key']}" in map_sentence(wmap)


def test_a_diagnosis_is_said_against_its_median(full, concept):
    found = diagnose(full, concept, components="gate", progress=False)
    frame = found.to_frame()
    said = diagnosis_sentence(found, "stretch")
    assert said.startswith(frame.loc[frame["stretch"].idxmax(), "key"])
    assert f"{frame['stretch'].median():.3g}" in said
