"""Does a head map find a known circuit? SmolLM2's induction heads, by maps of the engram of repeated random tokens.

An induction head attends from a token to what came after the same token before (Olsson et al. 2022). The truth is by
prefix matching, the attention that goes there, and by zero ablation, the loss that a head's absence costs in the second
half of a repetition. The target is that second half; the reference are as many random tokens that repeat nothing.
`python -m analyses.real.induction` writes the results beside this file.
"""

from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

import engram_interp as ei
from analyses import results
from analyses.markdown import table
from engram_interp.benchmarks.ranking import auroc
from engram_interp.concepts.concept import TokenExample
from engram_interp.figures.style import MATRIX_COLOUR, TARGET_COLOUR, TEMPLATE
from engram_interp.models import adapt

RESULTS = Path(__file__).with_suffix(".json")
LENGTH, N_SEQUENCES, N_TRUTH, N_ABLATED = 40, 16, 8, 3
"""Tokens of a half; sequences of a side; those on which the truth is measured, and heads are ablated."""
MATCHES = 0.4
"""A head that sends more of its attention to where the pattern was is an induction head."""
CUTS: dict[str, dict[str, Any]] = {"default": {}, "rtol 1e-3": {"rtol": 1e-3}, "rtol 1e-2": {"rtol": 1e-2}}
MATCHING, COSTLY = "prefix matching", "costs as much"
"""The two truths: heads that match prefixes, and as many whose absence costs most."""
DRAWS = 49
N_BOOTSTRAPS = 2000


