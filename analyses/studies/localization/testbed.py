"""Which map finds what was planted into the testbed? `python -m analyses.studies.localization.testbed`, 77 min.

Formulas and thresholds were fixed on the first of five targets; what is reported is the other four. Beside the planted
memories stand decoys, unknown targets and targets that the model has known all along.
"""

from pathlib import Path

import click

import engram_interp as ei
from analyses import results
from analyses.studies.localization.methods import every_method
from engram_interp.benchmarks import Leaderboard, localization, standard_cases

RESULTS = Path(__file__).with_suffix(".json")


def measure() -> results.Tables:
    """Every method on every case."""
    methods = every_method(ei.testbed.load("full"))
    found = localization(methods, standard_cases())
    reported = found.table[~((found.table["target_set"] == 0) & (found.table["kind"] == "planted"))]
    summary = Leaderboard(reported).to_frame().rename_axis("method").reset_index()
    return {"summary": summary.round(4), "cases": found.table.round(4)}


@click.command()
def main() -> None:
    """Plant memories into the testbed, and look for them."""
    results.record(RESULTS, measure)


if __name__ == "__main__":
    main()
