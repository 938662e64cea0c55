"""Which positions should count: those that produce an answer, or those that hold it?

Each concept's engram is taken at several positions. Its strength is the largest that keeps 98 % (facts: 97 %) of one
held-out part of the reference; what is reported is the target, and the cost on another held-out part. `python -m
analyses.studies.positions` takes 23 min on one thread of a busy machine for the testbed. With `--facts` and `--tofu` it
takes SmolLM2's facts instead, a few minutes for each relation and choice of positions.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
from torch import nn

import engram_interp as ei
from analyses import results
from analyses.markdown import table
from analyses.real import facts as pararel
from engram_interp.answers.scoring import score
from engram_interp.concepts.concept import Example

READS = (("predicting", True), ("predicting", False), ("answer", True), ("answer", False))
"""Positions, and whether EOS follows. `both` without EOS counts the same positions as `predicting` with it."""
N_AUTHORS, N_TARGET, N_PARAGRAPHS = 8, 20, 40
RELATIONS = ("P36", "P1412")
KEEP = {"testbed": 0.98, "testbed, no lead-in": 0.98, "SmolLM2, facts": 0.97}
RESULTS = Path(__file__).with_suffix(".json")
FACTS = RESULTS.with_stem("positions_facts")


@dataclass(frozen=True)
class Case:
    """A concept to forget, and what it must spare.

    Attributes:
        on: the model and its text.
        name: the concept's name.
        target: its examples.
        fitted: what the engram is told apart from.
        chosen_by: what the strength must keep.
        reported_on: what is reported of the cost.
    """

    on: str
    name: str
    target: Sequence[Example]
    fitted: Sequence[Example]
    chosen_by: Sequence[Example]
    reported_on: Sequence[Example]


def authors(lead_in: bool) -> Iterator[Case]:
    """Authors of the testbed, told apart from 100 others, judged by 20 and reported on 20 more."""
    corpus = ei.testbed.authors(lead_in)
    others = random.Random(0).sample(corpus.retain90, 140)
    drawn = (others[:100], others[100:120], others[120:])
    parts = [[one for author in some for one in author.examples] for some in drawn]
    on = "testbed" if lead_in else "testbed, no lead-in"
    for author in corpus.forget10[:N_AUTHORS]:
        fitted, chosen_by, reported_on = ([*part] for part in parts)
        yield Case(on, author.name, [*author.examples], fitted + corpus.world_examples, chosen_by, reported_on)


def relations(data: Path, tofu: Path) -> Iterator[Case]:
    """Relations that SmolLM2 knows, told apart from half of the other known facts and from paragraphs of English."""
    known = pararel.read(data)
    text = paragraphs(tofu)
    for relation in RELATIONS:
        rng = random.Random(0)
        mine = known.pairs(relation, known.best[relation])
        others = [pair for name in known.targets if name != relation for pair in known.pairs(name, known.best[name])]
        rng.shuffle(mine)
        rng.shuffle(others)
        half, quarter = len(others) // 2, len(others) // 4
        yield Case(
            "SmolLM2, facts", relation, [*mine[:N_TARGET]], [*others[:half], *text], [*others[half : half + quarter]],
            [*others[half + quarter :]],
        )  # fmt: skip


def paragraphs(tofu: Path) -> list[str]:
    """Paragraphs of five answers of TOFU each: plain English that holds no fact of the world."""
    answers = [qa.answer for qa in ei.tofu(tofu).reference[::4]]
    joined = [" ".join(answers[i : i + 5]) for i in range(0, len(answers), 5)]
    return random.Random(1).sample(joined, N_PARAGRAPHS)


def measured(model: nn.Module, case: Case, positions: str, eos: bool) -> dict[str, Any]:
    """What is left of the target at the strength that keeps enough."""
    concept = ei.Concept(case.target, case.fitted, case.name, positions, eos)
    engram = ei.extract(model, concept, progress=False)
    choice = ei.choose_alpha(
        model, engram, concept, KEEP[case.on], check=case.chosen_by, measure=right_tokens, rel_tol=0.1, progress=False
    )
    groups = {"target": case.target, "reported": case.reported_on}
    before = score(model, groups, eos=False, progress=False)
    with engram.ablated(model, choice.alpha):
        after = score(model, groups, eos=False, progress=False)
    return {
        "on": case.on, "concept": case.name, "positions": positions, "eos": eos, "alpha": choice.alpha,
        "target_left": after["target"].accuracy / before["target"].accuracy,
        "target_loss": after["target"].loss - before["target"].loss,
        "kept": after["reported"].accuracy / before["reported"].accuracy,
    }  # fmt: skip


def right_tokens(model: nn.Module, examples: Sequence[Example]) -> list[float]:
    """What a strength must keep: EOS is left out, so that all positions are judged alike."""
    return pararel.accuracies(model, examples).tolist()


def on_the_testbed() -> results.Tables:
    model = ei.testbed.load("full")
    rows = [measured(model, case, *read) for lead_in in (True, False) for case in authors(lead_in) for read in READS]
    return {"rows": pd.DataFrame(rows).round(4)}


def on_facts(facts: Path, tofu: Path) -> results.Tables:
    model = ei.load_model("smollm2-135m-instruct")
    rows = []
    for case in relations(facts, tofu):
        for read in READS:
            rows.append(measured(model, case, *read))
            click.echo(rows[-1])
    return {"rows": pd.DataFrame(rows).round(4)}


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Means over concepts, with 95 % bootstrap intervals of what is left of the target."""
    found = []
    for (on, positions, eos), mine in rows.groupby(["on", "positions", "eos"], sort=False):
        left = mine["target_left"].to_numpy()
        drawn = np.random.default_rng(0).choice(left, (2000, len(left))).mean(1)
        low, high = np.quantile(drawn, [0.025, 0.975])
        means = {name: mine[name].mean() for name in ("target_left", "target_loss", "kept")}
        found.append({"on": on, "positions": positions, "eos": eos, "n": len(left), **means, "low": low, "high": high})
    return pd.DataFrame(found)


def of_positions(tables: results.Tables) -> str:
    """What is left of the target at equal held-out cost, by positions."""
    rows = [
        [
            one["on"], f"`{one['positions']}`{'' if one['eos'] else ', no EOS'}",
            f"{one['target_left']:.0%} [{one['low']:.0%}, {one['high']:.0%}]", f"+{one['target_loss']:.2f}",
            f"{one['kept']:.1%}",
        ]
        for one in summary(tables["rows"]).to_dict("records")
    ]  # fmt: skip
    return table(["on", "positions", "target right, of before", "target loss", "kept of others"], rows)


@click.command()
@click.option("--facts", type=click.Path(exists=True, file_okay=False, path_type=Path), help="PARAREL's folder.")
@click.option("--tofu", type=click.Path(exists=True, file_okay=False, path_type=Path), help="TOFU's folder, for text.")
def main(facts: Path | None, tofu: Path | None) -> None:
    """Compare positions at equal held-out cost."""
    if (facts is None) != (tofu is None):
        raise click.UsageError("--facts and --tofu go together")
    out = RESULTS
    if facts is not None and tofu is not None:
        results.record(out := FACTS, partial(on_facts, facts, tofu))
    else:
        results.record(out, on_the_testbed)
    click.echo(summary(results.read(out)["rows"]).to_string(index=False, float_format="{:.3f}".format))


if __name__ == "__main__":
    main()
