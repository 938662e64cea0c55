"""How often does a map star an ordinary memory? `python -m analyses.studies.localization.calibration --help`.

Every memory that the model knows, and every set of four in a draw of 199, is taken for the target once, against all
others. The second moments of target and reference together are the same for all, so one pass gives the scores of all.
"""

from itertools import groupby
from pathlib import Path

import click
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

import engram_interp as ei
from analyses import results
from analyses.studies.localization.worlds import Folder, World, gpt2, testbed, tofu
from engram_interp.benchmarks.localization import LEVEL
from engram_interp.engrams.parts import parts
from engram_interp.maps.compared_with import SIBLINGS
from engram_interp.maps.null_pass import with_null
from engram_interp.maps.null_sets import N_BOOTSTRAPS
from engram_interp.maps.nulls import of_sets
from engram_interp.maps.quantities import sizes_of
from engram_interp.maps.scores import Measured, score_p_values, scores_without_own
from engram_interp.models.exclusive import exclusive
from engram_interp.options import Compare, Run, Solve, Which

SIZES = (1, 4)
"""Memories of a target."""
DRAWS = 199
RESULTS = Path(__file__).with_suffix(".json")


@exclusive
def scores_of_sets(model: nn.Module, concept: ei.Concept) -> dict[str, Float[Tensor, "set unit"]]:
    """The score of every matrix and head in every set of as many memories as the target has, against all others."""
    solve, run = Solve(), Run(progress=False)
    prepared, sets = with_null(model, concept, Compare(null=SIBLINGS, draws=DRAWS), Which(), solve, run)
    counts = prepared.statistics.counts
    target_share = counts["target"] / sum(counts.values())
    matrices, heads = [], []
    for _, readers in groupby(parts(prepared, solve, False), key=lambda part: part.site.input):
        some = list(readers)
        sizes = {part.site.key: sizes_of(part, target_share) for part in some}
        for one in of_sets(some, sizes, target_share, sets).values():
            measured = torch.stack([one.measured.gain, one.measured.passed], dim=2)[:-N_BOOTSTRAPS]
            matrices.append(measured[:, :1])
            heads.append(measured[:, 1:])
    return {
        name: scores_without_own(Measured(*torch.cat(some, dim=1).unbind(2)))
        for name, some in (("matrices", matrices), ("heads", heads))
    }


def starred(scores: Float[Tensor, "set unit"]) -> Bool[Tensor, "set unit"]:
    """Which units have a star, for each set in turn as the target."""
    every = torch.arange(len(scores))
    p_values = [score_p_values(scores[torch.cat([every[i : i + 1], every[every != i]])]) for i in every.tolist()]
    return torch.stack(p_values) <= LEVEL


def measure(name: str, world: World) -> pd.DataFrame:
    """For targets of one memory and of four: how many have any star, and how many of all units have one."""
    rows = []
    for size in SIZES:
        target = [example for memory in world.siblings[:size] for example in memory]
        reference = [example for memory in world.siblings[size:] for example in memory]
        stars = {
            units: starred(scores)
            for units, scores in scores_of_sets(world.model, ei.Concept(target, reference)).items()
        }
        stars["either"] = torch.cat(list(stars.values()), dim=1)
        for units, some in stars.items():
            shares = {"any": float(some.any(1).double().mean()), "units": float(some.double().mean())}
            rows.append({"world": name, "memories": size, "of": units, "targets": len(some), **shares})
    return pd.DataFrame(rows).round(4)


@click.command()
@click.option("--gpt2", "gpt2_folder", type=Folder, required=True, help="The model of training/train_gpt2.py.")
@click.option("--tofu", "tofu_folder", type=Folder, required=True, help="The model `full` of training/train_tofu.py.")
@click.option("--data", type=Folder, required=True, help="TOFU's folder.")
def main(gpt2_folder: Path, tofu_folder: Path, data: Path) -> None:
    """Count the stars of ordinary memories in three models."""

    def measure_all() -> results.Tables:
        worlds = {"testbed": testbed(), "gpt2": gpt2(gpt2_folder), "tofu": tofu(tofu_folder, data)}
        return {"summary": pd.concat([measure(name, world) for name, world in worlds.items()], ignore_index=True)}

    results.record(RESULTS, measure_all)


if __name__ == "__main__":
    main()
