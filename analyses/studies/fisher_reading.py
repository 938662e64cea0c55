"""Is an engram's Fisher size the change that ablating it makes?

For one author of the testbed, the engram of one matrix at a time is ablated. The change in the model's predictions, as
a Kullback-Leibler divergence, is compared with quadratic forms that should predict it:

* `S (x) I`,
* `S (x) sigma^2 I`, with the mean square of the gradients at the matrix's outputs,
* `S (x) G`, with their second moment (K-FAC). These two take one backward pass for each draw,
* the layer's own Fisher matrix, which K-FAC factorises, exactly.

Then authors are forgotten by `W+`, and by natural-gradient steps with the measured `G`, at the same cost to everything
else. `python -m analyses.studies.fisher_reading` writes the numbers (.json) and the page (.md) beside this file.
"""

import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click
import pandas as pd
import plotly.graph_objects as go
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

import engram_interp as ei
from analyses import results
from engram_interp.concepts.batches import Batch, batches
from engram_interp.engrams.engram import Engram
from engram_interp.linalg.fisher import squared_length
from engram_interp.linalg.norms import share
from engram_interp.models import LanguageAdapter, adapt_language
from engram_interp.models.components import UNEMBED
from engram_interp.models.sites import Site, by_input

OUTPUTS = {
    "W_Q": "attn.hook_q", "W_K": "attn.hook_k", "W_V": "attn.hook_v", "W_O": "hook_attn_out", "W_gate": "mlp.hook_pre",
    "W_in": "mlp.hook_pre_linear", "W_out": "hook_mlp_out",
}  # fmt: skip
"""The hook point of TransformerLens 3.9 for the output of each of the testbed's matrices."""
N_OTHERS, ALPHA, SMALL, STEP = 400, 8.0, 0.25, 0.05
DRAWS = 8
"""Answers drawn from the model for each prediction, to measure `G`. With a single one, it varies by a tenth."""
DAMPINGS = (10.0, 1.0, 0.1)
N_AUTHORS, KEEP = 5, 0.98
RESULTS = Path(__file__).with_suffix(".json")


def before_answers(batch: Batch) -> Tensor:
    """Where the tokens that count are predicted, `[batch pos]`."""
    at = batch.counts.clone()
    at[:, 0] = False
    return at.roll(-1, dims=1)


def a_prediction(
    model: nn.Module,
    engram: Engram,
    alphas: tuple[float, ...],
    measure: Callable[..., Tensor],
    encoded: dict[str, Any],
) -> float:
    """The mean over predictions of what `measure` returns.

    `measure` takes log-probabilities, `[n d_vocab]`: those of the model, and for each alpha those of the model without
    `alpha` times the engram.
    """
    adapter, total, n = adapt_language(model), 0.0, 0

    def log_probabilities(batch: Batch) -> Tensor:
        return adapter.unembed(adapter.final(batch, before_answers(batch))).double().log_softmax(-1)

    for batch in batches(encoded, 128, False, ""):
        with torch.no_grad():
            found = [log_probabilities(batch)]
            for alpha in alphas:
                with engram.ablated(model, alpha):
                    found.append(log_probabilities(batch))
        total += float(measure(*found).sum())
        n += len(found[0])
    return total / n


def divergence(p: Tensor, q: Tensor) -> Tensor:
    """`KL(p || q)`, answer by answer."""
    return p.exp() * (p - q)


def own_fisher(p: Tensor, minus: Tensor, plus: Tensor) -> Tensor:
    """`p (d log p)^2 / 2`, answer by answer: half the engram's square in the Fisher matrix of what it edits.

    This is exact: the expectation is the sum over all possible answers. The derivative along the engram is a central
    difference.
    """
    return 0.5 * p.exp() * ((plus - minus) / (2 * STEP)).square()