def repeated(n: int, d_vocab: int, seed: int) -> Int[Tensor, "n two_lengths"]:
    """Random tokens, twice. The first fiftieth of a vocabulary is left out: it holds special tokens and letters."""
    half = torch.randint(d_vocab // 50, d_vocab, (n, LENGTH), generator=torch.Generator().manual_seed(seed))
    return torch.cat([half, half], dim=1)


def concept(d_vocab: int) -> ei.Concept:
    """The second half of repetitions, told apart from that of sequences that repeat nothing."""
    counts = torch.arange(2 * LENGTH) >= LENGTH
    counts[-1] = False  # nothing comes after the last token
    twice = repeated(N_SEQUENCES, d_vocab, seed=0)
    once = torch.cat([one[:, :LENGTH] for one in (repeated(N_SEQUENCES, d_vocab, seed) for seed in (1, 2))], dim=1)
    return ei.Concept(*([TokenExample(row, counts) for row in rows] for rows in (twice, once)), name="induction")


def prefix_matching(model: Any, tokens: Int[Tensor, "n two_lengths"]) -> Float[Tensor, "layer head"]:
    """The mean attention from the second half to the token after the same one in the first."""
    _, cache = model.run_with_cache(tokens, names_filter=lambda name: name.endswith("hook_pattern"))
    here = torch.arange(LENGTH, 2 * LENGTH - 1)
    patterns = [cache[f"blocks.{layer}.attn.hook_pattern"] for layer in range(model.cfg.n_layers)]
    return torch.stack([pattern[:, :, here, here - LENGTH + 1].mean((0, 2)) for pattern in patterns]).detach()


def output_norms(model: nn.Module, tokens: Int[Tensor, "n two_lengths"]) -> Float[Tensor, "layer head"]:
    """The root mean square of what every head writes in the second half."""
    adapter = adapt(model)
    lens: Any = model
    points = [f"blocks.{layer}.attn.hook_z" for layer in range(adapter.n_layers)]
    _, cache = lens.run_with_cache(tokens, names_filter=lambda name: name in points)
    found = []
    for layer, point in enumerate(points):
        W_O = adapter.parameter(f"blocks.{layer}.attn.W_O").detach()
        z = cache[point][:, LENGTH:-1].unflatten(-1, (len(W_O), -1)) if cache[point].dim() == 3 else cache[point]
        z = z[:, LENGTH:-1] if cache[point].dim() == 4 else z
        written = torch.einsum("bphi,hid->hbpd", z, W_O)
        found.append(written.square().mean((1, 2, 3)).sqrt())
    return torch.stack(found).detach()


def loss_without(model: nn.Module, tokens: Int[Tensor, "n two_lengths"]) -> Float[Tensor, "layer head"]:
    """By how much the loss of the second half rises when a head writes nothing."""
    adapter = adapt(model)
    counts = torch.arange(2 * LENGTH) > LENGTH
    examples = {"second half": [TokenExample(row, counts) for row in tokens]}

    def loss() -> float:
        return ei.score(model, examples, progress=False)["second half"].loss

    before, found = loss(), []
    for layer in range(adapter.n_layers):
        W_O = adapter.parameter(f"blocks.{layer}.attn.W_O")
        for head in range(len(W_O)):
            kept = W_O[head].detach().clone()
            with torch.no_grad():
                W_O[head] = 0
                found.append(loss() - before)
                W_O[head] = kept
    return torch.tensor(found).view(adapter.n_layers, -1)


def of_map(wmap: ei.LocalizationMap, component: str, quantity: str) -> np.ndarray:
    """A map's heads of one component, `[layer head]` in a row. Key and value heads stand for all that share them."""
    rows = wmap.table[(wmap.table["component"] == component) & wmap.table["head"].notna()]
    grid = rows.pivot(index="layer", columns="head", values=quantity).to_numpy(float)
    return grid.repeat(wmap_heads(wmap) // grid.shape[1], axis=1).ravel()


def wmap_heads(wmap: ei.LocalizationMap) -> int:
    """The number of query heads of a map's model."""
    return int(wmap.table.loc[wmap.table["component"] == "W_O", "head"].max()) + 1


def rankings(model: nn.Module, told: ei.Concept, draws: int) -> dict[str, np.ndarray]:
    """A number for each head, by what it is ranked with."""
    found = {}
    for cut, options in CUTS.items():
        wmap = ei.localize(model, told, null="resampled", draws=draws, components=["Q", "K", "V", "O"], **options)
        for component in ("W_O", "W_V", "W_K", "W_Q"):
            for quantity in ("wnorm", "excess", "fisher", "fisher_excess"):
                found[f"{component}, {quantity}, {cut}"] = of_map(wmap, component, quantity)
    return found


def rivals(model: nn.Module, told: ei.Concept) -> dict[str, np.ndarray]:
    """What needs no map: ratios of output norms, and attribution of the engram and of the weights."""
    sides: Any = told.sides.values()
    twice, once = (torch.stack([one.tokens for one in side]) for side in sides)
    norms = output_norms(model, twice) / output_norms(model, once)
    counts = torch.arange(2 * LENGTH) > LENGTH
    asked = [TokenExample(row, counts) for row in twice[:N_TRUTH]]
    engram = ei.extract(model, told, components="O", rtol=1e-3)
    found = ei.attribute(model, engram, asked, checked=0).table.dropna(subset="head")
    order = found.sort_values(["layer", "head"])
    return {
        "output norm, target over reference": norms.flatten().numpy(),
        "engram's direct attribution": order["direct"].to_numpy(),
        "engram's total attribution": order["total"].to_numpy(),
    }


def ranked(found: dict[str, np.ndarray], truths: dict[str, np.ndarray]) -> pd.DataFrame:
    """AUROC of every ranking against every truth, with a 95 % interval from heads drawn anew."""
    rng, rows = np.random.default_rng(0), []
    for truth, true in truths.items():
        yes, no = np.flatnonzero(true), np.flatnonzero(~true)
        draws = [(rng.choice(yes, len(yes)), rng.choice(no, len(no))) for _ in range(N_BOOTSTRAPS)]
        among = np.r_[np.ones(len(yes), bool), np.zeros(len(no), bool)]
        for name, scores in found.items():
            drawn = [auroc(scores[np.r_[one, other]], among) for one, other in draws]
            low, high = np.quantile(drawn, [0.025, 0.975])
            rows.append({"truth": truth, "ranking": name, "auroc": auroc(scores, true), "low": low, "high": high})
    return pd.DataFrame(rows).round(4)


def measure(model: Any, draws: int = DRAWS) -> results.Tables:
    """Which heads there are, and how well each ranking finds them."""
    tokens = repeated(N_TRUTH, model.cfg.d_vocab, seed=10)
    matching = prefix_matching(model, tokens)
    lost = loss_without(model, tokens[:N_ABLATED])
    told = concept(model.cfg.d_vocab)
    matches = (matching > MATCHES).flatten().numpy()
    costly = lost.flatten().numpy() >= np.sort(lost.flatten().numpy())[-int(matches.sum())]
    found = {**rivals(model, told), **rankings(model, told, draws)}
    places = [(layer, head) for layer in range(matching.shape[0]) for head in range(matching.shape[1])]
    heads = pd.DataFrame(places, columns=["layer", "head"]).assign(
        prefix_matching=matching.flatten().numpy(), loss_without=lost.flatten().numpy(), **found
    )
    attention = {"attention to what came after": matching.flatten().numpy()}
    ranks = [
        ranked(found, {MATCHING: matches, COSTLY: costly}),
        # Against prefix matching, which is made of it, it would be perfect.
        ranked(attention, {COSTLY: costly}),
    ]
    return {"heads": heads.round(5), "ranked": pd.concat(ranks, ignore_index=True)}


def best(rows: pd.DataFrame, truth: str = MATCHING) -> pd.DataFrame:
    """The rankings against a truth, the best first."""
    return rows[rows["truth"] == truth].sort_values("auroc", ascending=False)


def of_heads(tables: results.Tables) -> str:
    """How well each ranking finds the induction heads, and those whose absence costs most.

    Of the maps, those of `W_O`: what a head writes is its own, and keys and values are shared.
    """
    said = {
        (row["ranking"], row["truth"]): f"{row['auroc']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"
        for row in tables["ranked"].to_dict("records")
    }
    order = dict.fromkeys([*best(tables["ranked"])["ranking"], *(ranking for ranking, _ in said)])
    order = [name for name in order if not name.startswith(("W_Q", "W_K", "W_V"))]
    return table(
        ["heads ranked by", "AUROC, prefix matching [95 %]", "AUROC, costly when ablated [95 %]"],
        [[name, said.get((name, MATCHING), ""), said.get((name, COSTLY), "")] for name in order],
    )


def figure(tables: results.Tables) -> go.Figure:
    """AUROC of every ranking, with its interval; rivals that need no engram in another colour."""
    rows = best(tables["ranked"])[::-1]
    colours = [MATRIX_COLOUR if name.startswith("W_") else TARGET_COLOUR for name in rows["ranking"]]
    bars = go.Scatter(
        x=rows["auroc"], y=rows["ranking"], mode="markers", marker={"size": 9, "color": colours},
        error_x={
            "type": "data", "symmetric": False, "array": rows["high"] - rows["auroc"],
            "arrayminus": rows["auroc"] - rows["low"], "thickness": 1,
        },
    )  # fmt: skip
    figure = go.Figure(bars).add_vline(x=0.5, line_dash="dot")
    layout: dict[str, Any] = {"template": TEMPLATE, "height": 180 + 20 * len(rows), "width": 900, "margin": {"l": 260}}
    return figure.update_layout(
        title="Which ranking of heads finds SmolLM2's induction heads?", xaxis_title="AUROC (0.5 is chance)",
        xaxis_range=[-0.02, 1.02], **layout,
    )  # fmt: skip


@click.command()
@click.option("--model", default="smollm2-135m-instruct", show_default=True, help="A name on the hub or a folder.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS)
@click.option("--plot", type=click.Path(path_type=Path), help="Where to draw the results, as .html.")
@click.option("--only-plot", is_flag=True, help="Do not measure; draw the results that exist.")
def main(model: str, out: Path, plot: Path | None, only_plot: bool) -> None:
    """Rank a model's heads, and compare with those that match prefixes."""
    if not only_plot:
        results.record(out, lambda: measure(ei.load_model(model)))
    tables = results.read(out)
    click.echo(best(tables["ranked"]).to_string(index=False))
    if plot is not None:
        results.draw(plot, figure(tables))


if __name__ == "__main__":
    main()
