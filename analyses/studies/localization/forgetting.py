"""Does it matter for forgetting where the map says? `python -m analyses.studies.localization.forgetting`, testbed.

An engram is ablated in the matrices that a method ranks first, as many as make up 15 % of all weights, at the strength
that keeps 97 % of other authors' right answers. Then the model is trained on a tenth of the target: how many steps does
it take until the other nine tenths are back? Targets were planted into one module, or learned with all others. Beside
each place stand everything, random matrices of the same size (which 2502.11447 finds to do as well), and a model that
never knew the target.
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import pandas as pd
import torch
from torch import nn

import engram_interp as ei
from analyses import results
from analyses.studies.localization.methods import OURS, Maps, activation_ratio, chance
from analyses.studies.localization.rivals import by_matrix, learned_mask
from engram_interp.answers.loss import answer_loss
from engram_interp.benchmarks import Ranking, modules_of, planted
from engram_interp.benchmarks.cases import Memory
from engram_interp.benchmarks.localization import Method
from engram_interp.benchmarks.standard import N_AUTHORS, targets_of_testbed
from engram_interp.concepts.batches import batches, encode_groups
from engram_interp.models import adapt_language

SHARE = 0.15
"""Of the weights of all blocks."""
KEEP = 0.97
N_CHECK = 10
"""Authors to choose the strength by, and as many to report its cost on."""
STEPS, EVERY, RATE = 60, 6, 5e-4
"""Of relearning: steps, how often it is looked at, and AdamW's rate."""
BACK = 0.9
"""The nine tenths are back when so much of what was right at first is right again."""
RESULTS = Path(__file__).with_suffix(".json")


@dataclass(frozen=True)
class Task:
    """A memory to forget.

    Attributes:
        kind: `planted` or `ordinary`.
        target_set: its number.
        model: knows it.
        never: never knew it.
        target: its examples.
        others: memories that the model knows beside it.
        place: the matrices that hold it, if one module does.
    """

    kind: str
    target_set: int
    model: nn.Module
    never: nn.Module
    target: Memory
    others: Sequence[Memory]
    place: frozenset[str] | None = None

    def examples(self, which: slice) -> Memory:
        """The examples of some of the others."""
        return [example for memory in self.others[which] for example in memory]


def tasks() -> Iterator[Task]:
    """Four targets in a module each, and five of four authors that the model knows like all others."""
    model, retain, corpus = ei.testbed.load("full"), ei.testbed.load("retain"), ei.testbed.authors()
    others = [author.examples for author in corpus.full]
    places = modules_of(model)
    for number, target in enumerate(targets_of_testbed()[1:], start=1):
        place = places[(3 * number) % len(places)]
        (case,) = planted(model, [target], corpus.examples, [place])
        yield Task("planted", number, case.make(), model, target, others, place.keys)
    forgotten, kept = corpus.forget10, [author.examples for author in corpus.retain90]
    for number, start in enumerate(range(0, len(forgotten), N_AUTHORS)):
        four = [example for author in forgotten[start : start + N_AUTHORS] for example in author.examples]
        yield Task("ordinary", number, model, retain, four, kept)


def first_matrices(model: nn.Module, scores: Mapping[str, float], share: float) -> list[str]:
    """The matrices of blocks that are ranked first, up to a share of their weights; one that does not fit is left."""
    adapter = adapt_language(model)
    sizes = {site.key: adapter.parameter(site.key).numel() for site in adapter.all_sites() if site.layer is not None}
    left = share * sum(sizes.values())
    chosen = []
    for key in sorted(sizes, key=lambda key: -scores[key]):
        if sizes[key] <= left:
            chosen.append(key)
            left -= sizes[key]
    return chosen


def methods() -> dict[str, Method]:
    """What says where to edit."""
    maps = Maps()
    named = ("score", "W-Norm", "Fisher share")
    return {
        **{name: maps.by_matrix(*OURS[name]) for name in named},
        "activation ratio": activation_ratio,
        "learned mask": by_matrix(learned_mask),
        "chance": chance,
    }


def n_weights(engram: ei.Engram) -> int:
    """The number of weights of an engram's matrices."""
    return sum(engram[key].numel() for key in engram.weight_norms)


