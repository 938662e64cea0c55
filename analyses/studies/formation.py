"""When does a memory form, where, and does it move? The testbed learns twenty authors, with dense checkpoints.

Its `base` learns `forget10` among all it knows (400 steps of 64 examples). After that it goes on for 300 steps, with
these authors in the mix (`rehearsed`) or without them (`not rehearsed`). Two of the authors are tracked against 50
others: their map against sibling memories, and the engram of `W - W_base`, which is what was added.
`python -m analyses.studies.formation`, 50 minutes. Intervals are 95 % bootstraps over seeds and authors.
"""

import random
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from safetensors.torch import save_file
from torch import nn

import engram_interp as ei
from analyses import results
from analyses.markdown import table
from analyses.results import Tables
from analyses.studies.continual import pairs_of
from analyses.studies.grafting import interval
from analyses.training.fit import Schedule, answer_loss, fit
from engram_interp.concepts.batches import batches, encode_groups
from engram_interp.figures.learning import layer_shares
from engram_interp.models import adapt_language
from engram_interp.testbed.model import trained_parameters

SEEDS, N_CONCEPTS, N_OTHERS = (0, 1, 2), 2, 50
FORMED, ENDED = 400, 700
SAVED = (0, 20, 50, 100, 150, 200, 250, 300, FORMED, 450, 500, 600, ENDED)
SHOWN = (0, 50, 100, 200, 300, FORMED)
REHEARSED, NOT_REHEARSED = "rehearsed", "not rehearsed"
RESULTS = Path(__file__).with_suffix(".json")
STEADY = Schedule(1, warm_up=0.02)


def train(model: nn.Module, pools: Sequence[tuple[int, Sequence[tuple[str, str]]]], seed: int, folder: Path) -> None:
    """Train on each pool up to its step, and save the steps that are tracked."""
    adapter, rng = adapt_language(model), random.Random(seed)
    encoded = [(end, encode_groups({"train": pairs}, adapter.encoder)["train"]) for end, pairs in pools]

    def steps() -> Iterator[object]:
        step = 0
        for end, examples in encoded:
            while step < end:
                if step in SAVED:
                    save(model, folder, step)
                yield from batches({"train": rng.sample(examples, 64)}, 64, progress=False, describe="")
                step += 1

    fit(list(trained_parameters(model).values()), steps(), ENDED, lambda one: answer_loss(model, one), STEADY, "")  # pyright: ignore[reportArgumentType]
    save(model, folder, ENDED)


def save(model: nn.Module, folder: Path, step: int) -> None:
    tensors = {name: tensor.detach().clone().contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, folder / f"step-{step}.safetensors")


def drop_until_formed(folder: Path) -> None:
    """Up to there both arms are the same."""
    for step in SAVED:
        if step < FORMED:
            (folder / f"step-{step}.safetensors").unlink()


def concepts_of(seed: int) -> list[ei.Concept]:
    """Two of the new authors, each against others, new and known."""
    corpus, rng = ei.testbed.authors(), random.Random(seed)
    chosen = rng.sample(corpus.forget10, N_CONCEPTS)
    others = rng.sample([one for one in corpus.full if one not in chosen], N_OTHERS)
    return [ei.Concept(one.examples, pairs_of(others), one.name) for one in chosen]


def measure() -> Tables:
    """The trajectories of every seed and arm: maps, and what was added; and what is answered."""
    corpus = ei.testbed.authors()
    known = pairs_of(corpus.retain90) + corpus.world_examples
    new = pairs_of(corpus.forget10)
    maps, added, answers, formed = [], [], [], []
    for seed in SEEDS:
        for arm, after in ((REHEARSED, known + new), (NOT_REHEARSED, known)):
            with tempfile.TemporaryDirectory() as place:
                folder, model, base = Path(place), ei.testbed.load("base"), ei.testbed.load("base")
                train(model, [(FORMED, known + new), (ENDED, after)], seed, folder)
                if arm == NOT_REHEARSED:
                    drop_until_formed(folder)
                concepts = concepts_of(seed)
                found = ei.track(folder, concepts, model=base, progress=False)
                grown = ei.track(folder, concepts, model=base, delta_from=base, null="analytic", progress=False)
            says = {"seed": seed, "arm": arm}
            columns = ["step", "concept", "key", "component", "layer", "wnorm", "fisher", "score", "score_p_value",
                       "moved", "delta", "cosine", "subspace"]  # fmt: skip
            maps.append(found.to_frame()[columns].assign(**says))
            added.append(
                grown.to_frame()[["step", "concept", "key", "component", "layer", "fisher", "output_norm"]].assign(
                    **says
                )
            )
            answers.append(found.answers.assign(**says))
            formed.append(found.formation().assign(**says))
        print(pd.concat(formed).to_string(), flush=True)
    tables = {"maps": maps, "added": added, "answers": answers, "formed": formed}
    joined = {name: pd.concat(some, ignore_index=True) for name, some in tables.items()}
    return {name: frame.astype(object).where(frame.notna(), None) for name, frame in joined.items()}


