"""Does attribution foretell what an ablation does, and does activation patching tell the same blocks?

Every forget author of the testbed has an engram. Of each matrix, `attribute` says what it adds to the lead of the
answers, and the matrix is ablated alone. Of each attention and MLP block, the same is summed, and its engram is ablated
alone. Then the whole engram is ablated, and a block's output is set back to what it was (`transformer_lens.patching`):
how much of the lead comes back? `python -m analyses.studies.attribution`.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
import torch
from scipy.stats import bootstrap
from transformer_lens.patching import generic_activation_patch

import engram_interp as ei
from analyses import results
from analyses.markdown import table
from engram_interp.concepts.batches import Batch, encode_groups
from engram_interp.effects.attribution import asked_of
from engram_interp.models import adapt_language
from engram_interp.options import Run
from engram_interp.testbed.authors import Author

RESULTS = Path(__file__).with_suffix(".json")
ALPHAS = (1.0, 2.0, 4.0, 8.0)
MODULES = {"attn_out": ("Q", "K", "V", "O"), "mlp_out": ("gate", "in", "out")}
"""By TransformerLens's name of a block's output, the components that make it."""
PAIRS = {
    "a matrix alone": ("matrices", {"in total": "total", "directly": "direct"}),
    "a block alone": ("blocks", {"in total": "total", "patching": "restored"}),
}
"""What is measured, in which rows, and what foretells it."""

Lead = Callable[[torch.Tensor], torch.Tensor]


def lead_of(model: Any, author: Author) -> tuple[Batch, Lead]:
    """The author's questions as one batch, and the mean lead of the answers over the best other token in `model`."""
    adapter = adapt_language(model)
    examples = encode_groups({"": author.examples}, adapter.encoder)
    (asked,) = asked_of(adapter, examples, Run(batch_size=len(author.examples), progress=False))
    return asked.batch, lambda logits: asked.lead(logits[asked.batch.counts]).mean()


def restored(model: Any, engram: ei.Engram, alpha: float, batch: Batch, lead: Lead) -> dict[str, list[float]]:
    """By block, the lead that its output of before the edit brings back, layer by layer."""
    with torch.no_grad():
        _, cache = model.run_with_cache(batch.tokens)
        with engram.ablated(model, alpha):
            without = lead(model(batch.tokens))
            found = {
                name: generic_activation_patch(model, batch.tokens, cache, lead, _whole, name, ("layer",))
                for name in MODULES
            }
    return {name: (torch.as_tensor(leads) - without).tolist() for name, leads in found.items()}


def _whole(_mine: Any, _index: Any, clean: Any) -> Any:
    """Sets all of an activation back to what it was."""
    return clean


def blocks(model: Any, engram: ei.Engram, alpha: float, author: Author, matrices: pd.DataFrame) -> pd.DataFrame:
    """A row for each attention and MLP block: its attribution, its ablation alone, and patching."""
    batch, lead = lead_of(model, author)
    patched = restored(model, engram, alpha, batch, lead)
    with torch.no_grad():
        before = float(lead(model(batch.tokens)))
    rows = []
    for name, components in MODULES.items():
        for layer in range(model.cfg.n_layers):
            part = engram.select(components=components, layers=[layer])
            mine = matrices[matrices["key"].isin(part.weight_norms)]
            with torch.no_grad(), part.ablated(model, alpha):
                measured = before - float(lead(model(batch.tokens)))
            rows.append(
                {"block": name, "layer": layer, "total": mine["total"].sum(), "measured": measured,
                 "restored": patched[name][layer]}
            )  # fmt: skip
    return pd.DataFrame(rows)


def measure() -> results.Tables:
    """Rows of all authors at all strengths."""
    model, corpus = ei.testbed.load("full"), ei.testbed.authors()
    found: dict[str, list[pd.DataFrame]] = {"matrices": [], "blocks": []}
    for author in corpus.forget10:
        engram = ei.extract(model, corpus.concept(author.name), progress=False)
        for alpha in ALPHAS:
            about: dict[str, Any] = {"author": author.name, "alpha": alpha}
            given = ei.attribute(
                model, engram, author.examples, alpha=alpha, checked=len(engram.weight_norms), progress=False
            ).matrices
            found["blocks"].append(blocks(model, engram, alpha, author, given).assign(**about))
            kept = given[["key", "direct", "total", "measured"]]
            found["matrices"].append(kept.astype(object).where(kept.notna(), None).assign(**about))
    return {name: pd.concat(frames, ignore_index=True).round(5) for name, frames in found.items()}


def correlations(rows: pd.DataFrame, told_by: str) -> dict[float, tuple[float, float, float]]:
    """By strength, the mean over authors of the correlation with what was measured, and its 95 % interval."""
    rows = rows.dropna(subset=told_by).astype({told_by: float})
    found = {}
    for alpha, mine in rows.groupby("alpha"):
        by_author = [one[told_by].corr(one["measured"]) for _, one in mine.groupby("author")]
        drawn = bootstrap((by_author,), np.mean, method="percentile", rng=np.random.default_rng(0))
        interval = drawn.confidence_interval
        found[float(str(alpha))] = (float(np.mean(by_author)), float(interval.low), float(interval.high))
    return found


def of_attribution(tables: Mapping[str, pd.DataFrame]) -> str:
    """How well each estimate tells what an ablation takes of the lead."""
    rows = []
    for what, (name, estimates) in PAIRS.items():
        for label, told_by in estimates.items():
            found = correlations(tables[name], told_by)
            rows.append([what, label, *(f"{r:.2f} [{low:.2f}, {high:.2f}]" for r, low, high in found.values())])
    return table(["ablating", "foretold by", *(f"alpha {alpha:g}" for alpha in ALPHAS)], rows)


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS)
def main(out: Path) -> None:
    """Compare attribution with ablation and with activation patching."""
    results.record(out, measure)
    click.echo(of_attribution(results.read(out)))


if __name__ == "__main__":
    main()
