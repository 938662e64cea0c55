import pandas as pd
import pytest

from analyses.studies import grafting


def curves() -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"author": author, "by": "low rank", "share": share, "target_carried": carried, "reference_accuracy": 0.75,
             "target_accuracy": 0.5, "chosen": 0.3}
            for author, most in (("a", 1.0), ("b", 0.8))
            for share, carried in ((0.01, 0.0), (0.03, 0.1), (0.1, 0.5), (0.3, most))
        ]
    )  # fmt: skip


def test_the_table_has_means_and_intervals_over_authors():
    line = grafting.of_grafting({"curves": curves()}).splitlines()[2]
    assert line.startswith("| low rank | 0.00 (0.00 to 0.00) | 0.10 (0.10 to 0.10) | 0.50 (0.50 to 0.50) | 0.90 (")
    assert "0.750" in line
    assert "0.3 (0.3 to 0.3)" in line


def test_an_interval_holds_the_mean():
    low, high = grafting.interval(pd.Series([0.1, 0.2, 0.4, 0.3]))
    assert low < 0.25 < high
    assert grafting.interval(pd.Series([0.5, 0.5])) == (0.5, 0.5)
    with pytest.raises(ValueError, match="zero-size"):
        grafting.interval(pd.Series([], dtype=float))


def test_the_figure_has_a_line_for_each_way():
    (figure,) = grafting.figures({"curves": curves()})
    assert {trace.name for trace in figure.data} == {"low rank"}
