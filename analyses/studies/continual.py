"""Does a memory survive what is learned after it? Forty authors, then forty more, then forty more.

A model of the testbed's shape learns eighty authors and the world facts, then three times forty authors, one set after
the other. Between the sets nothing is done (`nothing`), or some earlier examples are in every batch (`rehearsal`),
or `protect` keeps the sets so far against the next one (`protect`, with filters), or the model goes back to the one
before with a graft of the set alone, whose entries are frozen (`frozen graft`).

The filter is chosen on the first seed and reported on the others. `python -m analyses.studies.continual`, 75 minutes.
"""

import random
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from torch import nn

import engram_interp as ei
from analyses import results
from analyses.markdown import table
from analyses.results import Tables
from analyses.studies.grafting import interval
from analyses.training.fit import Schedule, answer_loss, fit
from engram_interp import filters
from engram_interp.concepts.batches import batches, encode_groups
from engram_interp.figures.learning import continual_lines
from engram_interp.models import adapt_language
from engram_interp.testbed.authors import Author, authors
from engram_interp.testbed.model import trained_parameters, untrained

SETS = ("first", "second", "third")
N_FIRST, N_SET, SEEDS = 80, 40, (0, 1, 2, 3, 4)
BEFORE, SET = Schedule(10), Schedule(10, learning_rate=1e-3)
REHEARSED = 16
"""Earlier examples in a batch of 64."""
SHARE, STEPS = 0.1, 40
FILTERS = {
    "soft": filters.soft,
    "power(2)": filters.power(2),
    "clip(1.5)": filters.clip(1.5),
    "hard(0.5)": filters.hard(0.5),
    "hard(0.8)": filters.hard(0.8),
}
RESULTS = Path(__file__).with_suffix(".json")
Pairs = list[tuple[str, str]]
Guard = Callable[[nn.Module, Pairs, Pairs], AbstractContextManager[Any]]


def pairs_of(people: Sequence[Author]) -> Pairs:
    return [example for author in people for example in author.examples]


def sets_of(seed: int) -> list[Pairs]:
    """What comes before, and three sets of authors, in an order of their own for each seed."""
    corpus = authors()
    people = random.Random(seed).sample(corpus.full, len(corpus.full))
    ends = [N_FIRST + N_SET * n for n in range(4)]
    sets = [pairs_of(people[start:end]) for start, end in pairwise(ends)]
    return [pairs_of(people[:N_FIRST]) + corpus.world_examples, *sets]


def learn(model: nn.Module, pairs: Pairs, schedule: Schedule, seed: int, earlier: Pairs = []) -> None:  # noqa: B006
    """Train on a set, with some earlier examples in every batch if there are any."""
    encoded = encode_groups({"set": pairs, **({"earlier": earlier} if earlier else {})}, adapt_language(model).encoder)
    examples, rng = encoded["set"], random.Random(seed)
    n_new = schedule.batch_size - (REHEARSED if earlier else 0)
    n_steps = schedule.n_steps(len(examples))

    def steps():
        for _ in range(n_steps):
            some = rng.sample(examples, n_new) + (rng.sample(encoded["earlier"], REHEARSED) if earlier else [])
            yield from batches({"train": some}, schedule.batch_size, progress=False, describe="")

    fit(
        list(trained_parameters(model).values()),
        steps(),
        n_steps,
        lambda batch: answer_loss(model, batch),
        schedule,
        "",
    )


def protecting(filter: filters.Filter, positions: str) -> Guard:
    """Keep all sets so far against the next one."""

    def guard(model: nn.Module, earlier: Pairs, pairs: Pairs) -> AbstractContextManager[Any]:
        concept = ei.Concept(earlier, pairs, "the sets so far")
        return ei.protect(model, concept, filter=filter, positions=positions, progress=False)

    return guard


