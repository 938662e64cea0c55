"""Is it an engram? Specificity, reactivation, sufficiency and necessity (paper, Table 1), measured twice.

| criterion    | condition                    | in behaviour                                            |
|--------------|------------------------------|---------------------------------------------------------|
| specificity  | `W+ X- ~ 0`                  | ablating leaves the answers to the reference            |
| reactivation | `W+ X+ ~ dW X+`              | injected into the null state, it gives the answers back |
| sufficiency  | `(W_0 + W+) X+ ~ W_1 X+`     | ... of those that the null state lacks                  |
| necessity    | `(W_1 - W+) X+ ~ W_0 X+`     | ablating takes these answers away                       |

Every number says by how much its condition is missed: 0 is met. The algebraic numbers are shares of output energy,
`|A X|^2 = tr(A S A^T)`. They need only the statistics, and see one matrix at a time, on the inputs of the unedited
model. For one matrix, injecting adds what ablating removes: sufficiency and necessity are one number, and so is
reactivation if `W_0` is zero. The behavioural numbers are shares of answer tokens. They see what the whole edit does,
and differ. They compare with the null state. A null state of zeros answers nothing, so everything that a model of the
language gets right counts as memory; a base model (`delta_from`) is a sharper null. An edit that overshoots gives a
number below 0 or above 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn

from engram_interp.answers.scoring import score_encoded, side_by_side
from engram_interp.common.progress import bar
from engram_interp.concepts.concept import REFERENCE, TARGET, Concept
from engram_interp.engrams.engram import Engram, require_engram
from engram_interp.engrams.extract import extract
from engram_interp.engrams.strengths import Alpha
from engram_interp.engrams.weights import absorbing_inputs, base_of, matrix_in, matrix_of
from engram_interp.linalg.norms import output_norm, share
from engram_interp.linalg.second_moment import SecondMoment
from engram_interp.models import Adapter, adapt
from engram_interp.models.exclusive import exclusive
from engram_interp.models.sites import Site
from engram_interp.options import Run, Solve, Which, takes
from engram_interp.statistics.collect import collect
from engram_interp.statistics.statistics import Statistics

if TYPE_CHECKING:
    import plotly.graph_objects as go

CONDITIONS = {
    "specificity": "W+ X- ~ 0",
    "reactivation": "W+ X+ ~ dW X+",
    "sufficiency": "(W_0 + W+) X+ ~ W_1 X+",
    "necessity": "(W_1 - W+) X+ ~ W_0 X+",
}
MODEL, ABLATED, NULL, INJECTED = "the model", "engram ablated", "null state", "engram injected"


@dataclass(frozen=True)
class Criteria:
    """By how much an engram misses the four criteria: 0 is met.

    Attributes:
        matrices: a row for each matrix: `key`, `component`, `layer`, `expert` and the four algebraic numbers.
        behaviour: answer accuracy and loss, a column for each side and measure, and a row for each state: the model,
            the model without the engram, the null state, and the null state with the engram.
        alpha: how strongly the engram was applied.
        name: the concept's name.
        model: the model's name.
    """

    matrices: pd.DataFrame
    behaviour: pd.DataFrame
    alpha: Alpha = 1.0
    name: str | None = None
    model: str = ""

    def __repr__(self) -> str:
        missed = behavioural(self.behaviour)
        shown = ", ".join(f"{name} {share:.1%}" for name, share in missed.items())
        return f"Criteria({self.name!r} in {self.model!r}, missed in answers: {shown})"

    def _repr_html_(self) -> str:
        from engram_interp.common.html import table_html
        from engram_interp.figures.small import bars

        lead, frame = f"By what share each criterion is missed in {self.model}; 0 is met.", self.to_frame()
        picture = bars(frame["algebraic"].astype(float).to_dict(), "missed by the median matrix", "{:.1%}")
        return table_html("Criteria", self.name, lead, frame, picture)

    def to_frame(self) -> pd.DataFrame:
        """A row for each criterion: its condition, the median matrix's number and quartiles, the behavioural number."""
        quartiles = self.matrices[list(CONDITIONS)].quantile([0.25, 0.5, 0.75])
        frame = pd.DataFrame(
            {
                "condition": CONDITIONS,
                "algebraic": quartiles.loc[0.5],
                "lower_quartile": quartiles.loc[0.25],
                "upper_quartile": quartiles.loc[0.75],
                "behavioural": behavioural(self.behaviour),
            }
        )
        return frame.loc[list(CONDITIONS)].rename_axis("criterion")

    def plot(self) -> go.Figure:
        """What every matrix and the whole edit miss, and the answers of the four states."""
        from engram_interp.figures.curves import criteria_panels

        concept = f" of {self.name!r}" if self.name else ""
        strength = f", alpha = {self.alpha:.3g}" if isinstance(self.alpha, (int, float)) else ""
        title = f"The four criteria: the engram{concept} in {self.model}{strength}"
        return criteria_panels(self.matrices, behavioural(self.behaviour), self.behaviour, title)