def shares_by_layer(added: pd.DataFrame) -> pd.DataFrame:
    """Which share of what was added lies in each layer, by its outputs: a row for each run, step and layer."""
    found = added[added["layer"].notna()].copy()
    found["energy"] = (found["fisher"].astype(float) * found["output_norm"].astype(float)) ** 2
    found["layer"] = found["layer"].astype(int)
    by = ["seed", "arm", "concept", "step"]
    energy = found.groupby([*by, "layer"])["energy"].sum().reset_index()
    whole = energy.groupby(by)["energy"].transform("sum")
    return energy.assign(share=energy["energy"] / whole.where(whole > 0))


def half_grown(added: pd.DataFrame) -> pd.DataFrame:
    """The first step at which what was added to a layer has half of its size at the end of the first part."""
    found = shares_by_layer(added)
    found = found[(found["arm"] == REHEARSED) & (found["step"] <= FORMED)]
    rows = []
    for (seed, concept, layer), some in found.groupby(["seed", "concept", "layer"]):
        size = some.set_index("step")["energy"] ** 0.5
        rows.append(
            {"seed": seed, "concept": concept, "layer": layer, "step": int((size >= size.iloc[-1] / 2).idxmax())}
        )
    return pd.DataFrame(rows)


def _said(values: pd.Series, form: str = "{:.2f}") -> str:
    low, high = interval(values.astype(float))
    return f"{form.format(values.mean())} ({form.format(low)} to {form.format(high)})"


def of_formation(tables: Tables) -> str:
    """Answers, the map and what was added, at some steps."""
    maps, added, answers = tables["maps"], tables["added"], tables["answers"]
    target = answers[answers["side"] == "target"]
    depth = shares_by_layer(added)
    depth["depth"] = depth["layer"] * depth["share"]
    centre = depth.groupby(["seed", "arm", "concept", "step"])["depth"].sum(min_count=1).reset_index()
    runs = ["seed", "concept"]
    rows = []
    for arm, step in [(REHEARSED, one) for one in SHOWN] + [(arm, ENDED) for arm in (REHEARSED, NOT_REHEARSED)]:

        def at(frame: pd.DataFrame, column: str, arm: str = arm, step: int = step) -> pd.Series:
            mine = frame[(frame["arm"] == arm) & (frame["step"] == step)]
            return mine.groupby(runs)[column].mean()

        starred = maps[(maps["arm"] == arm) & (maps["step"] == step)]
        p_values = starred.groupby(runs)["score_p_value"].apply(
            lambda some: float(np.nanmin(some.astype(float)) <= 0.05)
        )
        grown = at(centre, "depth") if step else pd.Series(dtype=float)
        rows.append([
            str(step), arm if step > FORMED else "", _said(at(target, "accuracy")), _said(at(maps, "cosine")),
            f"{p_values.mean():.0%}", "" if not len(grown) else _said(grown),
        ])  # fmt: skip
    head = ["step", "after it was formed", "answers right", "cosine with the last engram", "maps with a star",
            "mean layer of what was added"]  # fmt: skip
    return table(head, rows)


def of_order(tables: Tables) -> str:
    """When each layer has half of what it gets."""
    found = half_grown(tables["added"])
    rows = [[str(layer), _said(some["step"], "{:.0f}")] for layer, some in found.groupby("layer")]
    return table(["layer", "step at which it has half of what it has at step 400"], rows)


def figures(tables: Tables) -> list[go.Figure]:
    """Which share of what was added lies in each layer, over the steps, in both arms."""
    return [layer_shares(shares_by_layer(tables["added"]), FORMED, "Where what was added for an author lies")]


main = results.study(RESULTS, measure, lambda tables: f"{of_formation(tables)}\n\n{of_order(tables)}", figures)

if __name__ == "__main__":
    main()