def run(start: nn.Module, sets: Sequence[Pairs], seed: int, way: str, guard: Guard | None) -> pd.DataFrame:
    """Learn the three sets one after the other; accuracies after each, on each."""
    model, rows, grafts = adapt_language(start).copy(), [], []
    known = {"before": sets[0], **dict(zip(SETS, sets[1:], strict=True))}
    for n, name in enumerate(SETS, start=1):
        earlier = [pair for some in sets[1:n] for pair in some]
        before = adapt_language(model).copy()
        around: AbstractContextManager[Any] = nullcontext()
        if way == "frozen graft" and grafts:
            around = ei.protect(model, grafts)
        elif guard is not None and earlier:
            around = guard(model, earlier, sets[n])
        with around:
            learn(model, sets[n], SET, seed, earlier if way == "rehearsal" else [])
        if way == "frozen graft":
            concept = ei.Concept(sets[n], random.Random(seed).sample(sets[0], 200), name)
            grafts.append(ei.graft(model, before, concept, by="learned", share=SHARE, steps=STEPS, progress=False))
            model = grafts[-1].inject(before)
        found = ei.score(model, known)
        rows += [
            {"seed": seed, "way": way, "after": name, "on": on, "accuracy": one.accuracy, "loss": one.loss}
            for on, one in found.items()
        ]
    return pd.DataFrame(rows)


def measure() -> Tables:
    """A row for each seed, way, set that was learned last, and set that is scored."""
    tables, ways = [], {"nothing": None, "rehearsal": None, "frozen graft": None}
    chosen: dict[str, Guard] = {}
    for seed in SEEDS:
        sets, start = sets_of(seed), untrained("continual", seed)
        learn(start, sets[0], BEFORE, seed)
        tables += [run(start, sets, seed, way, None) for way in ways]
        if not chosen:
            tried = {
                f"protect, {name}": run(start, sets, seed, f"protect, {name}", protecting(one, "every"))
                for name, one in FILTERS.items()
            }
            tables += tried.values()
            best = max(tried, key=lambda way: score_of(tried[way]))
            chosen = {best: protecting(FILTERS[best.removeprefix("protect, ")], "every")}
            continue
        tables += [run(start, sets, seed, way, guard) for way, guard in chosen.items()]
        print(pd.concat(tables).query("after == 'third'").groupby(["way", "on"])["accuracy"].mean().unstack())
    return {"accuracies": pd.concat(tables, ignore_index=True), "chosen": pd.DataFrame({"way": [*chosen]})}


def score_of(found: pd.DataFrame) -> float:
    """What a filter is chosen by: the mean accuracy on the three sets in the end."""
    last = found[(found["after"] == SETS[-1]) & found["on"].isin(SETS)]
    return float(last["accuracy"].mean())


def of_continual(tables: Tables) -> str:
    """What is known in the end, and of the first set after each. The seed of the choice is left out."""
    found, (chosen,) = tables["accuracies"], tables["chosen"]["way"]
    rows = []
    for way in ("nothing", "rehearsal", chosen, "frozen graft"):
        mine = found[(found["way"] == way) & (found["seed"] != SEEDS[0])]
        cells = []
        for after, on in (("first", "first"), ("second", "first"), ("third", "first"), ("third", "second"),
                          ("third", "third"), ("third", "before")):  # fmt: skip
            values = mine[(mine["after"] == after) & (mine["on"] == on)]["accuracy"]
            low, high = interval(values)
            cells.append(f"{values.mean():.2f} ({low:.2f} to {high:.2f})")
        rows.append([way, *cells])
    head = ["between the sets", "first set, learned", "after the second", "after the third", "second set, in the end",
            "third set", "what came before"]  # fmt: skip
    return table(head, rows)


def of_kept_by_filters(tables: Tables) -> str:
    """What each filter kept on the seed that it was chosen on."""
    found = tables["accuracies"]
    mine = found[(found["seed"] == SEEDS[0]) & (found["after"] == SETS[-1])]
    wide = mine.pivot(index="way", columns="on", values="accuracy")
    rows = [
        [way, *(f"{wide.at[way, on]:.2f}" for on in (*SETS, "before"))]
        for way in wide.index
        if way.startswith("protect")
    ]
    return table(["filter", "first set", "second", "third", "what came before"], rows)


def figures(tables: Tables) -> list[go.Figure]:
    """Accuracy on each set after each set."""
    found = tables["accuracies"]
    ways = ["nothing", "rehearsal", *tables["chosen"]["way"], "frozen graft"]
    shown = found[(found["seed"] != SEEDS[0]) & found["way"].isin(ways)]
    return [continual_lines(shown, ways, ["before", *SETS], list(SETS), "What is left of each set of authors")]


main = results.study(
    RESULTS, measure, lambda tables: f"{of_continual(tables)}\n\n{of_kept_by_filters(tables)}", figures
)

if __name__ == "__main__":
    main()
