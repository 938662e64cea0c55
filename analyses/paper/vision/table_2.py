"""Table 2, Figures 6 and 10: forgetting a class of a ResNet-18, against methods that train.

Tug-of-War (behaviour, against a retrained model), Dimensional Alignment and NMI (features), and CKA with the original
and the retrained model. Hyperparameters are chosen by ToW, on a model and on held-out examples that the table does not
use. The table's models have other seeds, and its ToW is on test data, as the paper's is.
`python -m analyses.paper.vision.table_2`, about an hour on one thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from torch import nn
from torch.utils.data import TensorDataset

import engram_interp as ei
from analyses.baselines.classifiers import BASELINES, Job, unlearned
from analyses.markdown import table
from analyses.paper import published
from analyses.paper.vision import data
from analyses.paper.vision.models import ResNet18
from analyses.paper.vision.running import Setting, experiment, over_seeds, seeded
from analyses.paper.vision.training import accuracy, fit, only, outputs
from analyses.results import Tables
from engram_interp.unlearning import metrics

FORGOTTEN = 0
"""The paper forgets class 0."""
ALPHAS = [round(0.5 + 0.1 * i, 1) for i in range(16)]
"""The paper's strengths, 0.5 to 2.0."""
EPOCHS, RATE = 12, 0.1
N_FEATURES = 500
CHOSEN_ON = 100
"""The seed of the model on which hyperparameters are chosen."""
ORIGINAL, RETRAINED, ENGRAM = "Original", "Retrained", "Engram"


@dataclass(frozen=True)
class World:
    """A trained model, the one that never saw the class, and the data.

    Attributes:
        pictures: what they were trained on.
        held: training examples that were held out.
        original: trained on all.
        retrained: trained without the class.
        other: the same from another seed, which says how much chance does.
        seed: of these.
    """

    pictures: data.Pictures
    held: TensorDataset
    original: ResNet18
    retrained: ResNet18
    other: ResNet18
    seed: int

    @property
    def forget(self) -> TensorDataset:
        """Training examples of the class."""
        return only(self.pictures.train, [FORGOTTEN])

    @property
    def retain(self) -> TensorDataset:
        """All other training examples."""
        return only(self.pictures.train, [FORGOTTEN], keep=False)

    @property
    def job(self) -> Job:
        """What baselines are given."""
        return Job(self.original, self.forget, self.retain, len(self.pictures.classes), self.seed)


def world(setting: Setting, seed: int) -> World:
    """Models of one seed."""
    whole = data.load(setting.data, setting.n_train, 2000)
    pictures, held = whole.split(0.2, seed)
    make = partial(ResNet18, pictures.shape[0], len(pictures.classes), **setting.sized)
    retained = pictures.without({FORGOTTEN})
    trained = [
        fit(seeded(number, make, setting.device), part.train, EPOCHS, RATE, number)
        for number, part in ((seed, pictures), (seed + 1000, retained), (seed + 2000, retained))
    ]
    return World(pictures, held, trained[0], trained[1], trained[2], seed)  # pyright: ignore[reportArgumentType]


def tow(world: World, model: nn.Module, test: TensorDataset, like: dict[str, float] | None = None) -> float:
    """Tug-of-War against the retrained model, or against accuracies that are at hand."""
    return metrics.tug_of_war(accuracies(world, model, test), like or accuracies(world, world.retrained, test))


def accuracies(world: World, model: nn.Module, test: TensorDataset) -> dict[str, float]:
    """Accuracies on what is forgotten, what is kept, and test data."""
    sets = {"forget": world.forget, "retain": world.retain, "test": test}
    return {name: accuracy(model, some) for name, some in sets.items()}


def engram_of(world: World) -> ei.Engram:
    """The class's engram, from all training examples."""
    concept = ei.Concept.from_dataset(world.pictures.train, FORGOTTEN)
    return ei.extract(world.original, concept, progress=False)


Method = Callable[[World], Iterable[tuple[dict[str, Any], Callable[[], nn.Module]]]]


def candidates(world: World, name: str) -> list[tuple[dict[str, Any], Callable[[], nn.Module]]]:
    """Every setting of a method, and what makes its model."""
    if name == ENGRAM:
        engram = engram_of(world)
        return [({"alpha": alpha}, partial(engram.ablate, world.original, alpha)) for alpha in ALPHAS]
    method = BASELINES[name]
    return [(options, partial(unlearned, world.job, method, **options)) for options in method.candidates]


METHODS = (*BASELINES, ENGRAM)


def choose(world: World) -> pd.DataFrame:
    """The hyperparameters of every method with the highest ToW, with held-out examples in the place of a test set."""
    rows, of_retrained = [], accuracies(world, world.retrained, world.held)
    for name in METHODS:
        scored = [(tow(world, make(), world.held, of_retrained), options) for options, make in candidates(world, name)]
        best, options = max(scored, key=lambda pair: pair[0])
        rows.append({"method": name, "tow": best, **options})
        print(rows[-1], flush=True)
    return pd.DataFrame(rows)


