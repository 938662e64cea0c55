import pandas as pd

from analyses.studies import compression
from engram_interp.statistics.moments import CompressedMoment, MomentOfRows
from tests.statistics.test_compression import moment


def test_a_truncated_moment_has_nothing_in_the_other_directions():
    from engram_interp.statistics.compression import compressed

    cut = compression.truncated(compressed(moment(), 0.95))
    assert isinstance(cut, CompressedMoment)
    assert cut.floor == 0
    rows = MomentOfRows(moment().second[:2], 2)
    assert compression.truncated(rows) is rows


def test_the_table_says_both_ways():
    row = {
        "model": "testbed", "energy": 0.99, "way": "dropped", "bytes": 0.5, "median": 13.0, "worst": 43.0,
        "lowest": 0.86, "highest": 43.5,
    }  # fmt: skip
    line = compression.of_compression({"errors": pd.DataFrame([row])}).splitlines()[2]
    assert line == "| testbed | 0.99 | dropped | 50% | 13 | 43 | 0.86 to 43.5 |"
