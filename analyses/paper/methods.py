"""How can a model forget? Candidates: a method with its hyperparameters, and how to make the edited model.

Candidates are judged on a fourth of the questions. The best of each method by Overall is reported on the rest.
"""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import click
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots
from torch import nn
from tqdm.auto import tqdm

import engram_interp as ei
from analyses.baselines.unlearn import METHODS, RATES, finetuned, unlearned
from analyses.results import Tables
from analyses.setting import TEST, VALIDATION, Setting, required
from engram_interp import filters
from engram_interp.engrams.strengths import Alpha
from engram_interp.figures.style import MATRIX_COLOUR, TARGET_COLOUR, TEMPLATE

UNIFORM = tuple(round(0.05 * step, 2) for step in range(1, 21))
"""The paper's search space for a uniform alpha (App. E.3)."""
STRENGTHS = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 8.0, 12.0, 16.0)
"""Beyond it, since the strength that an edit needs depends on the concept's share of the data."""
TASK_ALPHAS = (0.5, 1.0, 2.0, 5.0, 20.0)
UCE_LAMBDAS = (0.0, 0.01, 0.05, 0.1, 0.3, 0.5, 1.0)
"""The sweeps of App. E.5."""
LARGER_LAMBDAS = (1e3, 1e4)
SCORES = ("overall", "memorization", "utility", "privacy", "em", "es", "pp", "tr", "mu", "ff", "fq")

Edited = AbstractContextManager[nn.Module]


@dataclass(frozen=True)
class Candidate:
    """One method with its hyperparameters.

    Attributes:
        method: the method's name in the tables.
        options: its hyperparameters.
        make: makes the edited model from a setting, for the length of a `with` block.
    """

    method: str
    options: dict[str, Any]
    make: Callable[[Setting], Edited]


def ablating(setting: Setting, alpha: Alpha, scale: float = 1.0, **options: Any) -> Edited:
    """The model without the target's engram, or a multiple of it."""
    return (scale * setting.engram(**options)).ablated(setting.model, alpha)


def over_share(setting: Setting, alpha: Alpha) -> Edited:
    """Ablates what the target owns of a direction beyond its share of the tokens."""
    return ablating(setting, alpha, filter=filters.over(setting.statistics.token_share()))


def without_task_vector(setting: Setting, alpha: float) -> Edited:
    """Task Arithmetic: subtracts what fine-tuning the base model on the target changes."""
    base = required(setting.base, "base")

    def make() -> ei.Engram:
        return ei.task_vector(setting.model, setting.target or finetuned(setting, base), base)

    return setting.made("task vector", make).ablated(setting.model, alpha)


def trained(setting: Setting, name: str, learning_rate: float, **options: Any) -> Edited:
    """The model after a gradient method."""
    return nullcontext(unlearned(setting, METHODS[name], learning_rate, options))


def searched(method: str, make: Callable[..., Edited], **options: Iterable[Any]) -> list[Candidate]:
    """One candidate for each value of the single option."""
    ((name, values),) = options.items()
    return [Candidate(method, {name: value}, partial(make, **{name: value})) for value in values]


def closed_form() -> list[Candidate]:
    """Table 4: the paper's settings and sweeps, and the same with their strength searched."""
    return [
        *searched("Task Arithmetic", without_task_vector, alpha=TASK_ALPHAS),
        *searched("UCE", partial(ablating, alpha=1.0), ridge=UCE_LAMBDAS),
        *searched("Engram, uniform alpha", ablating, alpha=UNIFORM),
        Candidate("Engram, alpha by W-Norm", {"alpha": "w-norm"}, partial(ablating, alpha="w-norm")),
        *[
            Candidate("UCE, alpha and lambda searched", options, partial(ablating, **options))
            for options in ({"alpha": alpha, "ridge": ridge} for ridge in LARGER_LAMBDAS for alpha in STRENGTHS)
        ],
        *searched("Engram, uniform alpha beyond 1", ablating, alpha=STRENGTHS),
        *searched("Engram, alpha by W-Norm, scaled", partial(ablating, alpha="w-norm"), scale=STRENGTHS),
        *searched("Engram, filter power(2)", partial(ablating, filter=filters.power(2)), alpha=STRENGTHS),
        *searched("Engram, filter over(n/N)", over_share, alpha=STRENGTHS),
    ]


def gradient() -> list[Candidate]:
    """The gradient methods of Table 3, over their grids."""
    return [
        Candidate(name, {"learning_rate": rate, **options}, partial(trained, name=name, learning_rate=rate, **options))
        for name, method in METHODS.items()
        for options in method.grid
        for rate in RATES
    ]


def naive_delta(setting: Setting, alpha: Alpha) -> Edited:
    """The engram of `W_ft - W_pt` (Table 9)."""
    return ablating(setting, alpha, delta_from=required(setting.base, "base"))