def backward(model: nn.Module, batch: Batch, sites: list[Site], seed: int) -> dict[str, Tensor]:
    """Gradients at every matrix's output, `[batch pos out]`, for answers drawn from the model."""
    outputs: dict[str, Tensor] = {}

    def keep(key: str, tensor: Tensor, **_: object) -> Tensor:
        outputs[key] = tensor.requires_grad_() if not tensor.requires_grad else tensor
        outputs[key].retain_grad()
        return outputs[key]

    hooks: list[tuple[str, Callable[..., Any]]] = [
        (f"blocks.{site.layer}.{OUTPUTS[site.component]}", partial(keep, site.key))
        for site in sites
        if site.layer is not None
    ]
    logits = model.run_with_hooks(batch.tokens, fwd_hooks=hooks)  # pyright: ignore[reportCallIssue]
    logits.retain_grad()
    outputs[f"unembed.{UNEMBED}"] = logits
    chosen = logits[before_answers(batch)]
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.multinomial(chosen.detach().softmax(-1), 1, generator=generator).flatten()
    nn.functional.cross_entropy(chosen, drawn, reduction="sum").backward()
    return {key: tensor.grad.flatten(2) for key, tensor in outputs.items() if tensor.grad is not None}


def inputs_of(adapter: LanguageAdapter, batch: Batch, sites: list[Site]) -> dict[str, Tensor]:
    """All inputs, `[batch pos d]`, by name."""
    found: dict[str, Tensor] = {}

    def record(name: str, activation: Tensor, routed: Tensor | None = None) -> None:
        found[name] = activation.detach()

    with torch.no_grad():
        adapter.run(batch, by_input(sites), record)
    return found


def measure(model: nn.Module, engram: Engram, encoded: dict[str, Any]) -> pd.DataFrame:
    """Quadratic forms of every matrix's engram, for each prediction, and `G`: all over the same positions."""
    adapter = adapt_language(model)
    sites = [site for site in adapter.all_sites() if site.key in engram]
    A = {site.key: site.layout.to_matrix(engram[site.key].double()) for site in sites}
    W = {site.key: site.layout.to_matrix(adapter.parameter(site.key).detach().double()) for site in sites}
    S: dict[str, Any] = {site.input: 0.0 for site in sites}
    G: dict[str, Any] = dict.fromkeys(A, 0.0)
    n_predictions = n_positions = 0
    for index, batch in enumerate(batches(encoded, 64, False, "")):
        real = batch.attention_mask
        n_predictions += int(before_answers(batch).sum())
        n_positions += int(real.sum())
        for name, x in inputs_of(adapter, batch, sites).items():
            rows = x[real].double()
            S[name] = S[name] + rows.T @ rows
        for draw in range(DRAWS):
            for key, g in backward(model, batch, sites, index * DRAWS + draw).items():
                rows = g[real].double()
                G[key] = G[key] + rows.T @ rows
    rows = []
    for site in sites:
        key, G_key, S_key = site.key, G[site.key] / (n_positions * DRAWS), S[site.input]
        sigma2 = float(G_key.trace()) / len(G_key)
        isotropic, kfac = squared_length(A[key], S_key), squared_length(A[key], S_key, G_key)
        whole, whole_G = squared_length(W[key], S_key), squared_length(W[key], S_key, G_key)
        rows.append(
            {
                "key": key,
                "S alone": 0.5 * float(isotropic) / n_predictions,
                "isotropic": 0.5 * sigma2 * float(isotropic) / n_predictions,
                "K-FAC": 0.5 * float(kfac) / n_predictions,
                "W-Norm": engram.wnorm()[key],
                "fisher": float(share(isotropic, whole)) ** 0.5,
                "fisher_G": float(share(kfac, whole_G)) ** 0.5,
                "rank_of_G": float(G_key.trace() ** 2 / G_key.square().sum()) / len(G_key),
                "G": G_key,
            }
        )
    return pd.DataFrame(rows)


def stepped(model: nn.Module, engram: Engram, G: dict[str, Tensor], damping: float) -> Engram:
    """`(G + damping tr(G)/out I)^-1 W+` for every matrix, scaled to the length of `W+`."""
    adapter, tensors = adapt_language(model), {}
    for site in adapter.all_sites():
        W_plus, metric = site.layout.to_matrix(engram[site.key].double()), G[site.key]
        damped = metric + damping * metric.trace() / len(metric) * torch.eye(len(metric))
        step = torch.linalg.solve(damped, W_plus)
        step = step * (W_plus.norm() / step.norm())
        tensors[site.key] = site.layout.to_parameter(step, like=engram[site.key]).to(engram[site.key])
    return Engram(tensors, engram.weight_norms, engram.info, f"damping {damping:g}")