@exclusive
@takes(Which, Solve, Run)
def criteria(
    model: nn.Module,
    engram: Engram | Concept,
    concept: Concept | None = None,
    *,
    alpha: Alpha = 1.0,
    statistics: Statistics | None = None,
    which: Which,
    solve: Solve,
    run: Run,
) -> Criteria:
    """How well an engram meets the four criteria, by matrix and in the model's answers.

    `criteria(model, concept)` extracts the concept's engram with the options. `criteria(model, engram, concept)` tests
    an engram that is at hand, which has its options already. The null state is `model` with zeros for the engram's
    matrices (tabula rasa), or the model `delta_from`. The engram of a difference needs the model that it was taken
    from.

    Args:
        model: the model that the engram is part of. It is left as it was.
        engram: what is tested, or the concept whose engram is.
        concept: target and reference, as text or tokens, since the model runs on them; with an engram only.
        alpha: how strongly the engram is ablated and injected; see `Engram.ablate`.
        statistics: the concept's, if they are at hand. They are collected by default.

    Raises:
        ValueError: if the engram is of another model, or of a difference without its `delta_from`, or the statistics
            lack something; see also `extract`.
        TypeError: if an engram comes with an option that says how to make one.

    Example:
        >>> import engram_interp as ei
        >>> model, corpus = ei.testbed.load("full"), ei.testbed.authors()
        >>> author, *others = corpus.forget10[:4]
        >>> concept = ei.Concept(author.examples, [example for other in others for example in other.examples])
        >>> found = ei.criteria(model, ei.extract(model, concept), concept)
        >>> list(found.to_frame().index)
        ['specificity', 'reactivation', 'sufficiency', 'necessity']
    """
    engram, concept, statistics = _given(model, engram, concept, statistics, which, solve, run)
    _require_base(engram, solve.delta_from)
    adapter = adapt(model)
    engram.info.require(adapter.info, "the engram")
    statistics.info.require(adapter.info, "the statistics")
    mine = {site.key for site in engram.sites}
    sites = [site for site in adapter.all_sites() if site.key in mine]
    base = base_of(adapter, solve.delta_from, sites)
    return Criteria(
        matrices=_matrices(adapter, base, sites, engram, alpha, statistics, run.progress),
        behaviour=_behaviour(model, solve.delta_from, engram, alpha, concept, run),
        alpha=alpha,
        name=concept.name,
        model=adapter.info.name,
    )


def _given(
    model: nn.Module,
    engram: Engram | Concept,
    concept: Concept | None,
    statistics: Statistics | None,
    which: Which,
    solve: Solve,
    run: Run,
) -> tuple[Engram, Concept, Statistics]:
    """The engram, its concept and the concept's statistics, made if they are not at hand."""
    if isinstance(engram, Concept):
        if concept is not None:
            raise TypeError("criteria takes an engram and its concept, or a concept alone; got two Concepts")
        found = collect(model, engram, **vars(which), **vars(run)) if statistics is None else statistics
        return extract(model, found, **vars(which), **vars(solve), **vars(run)), engram, found
    require_engram(engram)
    if not isinstance(concept, Concept):
        raise TypeError(f"an engram is tested on its concept: concept must be a Concept; got {concept!r}")
    _require_no_options(which, solve)
    return engram, concept, _statistics(model, engram, concept, run) if statistics is None else statistics


def _require_no_options(which: Which, solve: Solve) -> None:
    """An engram that is given was made with its own options; only `delta_from` says something else, the null state."""
    given = {**vars(which), **vars(replace(solve, delta_from=None))}
    default = {**vars(Which()), **vars(Solve())}
    if wrong := [name for name, value in given.items() if value is not default[name] and value != default[name]]:
        raise TypeError(
            f"{', '.join(wrong)} says how to make an engram, and one is given: pass the concept in its place, or make "
            f"the engram with extract(..., {wrong[0]}={given[wrong[0]]!r})"
        )


def _require_base(engram: Engram, delta_from: nn.Module | None) -> None:
    taken_from = engram.options.get("delta_from")
    given = None if delta_from is None else adapt(delta_from).info.name
    if taken_from is not None and given != taken_from:
        raise ValueError(
            f"the engram is of the difference from {taken_from!r}: give that model as delta_from; got {given or 'none'}"
        )


def _statistics(model: nn.Module, engram: Engram, concept: Concept, run: Run) -> Statistics:
    components = {site.component for site in engram.sites}
    layers = {site.layer for site in engram.sites if site.layer is not None and not engram.info.is_plain}
    return collect(model, concept, components=components, layers=layers or None, **vars(run))