def scores(world: World, model: ResNet18, name: str) -> dict[str, object]:
    """The numbers of a model."""
    device = next(model.parameters()).device
    generator = np.random.default_rng(world.seed)
    test = world.pictures.test
    features = {
        part: _features(model, some, device, generator) for part, some in (("f", world.forget), ("r", world.retain))
    }
    n = min(map(len, features.values()))
    on_test, of_original, of_retrained = (
        outputs(one.features, test.tensors[0], device).double().numpy() for one in (model, *_compared(world, name))
    )
    return {
        "method": name,
        "seed": world.seed,
        "tow": tow(world, model, test),
        "da": metrics.dimensional_alignment(features["f"], features["r"]),
        "nmi": metrics.separability(features["f"][:n], features["r"][:n], world.seed),
        "cka_original": metrics.debiased_cka(on_test, of_original),
        "cka_retrained": metrics.debiased_cka(on_test, of_retrained),
        **{f"accuracy_{part}": accuracy(model, some) for part, some in
           (("forget", world.forget), ("retain", world.retain), ("test", test))},
    }  # fmt: skip


def _compared(world: World, name: str) -> tuple[ResNet18, ResNet18]:
    """What features are compared with. The retrained model is compared with one of another seed."""
    return world.original, world.other if name == RETRAINED else world.retrained


def _features(model: ResNet18, some: TensorDataset, device: torch.device, generator: np.random.Generator) -> np.ndarray:
    order = torch.from_numpy(generator.permutation(len(some))[:N_FEATURES])
    return outputs(model.features, some.tensors[0][order], device).double().numpy()


def measure(setting: Setting) -> Tables:
    """What was chosen, and every method's numbers by seed and over seeds."""
    chosen = choose(world(setting, CHOSEN_ON))
    rows = []
    for seed in range(setting.seeds):
        here = world(setting, seed)
        found = [scores(here, here.original, ORIGINAL), scores(here, here.retrained, RETRAINED)]
        # A retrained model is compared with one of another seed, as in the paper.
        test = here.pictures.test
        found[1]["tow"] = tow(here, here.retrained, test, accuracies(here, here.other, test))
        for best in chosen.to_dict("records"):
            name = str(best["method"])
            options = {
                key: int(value) if key == "epochs" else value
                for key, value in best.items()
                if key not in ("method", "tow") and not pd.isna(value)
            }
            (make,) = [make for one, make in candidates(here, name) if one == options]
            found.append(scores(here, make(), name))  # pyright: ignore[reportArgumentType]
        rows += found
        print(pd.DataFrame(found).round(3).to_string(), flush=True)
    every = pd.DataFrame(rows)
    summary = pd.concat(
        [over_seeds(every, ["method"], name).assign(score=name) for name in every.columns[2:]], ignore_index=True
    )
    return {"chosen": chosen.astype(object).where(chosen.notna(), None), "runs": every, "summary": summary}


def text(tables: Tables) -> str:
    """The table in Markdown."""
    summary = tables["summary"].set_index(["method", "score"])
    names = ("tow", "da", "nmi", "cka_original", "cka_retrained", "accuracy_forget", "accuracy_test")
    rows = [
        [method, *(_shown(summary.loc[(method, name)]) for name in names), _of_paper(method)]
        for method in dict.fromkeys(tables["summary"]["method"])
    ]
    head = ["ToW ↑", "DA ↑", "NMI ↓", "CKA original", "CKA retrained", "accuracy, forgotten", "accuracy, test"]
    return table(["method", *head, "the paper's ToW, DA, NMI"], rows)


def _of_paper(method: str) -> str:
    return " / ".join(f"{value:.3f}" for value in published.TABLE_2.get(method, ()))


def _shown(row: pd.Series) -> str:
    return f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"


def figures(tables: Tables) -> list[go.Figure]:
    """CKA with the original and the retrained model, as the paper's Figures 6 and 10."""
    wide = tables["runs"].groupby("method", sort=False)[["cka_original", "cka_retrained"]].mean()
    figure = go.Figure(
        [
            go.Scatter(x=[row.cka_original], y=[row.cka_retrained], name=str(name), mode="markers", marker={"size": 12})
            for name, row in wide.iterrows()
        ]
    )
    figure.update_xaxes(title_text="debiased CKA with the original model")
    figure.update_yaxes(title_text="debiased CKA with the retrained model")
    return [figure.update_layout(title="Features on test pictures after forgetting class 0 (mean over seeds)")]


main = experiment(__file__, measure, text, figures, n_train=3000, seeds=5)

if __name__ == "__main__":
    main()