def concept_of(name: str) -> ei.Concept:
    """An author, at the paper's positions."""
    return replace(ei.testbed.authors().concept(name), positions="answer")


def sample(concept: ei.Concept, seed: int = 0) -> ei.Concept:
    """The concept with a sample of its reference."""
    others = random.Random(seed).sample(list(concept.reference), N_OTHERS)
    return ei.Concept(concept.target, others, concept.name, positions="answer")


def frontier(model: nn.Module, name: str) -> list[dict[str, object]]:
    """What is left of an author if the others keep 98 %, for each step."""
    concept = concept_of(name)
    some = sample(concept)
    engram = ei.extract(model, concept, progress=False)
    measured = measure(model, engram, adapt_language(model).encode_concept(some))
    G = dict(zip(measured["key"], measured["G"], strict=True))
    steps = {"W+ (G = I)": engram, **{f"G measured, damping {d:g}": stepped(model, engram, G, d) for d in DAMPINGS}}
    rows: list[dict[str, object]] = []
    for step, edit in steps.items():
        choice = ei.choose_alpha(model, edit, some, KEEP, check=some.reference, progress=False)
        rows.append(
            {"author": name, "step": step, "alpha": choice.alpha, "left": float(choice.chosen["target_accuracy"])}
        )
    return rows


def one_author(model: nn.Module, name: str) -> pd.DataFrame:
    """The measured divergence of ablating each matrix's engram, beside what should predict it."""
    concept = concept_of(name)
    encoded = adapt_language(model).encode_concept(sample(concept))
    engram = ei.extract(model, concept, progress=False)
    table = measure(model, engram, encoded).drop(columns="G").set_index("key")
    of_one = {key: engram.select(keys=key) for key in table.index}
    table["own Fisher"] = [a_prediction(model, one, (STEP, -STEP), own_fisher, encoded) for one in of_one.values()]
    for alpha, column in ((SMALL, "KL_small"), (ALPHA, "KL")):
        found = [a_prediction(model, one, (alpha,), divergence, encoded) for one in tqdm(of_one.values())]
        table[column] = [value / alpha**2 for value in found]
    return table.reset_index()


def measure_all() -> results.Tables:
    """One author's matrices, and what the steps leave of several authors."""
    model = ei.testbed.load("full")
    names = [author.name for author in ei.testbed.authors().forget10[:N_AUTHORS]]
    steps = pd.DataFrame([row for name in tqdm(names) for row in frontier(model, name)])
    return {"matrices": one_author(model, names[0]), "steps": steps}


PREDICTORS = ("isotropic", "K-FAC", "own Fisher")


def figure(table: pd.DataFrame) -> go.Figure:
    """Predicted against measured divergence, with one point for each matrix."""
    plot = go.Figure()
    colours = dict(zip(PREDICTORS, ("#6b7a8f", "#2e6f95", "#d1495b"), strict=True))
    for name, colour in colours.items():
        plot.add_trace(
            go.Scatter(
                x=table[name], y=table["KL_small"], mode="markers", name=name, text=table["key"],
                marker={"color": colour, "size": 9}, hovertemplate="%{text}: %{y:.2g} measured, %{x:.2g} predicted",
            )
        )  # fmt: skip
    low, high = float(table["KL_small"].min()), float(table["KL_small"].max())
    line = {"color": "#444444", "dash": "dot"}
    plot.add_trace(go.Scatter(x=[low, high], y=[low, high], mode="lines", line=line, name="as predicted"))
    plot.update_xaxes(
        title_text="predicted: half the quadratic form (nats a prediction)", type="log", exponentformat="power"
    )
    plot.update_yaxes(title_text="measured KL / alpha² (nats a prediction)", type="log", exponentformat="power")
    title = f"Ablating one matrix's engram (alpha = {SMALL:g}): the change of predictions, and what predicts it"
    return plot.update_layout(title=title, template="plotly_white", height=600)


NAMES = {
    "W-Norm": "W-Norm, `‖W+‖ / ‖W‖`",
    "fisher": "Fisher share, `‖W+ S^½‖ / ‖W S^½‖`",
    "fisher_G": "Fisher share with measured `G`, `‖G^½ W+ S^½‖ / ‖G^½ W S^½‖`",
    "S alone": "`‖W+ S^½‖²`, inputs alone",
    "isotropic": "`σ² ‖W+ S^½‖²`, isotropic outputs with their measured size",
    "K-FAC": "`‖G^½ W+ S^½‖²`, `G` measured",
    "own Fisher": "the layer's own Fisher matrix",
}


