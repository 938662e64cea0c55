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
@click.option("--plot", type=click.Path(path_type=Path), help="Where to draw the results, as .html.")
@click.option("--only-plot", is_flag=True, help="Do not measure; draw the results that exist.")
def main(plot: Path | None, only_plot: bool) -> None:
    """Plant memories into the testbed, and look for them."""
    if not only_plot:
        results.record(RESULTS, measure)
    found = results.read(RESULTS)
    click.echo(found["summary"].to_string(index=False))
    if plot is not None:
        results.draw(plot, Leaderboard(found["cases"]).plot())


if __name__ == "__main__":
    main()
