"""Can an SAE's features stand in for labels?

*Authors.* For each of the testbed's 20 forget authors, only three questions are given, without answers.
`choose_feature` finds the feature that stands out there, and half of its activation splits the corpus by whole
examples. The engram of that partition is compared with the engram of the labelled author: cosine and W-Norm by matrix,
and what each forgets at the strength that leaves 98 % of the others' answers.

*Features.* The hundred features that fire at most answer tokens go into one decomposition. The engram of each is
ablated as strongly as leaves 98 % of 150 examples in which the feature is silent. Its 20 top examples are then scored
beside 150 other silent ones. Any engram takes most from the tokens that it is made of, so each feature has a control of
as many random answer tokens. A feature is called causal if its top examples lose more, beyond the silent ones, than
those of 95 % of the controls. `python -m analyses.studies.sae_partition`.
"""

import itertools
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float
from plotly.subplots import make_subplots
from scipy.stats import false_discovery_control, mannwhitneyu
from torch import Tensor, nn
from tqdm.auto import tqdm

import engram_interp as ei
from analyses import results
from engram_interp.answers.scoring import example_scores
from engram_interp.concepts.batches import encode_groups
from engram_interp.concepts.concept import Example, TokenExample
from engram_interp.figures.style import CHOSEN_COLOUR, MATRIX_COLOUR, TARGET_COLOUR
from engram_interp.models import adapt_language
from engram_interp.options import Run
from engram_interp.sae.reader import SaeReader

KEEP = 0.98
N_QUESTIONS = 3
N_REFERENCE = 600
"""Reference examples to measure on, the same for both engrams. The engrams themselves are made from all."""
ALPHAS = (6.0, 12.0)
JUDGED = {"target": "target", "reference": "check"}
"""A concept's sides by the columns of a strength that say what is right of them."""
N_FEATURES, N_TOP, N_SILENT = 100, 20, 150
RESULTS = Path(__file__).with_suffix(".json")


def cosines(a: ei.Engram, b: ei.Engram) -> list[float]:
    return [float(torch.cosine_similarity(a[key].flatten(), b[key].flatten(), dim=0)) for key in a]


def forgotten(model: nn.Module, engram: ei.Engram, judged: ei.Concept, prefix: str) -> dict[str, float]:
    """Accuracy that both sides lose, at the strength that keeps enough and at fixed strengths."""
    choice = ei.choose_alpha(model, engram, judged, KEEP, check=judged.reference, rel_tol=0.1, progress=False)
    row = {f"{prefix}_alpha": choice.alpha}
    before = {side: choice.curve[f"{judged_by}_accuracy"].iloc[0] for side, judged_by in JUDGED.items()}
    for side, judged_by in JUDGED.items():
        row[f"{prefix}_{side}_lost"] = float(before[side] - choice.chosen[f"{judged_by}_accuracy"])
    for alpha in ALPHAS:
        with engram.ablated(model, alpha):
            after = ei.score(model, judged.sides, progress=False)
        for side, result in after.items():
            row[f"{prefix}_{side}_lost_at_{alpha:g}"] = float(before[side] - result.accuracy)
    return row


def author_row(model: nn.Module, sae: nn.Module, author: ei.testbed.Author) -> dict[str, object]:
    """One author: the partition that a feature makes, and its engram beside the labelled one."""
    corpus = ei.testbed.authors()
    labelled = replace(corpus.concept(author.name), positions="answer")
    asked = [qa.question for qa in author.pairs[:N_QUESTIONS]]
    ranked = ei.rank_features(model, sae, asked, corpus.examples, progress=False)
    feature, threshold = ei.choose_feature(ranked)
    concept = ei.concept_from_sae(
        model, sae, feature, corpus.examples, per="example", threshold=threshold, positions="answer", progress=False
    )
    engrams = {name: ei.extract(model, one, progress=False) for name, one in (("own", labelled), ("sae", concept))}
    own, found = (list(one.wnorm().values()) for one in engrams.values())
    angles = cosines(engrams["own"], engrams["sae"])
    judged = ei.Concept(
        labelled.target, random.Random(0).sample(list(labelled.reference), N_REFERENCE), author.name, "answer"
    )
    hits = len(set(concept.target) & set(labelled.target))
    row: dict[str, object] = {
        "author": author.name,
        "feature": feature,
        "threshold": threshold,
        "examples": len(concept.target),
        "recall": hits / len(labelled.target),
        "precision": hits / len(concept.target),
        "cosine_median": float(np.median(angles)),
        "cosine_least": min(angles),
        "map_correlation": pd.Series(own).corr(pd.Series(found), method="spearman"),
    }
    for name, engram in engrams.items():
        row |= forgotten(model, engram, judged, name)
    return row | {"share_of_forgetting": float(row["sae_target_lost"]) / float(row["own_target_lost"])}  # type: ignore[arg-type]


