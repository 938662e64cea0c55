"""How much smaller can statistics be, and what does that do to maps and engrams? (Paper, App. H.)

Moments by their leading eigenvectors up to a share of the energy. What is cut off is either dropped, as a truncated SVD
does, or spread evenly over its directions, as `Statistics.compress` does. The target is one of the testbed's authors,
the reference the testbed's other authors; both on the testbed's model and, as text that it does not know, on
SmolLM2-135M. `python -m analyses.studies.compression`.
"""

from dataclasses import replace
from pathlib import Path

import pandas as pd

import engram_interp as ei
from analyses import results
from analyses.markdown import table
from analyses.results import Tables
from engram_interp.models import adapt
from engram_interp.statistics.compression import bytes_of, compressed, engram_errors
from engram_interp.statistics.moments import AnyMoment, CompressedMoment
from engram_interp.statistics.statistics import Statistics

ENERGIES = (0.9, 0.99, 0.999)
N_AUTHORS = 60
LAYERS = {"testbed": None, "SmolLM2-135M": [0, 10, 20, 29]}
RESULTS = Path(__file__).with_suffix(".json")


def statistics_of(name: str) -> tuple[object, Statistics]:
    """A model, and one author's statistics against other authors'."""
    corpus = ei.testbed.authors()
    target, *others = corpus.forget10
    rest = [example for one in (*others, *corpus.retain90)[:N_AUTHORS] for example in one.examples]
    model = ei.testbed.load("full") if name == "testbed" else ei.load_model("smollm2-135m-instruct")
    return model, ei.collect(model, ei.Concept(target.examples, rest), layers=LAYERS[name], progress=False)


def truncated(moment: AnyMoment) -> AnyMoment:
    """The same directions, with nothing in the others."""
    return replace(moment, floor=0.0) if isinstance(moment, CompressedMoment) else moment


def measure() -> Tables:
    """A row for each model, share of energy and way."""
    rows = []
    for name in LAYERS:
        model, whole = statistics_of(name)
        adapter = adapt(model)  # pyright: ignore[reportArgumentType]
        sites = [site for site in adapter.all_sites() if site.key in set(whole.keys)]
        for energy in ENERGIES:
            spread = {
                group: {key: compressed(moments[key], energy) for key in whole.inputs}
                for group, moments in whole.groups.items()
            }
            cut = {group: {key: truncated(one) for key, one in moments.items()} for group, moments in spread.items()}
            for way, groups in (("spread evenly", spread), ("dropped", cut)):
                errors = engram_errors(adapter, sites, whole.groups, groups)
                ratio = errors["wnorm_after"] / errors["wnorm"]
                rows.append(
                    {
                        "model": name, "energy": energy, "way": way,
                        "bytes": bytes_of(groups) / bytes_of(whole.groups),
                        "median": errors["error"].median(), "worst": errors["error"].max(),
                        "lowest": ratio.min(), "highest": ratio.max(),
                    }
                )  # fmt: skip
    return {"errors": pd.DataFrame(rows)}


def of_compression(tables: Tables) -> str:
    """What each share of the energy costs."""
    rows = [
        [
            row["model"], f"{row['energy']:g}", row["way"], f"{row['bytes']:.0%}", f"{row['median']:.3g}",
            f"{row['worst']:.3g}", f"{row['lowest']:.3g} to {row['highest']:.3g}",
        ]
        for row in tables["errors"].to_dict("records")
    ]  # fmt: skip
    head = ["model", "energy kept", "the rest is", "bytes", "engrams off by, median", "worst", "W-Norms, times"]
    return table(head, rows)


if __name__ == "__main__":
    results.record(RESULTS, measure)