def accuracy(model: nn.Module, examples: Memory) -> float:
    """The share of right answer tokens."""
    return ei.score(model, {"all": examples}, progress=False)["all"].accuracy


def relearn(model: nn.Module, tenth: Memory, look: Callable[[nn.Module], float]) -> list[float]:
    """What `look` sees of a copy of the model every few steps, while it is trained on a tenth of the target."""
    adapter = adapt_language(adapt_language(model).copy())
    encoded = encode_groups({"tenth": tenth}, adapter.encoder)["tenth"]
    (batch,) = batches({"tenth": encoded}, len(encoded), progress=False, describe="")
    adapter.model.requires_grad_(True)
    optimizer = torch.optim.AdamW(adapter.model.parameters(), lr=RATE, weight_decay=0.0)
    seen = [look(adapter.model)]
    for step in range(1, STEPS + 1):
        with torch.enable_grad():
            answer_loss(adapter, batch, "mean").backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % EVERY == 0:
            seen.append(look(adapter.model))
    return seen


def steps_until(seen: Sequence[float], enough: float) -> float:
    """The first step at which enough is seen; NaN if there is none."""
    return next((EVERY * i for i, value in enumerate(seen) if value >= enough), float("nan"))


def judged(task: Task) -> Iterator[dict[str, object]]:
    """A row for each place that is edited, and one for the model that never knew."""
    check, report = task.examples(slice(N_CHECK)), task.examples(slice(N_CHECK, 2 * N_CHECK))
    reference = task.examples(slice(2 * N_CHECK, None))
    concept = ei.Concept(task.target, reference)
    engram = ei.extract(task.model, concept, progress=False)
    shuffled = random.Random(task.target_set).sample(list(task.target), len(task.target))
    tenth, rest = shuffled[: len(shuffled) // 10], shuffled[len(shuffled) // 10 :]
    whole, other, held = (accuracy(task.model, some) for some in (task.target, rest, report))
    about = {"kind": task.kind, "target_set": task.target_set}
    places: dict[str, list[str] | None] = {"everything": None}
    if task.place is not None:
        places["where it was planted"] = sorted(task.place)
    for name, method in methods().items():
        found = method(task.model, task.target, reference)
        scores = {key: float(score) for key, score in (found.score if isinstance(found, Ranking) else found).items()}
        places[name] = first_matrices(task.model, scores, SHARE)
    for name, keys in places.items():
        part = engram if keys is None else engram.select(keys=keys)
        alpha = ei.choose_alpha(task.model, part, concept, KEEP, check=check, progress=False).alpha
        edited = part.ablate(task.model, alpha)
        seen = relearn(edited, tenth, lambda model: accuracy(model, rest))
        yield {
            **about, "place": name, "alpha": alpha,
            "share": n_weights(part) / n_weights(engram),
            "in_place": None if task.place is None or keys is None else len(task.place & {*keys}) / len(task.place),
            "left": accuracy(edited, task.target) / whole, "kept": accuracy(edited, report) / held,
            "steps": steps_until(seen, BACK * other), "relearned": seen[-1] / other,
        }  # fmt: skip
    seen = relearn(task.never, tenth, lambda model: accuracy(model, rest))
    yield {
        **about, "place": "never known", "left": accuracy(task.never, task.target) / whole,
        "kept": accuracy(task.never, report) / held, "steps": steps_until(seen, BACK * other),
        "relearned": seen[-1] / other,
    }  # fmt: skip


def measure() -> results.Tables:
    """Every place of every task."""
    rows = pd.DataFrame([row for task in tasks() for row in judged(task)])
    shown = ["share", "in_place", "left", "kept", "relearned"]
    means = rows.groupby(["kind", "place"], sort=False)[shown].mean()
    means["came_back"] = rows.groupby(["kind", "place"], sort=False)["steps"].apply(lambda steps: steps.notna().mean())
    return {"summary": means.reset_index().round(4), "cases": rows.round(4)}


@click.command()
def main() -> None:
    """Forget in the places that maps rank first, and relearn."""
    results.record(RESULTS, measure)


if __name__ == "__main__":
    main()