def answers_only(model: nn.Module) -> list[TokenExample]:
    """The corpus as tokens, so that features are looked for in answers and not in questions."""
    return encode_groups({"corpus": ei.testbed.authors().examples}, adapt_language(model).encoder)["corpus"]


def feature_rows(model: nn.Module, sae: nn.Module) -> pd.DataFrame:
    """What ablating each feature's engram costs its own examples and others: one row each, and one for its control."""
    corpus = answers_only(model)
    active = ei.rank_features(model, sae, corpus, progress=False).sort_values("target_token_rate", ascending=False)
    features = [int(index) for index in active["feature"].head(N_FEATURES)]
    groups = ei.concepts_from_sae(model, sae, features, corpus, progress=False)
    readings = SaeReader(adapt_language(model), sae).readings(corpus, features, Run(progress=False))
    peaks = torch.stack([one.activation[one.text].amax(0) for one in readings])
    tables = [ablated_rows(model, groups, peaks, corpus).assign(kind="feature")]
    control, at = shuffled(groups, corpus)
    tables.append(ablated_rows(model, control, at, corpus).assign(kind="shuffled"))
    table = pd.concat(tables, ignore_index=True).assign(feature=[*features, *features])
    return table.assign(q=table.groupby("kind")["p"].transform(false_discovery_control))


def shuffled(
    groups: dict[str, list[Example]], corpus: list[TokenExample]
) -> tuple[dict[str, list[Example]], Float[Tensor, "example feature"]]:
    """As many random answer tokens for every feature, and how many of them each example has."""
    tokens = [(i, pos) for i, one in enumerate(corpus) for pos in one.counts.nonzero().flatten().tolist()]
    random.Random(0).shuffle(tokens)
    drawn, control, at = iter(tokens), {}, torch.zeros(len(corpus), len(groups) - ("rest" in groups))
    for place, (name, members) in enumerate(groups.items()):
        n = sum(int(one.counts.sum()) for one in members if isinstance(one, TokenExample))
        masks: dict[int, Tensor] = {}
        for i, pos in itertools.islice(drawn, n):
            masks.setdefault(i, torch.zeros_like(corpus[i].counts))[pos] = True
        control[name] = [TokenExample(corpus[i].tokens, mask) for i, mask in masks.items()]
        if name != "rest":
            at[list(masks), place] = torch.tensor([float(mask.sum()) for mask in masks.values()])
    return control, at


def ablated_rows(
    model: nn.Module,
    groups: dict[str, list[Example]],
    peaks: Float[Tensor, "example feature"],
    corpus: list[TokenExample],
) -> pd.DataFrame:
    """One row for each concept, ablated as strongly as leaves enough of the examples in which it is silent."""
    parts = ei.decompose(model, groups, progress=False)
    rows = []
    for place, name in enumerate(tqdm([name for name in groups if name != "rest"], disable=None)):
        judged = top_and_silent(peaks[:, place], corpus)
        tuning = ei.Concept(judged["top"], judged.pop("tuning"))
        alpha = ei.choose_alpha(
            model, parts[name], tuning, KEEP, check=tuning.reference, rel_tol=0.2, progress=False
        ).alpha
        before = example_scores(model, judged, progress=False)
        with parts[name].ablated(model, alpha):
            after = example_scores(model, judged, progress=False)
        lost = {side: (before[side].accuracy - after[side].accuracy).numpy() for side in judged}
        gained = {side: (after[side].loss - before[side].loss).numpy() for side in judged}
        rows.append(
            {
                "token_share": parts.token_share(name),
                "alpha": alpha,
                **{f"{side}_lost": float(values.mean()) for side, values in lost.items()},
                **{f"{side}_loss_gained": float(values.mean()) for side, values in gained.items()},
                "p": float(mannwhitneyu(gained["top"], gained["silent"], alternative="greater").pvalue),
            }
        )
    return pd.DataFrame(rows)


def top_and_silent(peaks: Float[Tensor, "example"], corpus: list[TokenExample]) -> dict[str, list[TokenExample]]:
    """The examples in whose answers a feature is strongest, and two sets in whose answers it is silent or weakest."""
    rng = random.Random(0)
    chosen = sorted(range(len(corpus)), key=lambda index: (float(peaks[index]), rng.random()))[: 2 * N_SILENT]
    rng.shuffle(chosen)
    places = {"top": peaks.topk(N_TOP).indices.tolist(), "silent": chosen[:N_SILENT], "tuning": chosen[N_SILENT:]}
    return {name: [corpus[index] for index in indices] for name, indices in places.items()}


