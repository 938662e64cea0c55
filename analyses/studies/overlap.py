"""Are concepts nearly orthogonal, and what does forgetting one cost another?

The paper's Section 6.3 and App. C.4 on the testbed, for two families of concepts. One is its 20 forget authors, some of
whom share a name. The other is the 20 attributes of all authors (one question each). Some of these are answered with
the same words, as classes of one superclass look alike. Each concept's engram is ablated, and every concept is scored.
`python -m analyses.studies.overlap`.
"""

from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
from scipy.stats import mannwhitneyu

import engram_interp as ei
from analyses import results
from engram_interp.concepts.concept import Example
from engram_interp.figures.overlap import overlap_and_cost
from engram_interp.maps.overlap import OVERLAPS
from engram_interp.testbed.authors import ATTRIBUTES

FAMILIES = {"authors": "authors", "attributes": "questions"}
"""What figures and tables call the families."""
ALPHA = {"authors": 12.0, "attributes": 2.0}
"""Strengths at which the ablated concept loses about half of its answers."""
QUESTIONS = {attribute.question.format(name="..."): attribute.pools for attribute in ATTRIBUTES}
RESULTS = Path(__file__).with_suffix(".json")


def concepts_of(family: str) -> tuple[dict[str, list[Example]], list[Example]]:
    """Concepts by name, and everything else that goes into the total."""
    corpus = ei.testbed.authors()
    rest: list[Example] = [*corpus.world_examples]
    if family == "authors":
        rest += [example for author in corpus.retain90 for example in author.examples]
        return {author.name: [*author.examples] for author in corpus.forget10}, rest
    by_attribute = zip(*(author.examples for author in corpus.full), strict=True)
    return {name: [*found] for name, found in zip(QUESTIONS, by_attribute, strict=True)}, rest


def related(a: str, b: str) -> bool:
    """Whether two authors share a name (or its beginning), or two attributes are answered from the same words."""
    if a in QUESTIONS:
        return QUESTIONS[a] == QUESTIONS[b]
    return bool({part[:3] for part in a.split()} & {part[:3] for part in b.split()})


def measure(family: str) -> pd.DataFrame:
    """One row for each pair of an ablated and a scored concept."""
    concepts, rest = concepts_of(family)
    parts = ei.decompose(ei.testbed.load("full"), {**concepts, "rest": rest}, positions="answer", progress=False)
    shared = ei.overlap(parts, list(concepts))
    cost = ei.interference(parts, concepts, alpha=ALPHA[family])
    squares = {name: shared.matrix(name) for name in OVERLAPS}
    squares |= {"accuracy_lost": cost.accuracy, "loss_gained": cost.loss}
    order = shared.order
    long = pd.DataFrame({name: square.loc[order, order].stack() for name, square in squares.items()})
    long = long.rename_axis(["ablated", "scored"]).reset_index()
    pairs = zip(long["ablated"], long["scored"], strict=True)
    return long.assign(family=family, related=[related(a, b) for a, b in pairs])


def measure_all() -> results.Tables:
    """The pairs of both families."""
    return {"pairs": pd.concat([measure(family) for family in ALPHA], ignore_index=True).round(5)}


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Means by family: a concept and itself, related concepts, and all others."""
    alike = rows["related"].map({True: "related", False: "other"})
    scored = alike.where(rows["ablated"] != rows["scored"], "itself").rename("scored")
    columns = [*OVERLAPS, "accuracy_lost", "loss_gained"]
    grouped = rows.groupby([rows["family"], scored], sort=False)
    return grouped[columns].mean().join(grouped.size().rename("pairs")).round(3).reset_index()


def rank_correlations(rows: pd.DataFrame) -> dict[str, float]:
    """Of the overlap with each cost, over pairs of different concepts."""
    different = rows[rows["ablated"] != rows["scored"]]
    costs = ("accuracy_lost", "loss_gained")
    square = different[["overlap", *costs]].corr(method="spearman").to_numpy(dtype=float)
    return dict(zip(costs, square[0, 1:].tolist(), strict=True))


def tests(rows: pd.DataFrame) -> str:
    """Whether what is shared goes with what is lost."""
    lines = []
    for family, mine in rows[rows["ablated"] != rows["scored"]].groupby("family", sort=False):
        rho = rank_correlations(mine)
        alike = mine["related"].to_numpy(dtype=bool)
        lost = mine["accuracy_lost"].to_numpy(dtype=float)
        p = mannwhitneyu(lost[alike], lost[~alike]).pvalue
        said = ", ".join(f"{value:.2f} with {name}" for name, value in rho.items())
        lines.append(f"{family}: rank correlation of overlap {said}; related lose more, p = {p:.1g}")
    return "\n".join(lines)


def text(tables: results.Tables) -> str:
    """Means by family, and tests."""
    return f"{summary(tables['pairs']).to_string(index=False)}\n{tests(tables['pairs'])}"


def figures(tables: results.Tables) -> list[go.Figure]:
    """For each family, what pairs share and what ablating one costs the other."""
    found = []
    for family, mine in tables["pairs"].groupby("family", sort=False):
        order = list(mine["ablated"].unique())
        squares = mine.pivot(index="ablated", columns="scored", values=["overlap", "accuracy_lost"])
        shared, cost = (squares.xs(name, axis=1).loc[order, order] for name in ("overlap", "accuracy_lost"))
        title = (
            f"{FAMILIES[str(family)]}: what they share, and what ablating one costs (alpha = {ALPHA[str(family)]:g})"
        )
        found.append(overlap_and_cost(pd.DataFrame(shared), pd.DataFrame(cost), OVERLAPS["overlap"], title))
    return found


main = results.study(RESULTS, measure_all, text, figures)


if __name__ == "__main__":
    main()