def page(table: pd.DataFrame, steps: pd.DataFrame) -> str:
    """What was found, in Markdown."""
    measured = table["KL_small"]
    rows = []
    for column, name in NAMES.items():
        ranks = [table[column].corr(table[kl], method="spearman") for kl in ("KL_small", "KL")]
        ratio = (table[column] / measured).quantile([0.25, 0.5, 0.75]) if column in PREDICTORS else None
        size = "" if ratio is None else f"{ratio[0.5]:.2f} ({ratio[0.25]:.2f} to {ratio[0.75]:.2f})"
        rows.append(f"| {name} | {ranks[0]:.2f} | {ranks[1]:.2f} | {size} |")
    left = steps.pivot_table(index="step", columns="author", values="left", sort=False)
    forgetting = [
        f"| {step} | {' | '.join(f'{100 * value:.1f} %' for value in values)} | {100 * values.mean():.1f} % |"
        for step, values in left.iterrows()
    ]
    rank = table["rank_of_G"]
    return PAGE.format(
        small=SMALL, alpha=ALPHA, n=len(table), rows="\n".join(rows), authors=" | ".join(left.columns),
        rule="|".join(["---"] * (len(left.columns) + 2)), forgetting="\n".join(forgetting), keep=KEEP,
        draws=DRAWS, low=rank.min(), high=rank.max(), median=rank.median(),
    )  # fmt: skip


PAGE = """# The Fisher reading, checked

Made by `python -m analyses.studies.fisher_reading` on the testbed's `full`. The identities are tests in
`tests/linalg/test_fisher.py`.

## What holds exactly

* **Theorem 6.1.** The loss of Eq. 2 is `L(V) = |(V - W+) S^½|² + L(W+)` for every `V`. Except for a constant, this is
  the squared Fisher distance from the engram. It holds with any metric `G` of the outputs on both sides, and among all
  minimizers `W+` has the least Frobenius norm. (The theorem's constraint `W+ X- = 0` holds only in this soft sense. If
  the reference has every direction, only `W+ = 0` would meet it.)
* **Corollary 6.3.** `F^pinv` times the gradient `2 W S+` of `|W X+|²` is `2 W+`. So ablation is *half* a
  natural-gradient step in the paper's units, and one step for `½ |W X+|²`.
* **A measured `G`** turns that step into `G^pinv W+`. If forgetting is measured in `G` too, by `|G^½ W X+|²`, `G`
  cancels, and the step is `W+` again.

## What the metric predicts

The measure is `KL(model || model without alpha W+)` over alpha², for one matrix at a time, {n} matrices and one author.
The table has its Spearman rank correlation with what should predict it, and predicted over measured (median and
quartiles) where the two have the same unit:

| by | alpha = {small:g} | alpha = {alpha:g} | predicted / measured |
|---|---|---|---|
{rows}

`G` is the mean over {draws} answers drawn for each prediction. It is not isotropic: its effective rank is {low:.2f} to
{high:.2f} of the number of outputs, with a median of {median:.2f}.

## Forgetting with a measured `G`

Answer tokens of an author that are still right where {keep:.0%} of a sample of the others' are. The steps are `W+`, and
`(G + damping tr(G)/out I)^-1 W+` scaled to the length of `W+` in every matrix:

| step | {authors} | mean |
|{rule}|
{forgetting}
"""


@click.command()
@click.option("--plot", type=click.Path(path_type=Path), help="Where to draw the results, as .html.")
@click.option("--only-plot", is_flag=True, help="Do not measure; draw the results that exist.")
def main(plot: Path | None, only_plot: bool) -> None:
    """Measure and predict what ablation changes, and forget with and without the measured G."""
    if not only_plot:
        results.record(RESULTS, measure_all)
    found = results.read(RESULTS)
    text = page(found["matrices"], found["steps"])
    RESULTS.with_suffix(".md").write_text(text)
    click.echo(text)
    if plot is not None:
        figure(found["matrices"]).write_html(plot)


if __name__ == "__main__":
    main()
