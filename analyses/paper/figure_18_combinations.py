"""Figures 3 and 18: can any set of five authors be forgotten from five engrams?

One pass gives five engrams. Each of the 31 sets is forgotten by subtracting the sum of its engrams (Eq. 7), and all
five authors and everybody else are asked every time. The authors are the first five of the testbed. For TOFU, an author
is twenty questions in the order of the forget set. The paper draws this figure without numbers. `python -m
analyses.paper.figure_18_combinations`, 26 s on one thread.
"""

import random
from itertools import combinations

import click
import pandas as pd
import plotly.graph_objects as go
from tqdm.auto import tqdm

import engram_interp as ei
from analyses.results import Tables
from analyses.setting import Setting, command, required
from engram_interp.concepts.concept import Example
from engram_interp.figures.scale import SHARE_SCALE
from engram_interp.figures.style import TEMPLATE

N_AUTHORS, N_QUESTIONS = 5, 20
OTHERS, KEEP = "everybody else", 0.98


def concepts_of(setting: Setting) -> dict[str, list[Example]]:
    """Five authors, and everything else that the model was trained on.

    Raises:
        click.UsageError: if the benchmark has fewer than five authors to forget.
    """
    target = [qa.example for qa in setting.benchmark.target]
    if len(target) < N_AUTHORS * N_QUESTIONS:
        raise click.UsageError(
            f"{setting.benchmark.name} has {len(target)} questions to forget; this figure needs {N_AUTHORS} authors of "
            f"{N_QUESTIONS}, as forget05 and forget10 have"
        )
    authors = {
        f"author {i + 1}": list[Example](target[i * N_QUESTIONS : (i + 1) * N_QUESTIONS]) for i in range(N_AUTHORS)
    }
    rest = target[N_AUTHORS * N_QUESTIONS :] + [qa.example for qa in setting.benchmark.reference]
    return {**authors, OTHERS: list[Example](rest)}


def measure(setting: Setting) -> Tables:
    """One row for each set and each author asked; and one row for each author, for the model that never saw any.

    The strength keeps 98 % of a twelfth of everything else when all five are gone. Another twelfth is asked.
    """
    concepts, retain = concepts_of(setting), required(setting.retain, "retain")
    parts = ei.decompose(setting.model, concepts, positions="answer", progress=False)
    authors = [name for name in concepts if name != OTHERS]
    drawn = random.Random(setting.seed).sample(concepts[OTHERS], len(concepts[OTHERS]) // 6)
    half = len(drawn) // 2
    everyone = ei.Concept([one for name in authors for one in concepts[name]], drawn[:half])
    engram = parts.engram(authors)
    alpha = ei.choose_alpha(
        setting.model, engram, everyone, KEEP, check=everyone.reference, rel_tol=0.1, progress=False
    ).alpha
    asked = {**{name: concepts[name] for name in authors}, OTHERS: drawn[half:]}
    before = ei.score(setting.model, asked, progress=False)
    rows = []
    sets = [some for size in range(1, N_AUTHORS + 1) for some in combinations(authors, size)]
    for some in tqdm(sets, desc="sets", disable=None):
        with parts.engram(some).ablated(setting.model, alpha):
            after = ei.score(setting.model, asked, progress=False)
        for name, score in after.items():
            kept = score.accuracy / before[name].accuracy
            rows.append({"forgotten": " ".join(name[-1] for name in some), "asked": name, "kept": kept,
                         "alpha": alpha, "is_forgotten": name in some})  # fmt: skip
    never = ei.score(retain, {name: concepts[name] for name in authors}, progress=False)
    floor = [{"asked": name, "kept": score.accuracy / before[name].accuracy} for name, score in never.items()]
    return {"states": pd.DataFrame(rows).round(5), "floor": pd.DataFrame(floor).round(5)}


def by_kind(tables: Tables) -> pd.DataFrame:
    """What is kept over all sets: of the forgotten authors, of the others of the five, and of everybody else.

    The last row is what a model that never saw the five gets right about them.
    """
    states = tables["states"]
    kind = states["is_forgotten"].map({True: "forgotten", False: "the others of the five"})
    kind = kind.where(states["asked"] != OTHERS, OTHERS)
    kept = states.assign(kind=kind)[["kind", "kept"]]
    never = tables["floor"][["kept"]].assign(kind="the five, by a model that never saw them")
    everything = pd.concat([kept, never])
    return everything.groupby("kind", sort=False)["kept"].agg(["count", "mean", "min", "max"])


def text(tables: Tables) -> str:
    states = tables["states"]
    table = by_kind(tables).to_string(float_format="{:.3f}".format)
    return f"{table}\nalpha = {states['alpha'].iloc[0]:.3g}, {len(set(states['forgotten']))} sets"


def figure(tables: Tables) -> go.Figure:
    states = tables["states"]
    percent = (100 * states["kept"]).round().astype(int).astype(str)
    states = states.assign(shown=percent.where(~states["is_forgotten"], "<b>" + percent + "</b>"))
    grids = {name: states.pivot(index="forgotten", columns="asked", values=name) for name in ("kept", "shown")}
    kept, shown = (grid.loc[states["forgotten"].unique()] for grid in grids.values())
    heat = go.Heatmap(
        z=100 * kept.to_numpy(), x=list(kept.columns), y=list(kept.index), colorscale=SHARE_SCALE, zmin=0,
        zmax=100, text=shown.to_numpy(), texttemplate="%{text}", colorbar={"title": "answer tokens<br>kept (%)"},
    )  # fmt: skip
    title = "Thirty-one states from five engrams: what is kept of each author (bold: those forgotten)"
    layout = {"template": TEMPLATE, "height": 920, "width": 900, "margin": {"t": 130}}
    plot = go.Figure(heat).update_layout(title=title, **layout)
    plot.update_yaxes(title_text="authors forgotten", type="category", autorange="reversed")
    return plot.update_xaxes(title_text="asked about", side="top")


main = command(__file__, measure, text, figure)

if __name__ == "__main__":
    main()