def algebraic(
    W_1: Float[Tensor, "out d"],
    W_0: Float[Tensor, "out d"],
    W_plus: Float[Tensor, "out d"],
    target: SecondMoment,
    reference: SecondMoment,
) -> dict[str, float]:
    """By what share of the output energy each condition is missed; 0 if the output is zero.

    Args:
        W_1: the model's matrix.
        W_0: the null state's matrix.
        W_plus: the engram, as strong as it is applied.
        target: second moment of its inputs, `S+`.
        reference: `S-`.

    Example:
        >>> from engram_interp.linalg.second_moment import SecondMoment
        >>> W, S = torch.eye(2), SecondMoment(torch.eye(2))
        >>> algebraic(W, 0 * W, 0.5 * W, S, S)
        {'specificity': 0.25, 'reactivation': 0.25, 'sufficiency': 0.25, 'necessity': 0.25}
    """
    dW = W_1 - W_0
    # For one matrix, W+ misses dW by as much in both directions, injected or ablated.
    missed, all_of_it = output_norm(W_plus - dW, target), output_norm(W_1, target)
    learned = all_of_it if not W_0.count_nonzero() else output_norm(dW, target)
    shares = {
        "specificity": share(output_norm(W_plus, reference), output_norm(W_1, reference)),
        "reactivation": share(missed, learned),
        "sufficiency": share(missed, all_of_it),
        "necessity": share(missed, all_of_it),
    }
    return {name: value.square().item() for name, value in shares.items()}


def behavioural(behaviour: pd.DataFrame) -> dict[str, float]:
    """By what share of the answers (tokens right) each criterion is missed; see `Criteria.behaviour`.

    NaN if there is nothing to miss, because the null state knows the target as well as the model does.
    """
    target, reference = behaviour["target_accuracy"], behaviour["reference_accuracy"]
    learned = target[MODEL] - target[NULL]
    return {
        "specificity": _ratio(reference[MODEL] - reference[ABLATED], reference[MODEL]),
        "reactivation": _ratio(target[MODEL] - target[INJECTED], target[MODEL]),
        "sufficiency": _ratio(target[MODEL] - target[INJECTED], learned),
        "necessity": _ratio(target[ABLATED] - target[NULL], learned),
    }


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else float("nan")


@torch.no_grad()
def _matrices(
    adapter: Adapter,
    base: Adapter | None,
    sites: list[Site],
    engram: Engram,
    alpha: Alpha,
    statistics: Statistics,
    progress: bool | None,
) -> pd.DataFrame:
    absorbing, alphas = absorbing_inputs(adapter, base), engram.alphas(alpha)
    missing = [site.key for site in sites if site.input not in statistics.inputs]
    if missing or not {TARGET, REFERENCE} <= statistics.groups.keys():
        raise ValueError(
            f"the statistics have the groups {', '.join(statistics.groups)} and lack {', '.join(missing) or 'no input'}"
            f": collect target and reference for the engram's matrices"
        )
    rows, moments, read = [], {}, None
    for site in bar(sites, progress, "testing", "matrix"):
        absorbed = site.input in absorbing
        if site.input != read:
            read, groups = site.input, statistics.groups
            moments = {group: groups[group][read].of_inputs(absorbed).to("cpu") for group in (TARGET, REFERENCE)}
        W_1 = matrix_of(adapter, site, absorbed).cpu()
        W_0 = torch.zeros_like(W_1) if base is None else matrix_of(base, site, absorbed).cpu()
        if base is None and absorbed and site.bias not in set(engram.tensors):
            W_0[:, -1] = W_1[:, -1]  # tabula rasa zeroes what the engram is part of, and this bias is not part of it
        applied = alphas[site.path] * matrix_in(engram.tensors, site, absorbed).cpu()
        missed = algebraic(W_1, W_0, applied, moments[TARGET], moments[REFERENCE])
        rows.append(
            {"key": site.key, "component": site.component, "layer": site.layer, "expert": site.expert, **missed}
        )
    return pd.DataFrame(rows).astype({"layer": "Int64", "expert": "Int64"})


def _behaviour(
    model: nn.Module,
    base: nn.Module | None,
    engram: Engram,
    alpha: Alpha,
    concept: Concept,
    run: Run,
) -> pd.DataFrame:
    encoded = adapt(model).encode_concept(concept)

    def answers(one: nn.Module) -> dict[str, float]:
        return side_by_side(score_encoded(adapt(one), encoded, run))

    states: dict[str, Mapping[str, float]] = {MODEL: answers(model)}
    with engram.ablated(model, alpha):
        states[ABLATED] = answers(model)
    if base is None:
        # The weights themselves as an engram: without them a matrix is zero, and without all but W+ it is W+.
        tensors = {key: adapt(model).parameter(key).detach().to(own, copy=True) for key, own in engram.tensors.items()}
        weights = replace(engram, tensors=tensors)
        with weights.ablated(model):
            states[NULL] = answers(model)
        alphas = engram.alphas(alpha)
        for key, W_plus in engram.tensors.items():  # in place: an engram is as large as its matrices
            tensors[key] -= alphas[engram.weight_of(key)] * W_plus
        with weights.ablated(model):
            states[INJECTED] = answers(model)
    else:
        states[NULL] = answers(base)
        with engram.rebind(base).injected(base, alpha):
            states[INJECTED] = answers(base)
    return pd.DataFrame.from_dict(states, orient="index").rename_axis("state")