def measure() -> results.Tables:
    """Authors found by features, and features in their own right."""
    model, sae = ei.testbed.load("full"), ei.testbed.load_sae()
    people = tqdm(ei.testbed.authors().forget10, desc="authors", disable=None)
    authors = pd.DataFrame([author_row(model, sae, author) for author in people])
    return {"authors": authors.round(5), "features": feature_rows(model, sae).round(8)}


def beyond_control(features: pd.DataFrame) -> tuple[pd.DataFrame, float]:
    """What each row's top examples lose beyond the silent ones, and what 95 % of the controls stay below."""
    table = features.assign(excess=features["top_loss_gained"] - features["silent_loss_gained"])
    return table, float(table.loc[table["kind"] == "shuffled", "excess"].quantile(0.95))


def summary(authors: pd.DataFrame, features: pd.DataFrame) -> str:
    """The numbers in docs/sae.md."""
    enough = int((authors["share_of_forgetting"] >= 0.8).sum())
    columns = ["recall", "precision", "cosine_median", "map_correlation", "own_target_lost", "sae_target_lost"]
    means = authors[columns].mean().map("{:.3f}".format).to_string()
    sides = ["top_lost", "silent_lost", "top_loss_gained", "silent_loss_gained"]
    by_kind = features.groupby("kind")[sides].mean().to_string(float_format="{:.3f}".format)
    apart = features[features["q"] <= 0.05].groupby("kind").size().to_dict()
    table, limit = beyond_control(features)
    causal = int((table.loc[table["kind"] == "feature", "excess"] > limit).sum())
    return (
        f"{enough} of {len(authors)} authors reach 80 % of the labelled engram's forgetting; means:\n{means}\n"
        f"features, means:\n{by_kind}\ntold apart from silent examples (FDR 5 %): {apart}; beyond 95 % of the "
        f"controls: {causal}"
    )


def figure_of(authors: pd.DataFrame, features: pd.DataFrame) -> go.Figure:
    figure = make_subplots(
        rows=1, cols=2, horizontal_spacing=0.1, column_widths=[0.6, 0.4],
        subplot_titles=[
            f"Twenty authors: forgotten where {KEEP:.0%} of other answers stay",
            "A hundred features: what their top examples lose",
        ],
    )  # fmt: skip
    for name, label, colour in (
        ("own", "labelled", MATRIX_COLOUR),
        ("sae", "by an SAE feature", TARGET_COLOUR),
    ):
        figure.add_trace(
            go.Bar(x=authors["author"], y=authors[f"{name}_target_lost"], name=label, marker_color=colour), 1, 1
        )
    figure.add_trace(
        go.Scatter(
            x=authors["author"], y=0.8 * authors["own_target_lost"], name="80 % of the labelled", mode="markers",
            marker={"symbol": "line-ew", "size": 15, "line": {"width": 2, "color": CHOSEN_COLOUR}},
        ), 1, 1,
    )  # fmt: skip
    table, limit = beyond_control(features)
    for kind, label, colour in (
        ("feature", "the feature's tokens", TARGET_COLOUR),
        ("shuffled", "as many random tokens", MATRIX_COLOUR),
    ):
        mine = table[table["kind"] == kind]
        figure.add_trace(
            go.Box(
                y=mine["excess"], name=label, boxpoints="all", jitter=0.6, pointpos=0,
                marker={"color": colour, "size": 4}, fillcolor="rgba(0,0,0,0)", showlegend=False,
                text=[f"feature {index}" for index in mine["feature"]],
            ), 1, 2,
        )  # fmt: skip
    line = {"color": CHOSEN_COLOUR, "dash": "dash"}
    where: dict[str, Any] = {"row": 1, "col": 2}
    figure.add_hline(limit, line=line, annotation_text="95 % of random", annotation_position="top right", **where)
    figure.update_yaxes(title_text="answer tokens lost (share)", tickformat=".0%", row=1, col=1)
    figure.update_xaxes(tickangle=45, row=1, col=1)
    figure.update_yaxes(title_text="loss gained, beyond silent examples (nats a token)", row=1, col=2)
    title = "Engrams that no label made: authors found by three questions, and the most active features"
    legend = {"orientation": "h", "y": 1.17, "x": 0}
    figure.update_layout(title=title, template="plotly_white", height=560, width=1200, margin={"t": 130}, legend=legend)
    return figure


main = results.study(
    RESULTS,
    measure,
    lambda tables: summary(tables["authors"], tables["features"]),
    lambda tables: [figure_of(tables["authors"], tables["features"])],
)


if __name__ == "__main__":
    main()