def asked(setting: Setting, candidates: list[Candidate]) -> list[Candidate]:
    """The candidates of the methods that `--only` names, or all."""
    methods = list(dict.fromkeys(one.method for one in candidates))
    if unknown := [name for name in setting.only if name not in methods]:
        raise click.UsageError(f"there is no method {', '.join(unknown)}; there are {'; '.join(methods)}")
    return [one for one in candidates if not setting.only or one.method in setting.only]


def judged(setting: Setting, candidates: list[Candidate]) -> pd.DataFrame:
    """Scores every candidate on the questions for choosing: one row each.

    Raises:
        ValueError: if the benchmark lacks what a score needs. This is checked before any candidate is made.
    """
    ends = setting.ends(VALIDATION)
    ends["retain"].evaluate(ends, n_resamples=0)
    rows = []
    for candidate in tqdm(candidates, desc="candidates", disable=None):
        row = {"method": candidate.method, "options": candidate.options}
        try:
            found = _run(setting, candidate, VALIDATION).evaluate(ends, n_resamples=0)
        except ValueError as error:
            # A candidate that diverged must not lose the others.
            rows.append({**row, "overall": float("nan"), "failed": str(error)})
            continue
        rows.append({**row, **{score: found[score] for score in SCORES if score not in found.missing}})
    return pd.DataFrame(rows)


def best(candidates: list[Candidate], table: pd.DataFrame) -> list[Candidate]:
    """The candidate with the highest Overall of each method, if any could be judged."""
    judged_ones = table.reset_index(drop=True).dropna(subset="overall")
    return [candidates[i] for i in judged_ones.groupby("method", sort=False)["overall"].idxmax()]


def compare(setting: Setting, candidates: list[Candidate]) -> Tables:
    """Scores of every candidate on the questions for choosing, and of each method's best on the others."""
    chosen = asked(setting, candidates)
    tried = judged(setting, chosen)
    # `tried` is not rounded: if every candidate fails, the differences between them are small.
    return {"tried": tried, "scores": reported(setting, best(chosen, tried)).round(5)}


def reported(setting: Setting, candidates: list[Candidate]) -> pd.DataFrame:
    """Scores of `full`, `retain` and the candidates, with intervals: one row for each method and score."""
    ends = setting.ends(TEST)
    runs = {**ends, **{one.method: _run(setting, one, TEST) for one in candidates}}
    frames = [run.evaluate(ends, seed=setting.seed).table.assign(method=name) for name, run in runs.items()]
    return pd.concat(frames, ignore_index=True)[["method", "score", "value", "low", "high"]]


def wide(tables: Tables) -> pd.DataFrame:
    """One row for each method, one column for each score."""
    scores = tables["scores"]
    table = scores.pivot(index="method", columns="score", values="value").reindex(scores["method"].unique())
    return table[[score for score in SCORES if score in table]]


def options_of(tables: Tables) -> pd.Series:
    """Each method's hyperparameters with the highest Overall, even if that is zero."""
    tried = tables["tried"]
    best_of = tried.dropna(subset="overall").groupby("method", sort=False)["overall"].idxmax()
    return tried.loc[best_of].set_index("method")["options"]


def text(tables: Tables) -> str:
    """The scores and hyperparameters of every method."""
    return wide(tables).join(options_of(tables)).to_string(float_format="{:.3f}".format)


def compared(tables: Tables, title: str) -> go.Figure:
    """One panel for each score, with every method's value and interval."""
    scores = tables["scores"]
    order = list(scores["method"].unique())[::-1]
    panels = {"overall": "Overall", "memorization": "Memorization", "utility": "Utility", "privacy": "Privacy"}
    figure = make_subplots(
        rows=1, cols=4, shared_yaxes=True, subplot_titles=list(panels.values()), horizontal_spacing=0.02
    )
    for column, score in enumerate(panels, 1):
        mine = scores[scores["score"] == score].set_index("method").loc[order]
        figure.add_trace(
            go.Scatter(
                x=mine["value"], y=mine.index, mode="markers", showlegend=False,
                marker={"size": 9, "color": TARGET_COLOUR if score == "overall" else MATRIX_COLOUR},
                error_x={
                    "type": "data", "symmetric": False, "array": mine["high"] - mine["value"],
                    "arrayminus": mine["value"] - mine["low"], "thickness": 1,
                },
            ), 1, column,
        )  # fmt: skip
        figure.update_xaxes(range=[-0.03, 1.03], title_text="score (1 is best)", row=1, col=column)
    layout = {"template": TEMPLATE, "height": 160 + 26 * len(order), "width": 1250, "margin": {"l": 230}}
    return figure.update_layout(title=title, **layout)


def _run(setting: Setting, candidate: Candidate, questions: str) -> ei.Run:
    with candidate.make(setting) as model:
        return ei.measure(model, setting.questions(questions), progress=False)
