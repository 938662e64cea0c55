"""Can SmolLM2 forget a relation, or one fact, and keep the rest? At the strength that keeps 97 % of held-out facts.

Half of a relation's known facts, in all templates but one, are told apart from 2500 facts of other relations and 60
paragraphs. The strength is the largest that keeps 97 % of held-out facts of the others and lets the loss of held-out
text rise by 2 %, both on a half of them. The other half is reported, with the relation's facts in the template that was
left out, and those facts of it that were left out. How engrams are made (positions, layers, components, cut, filter)
was chosen on `P36`, and is reported on the others. `python -m analyses.real.forget_facts --facts folder --tofu folder`
takes about half an hour on two cores.
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import click
import pandas as pd
import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots
from torch import nn

import engram_interp as ei
from analyses import results
from analyses.markdown import table
from analyses.real import facts as pararel
from analyses.real.facts import Facts, Pair, accuracies
from engram_interp import filters
from engram_interp.effects.kept import kept_accuracy
from engram_interp.figures.maps import matrix_map
from engram_interp.figures.scale import Scale
from engram_interp.figures.style import REFERENCE_COLOUR, TARGET_COLOUR, TEMPLATE
from engram_interp.models.components import COMPONENTS

RESULTS = Path(__file__).with_suffix(".json")
CHOSEN_ON = "P36"
REPORTED_ON = ("P1376", "P1412", "P159", "P178", "P279", "P407")
"""All other relations of which 20 facts are known, and 10 in a second template."""
N_SINGLE = 3
"""Facts of `CHOSEN_ON` that are forgotten one by one."""
N_FITTED, N_PARAGRAPHS, N_HELD, N_TEXTS, N_SCORED = 2500, 60, 150, 12, 60
KEEP, TEXT = 0.97, 1.02
"""What must stay of held-out facts, and by how much the loss of text may grow."""
LATE = range(15, 30)
"""The second half of SmolLM2's layers."""
REL_TOL = 0.1
LARGEST = 16.0
N_ANSWERS = 3
KINDS = {"target": "fitted", "template": "other wording", "unseen": "unseen", "reported": "of others"}
"""What an edit is judged by, and what tables call it."""
N_SHOWN = 2


@dataclass(frozen=True)
class Way:
    """How an engram is made.

    Attributes:
        name: what tables call it.
        positions: which positions count.
        layers: whose matrices are edited.
        components: which of them.
        options: how they are solved for.
    """

    name: str
    positions: str = "predicting"
    layers: range = LATE
    components: tuple[str, ...] = ("Q", "K", "V", "O", "gate", "in", "out")
    options: tuple[tuple[str, Any], ...] = ()


QK_GATE = ("Q", "K", "gate")
CHOSEN = Way("layers 15 to 29")
WAYS = (
    CHOSEN,
    Way("all layers", layers=range(30)),
    Way("layers 0 to 14", layers=range(15)),
    Way("Q, K, gate", components=QK_GATE),
    Way("all but Q, K, gate", components=("V", "O", "in", "out")),
    Way("rtol 1e-2", options=(("rtol", 1e-2),)),
    Way("outliers 0.01", options=(("outliers", 0.01),)),
    Way("filter power(2)", options=(("filter", filters.power(2)),)),
    Way("at the answer's own positions", positions="answer"),
)


@dataclass(frozen=True)
class Judged:
    """What an edit is judged by.

    Attributes:
        target: facts that it should forget, as it was fitted to them.
        template: the same facts in the template that it was not fitted to.
        unseen: facts of the same relation that it was not fitted to.
        chosen_by: held-out facts of others, by which the strength is chosen.
        reported: others, on which it is reported.
        texts: two halves of held-out paragraphs, for the same.
    """

    target: list[Pair]
    template: list[Pair]
    unseen: list[Pair]
    chosen_by: list[Pair]
    reported: list[Pair]
    texts: tuple[list[str], list[str]]

    @property
    def pairs(self) -> dict[str, list[Pair]]:
        """The facts, by what they are for."""
        sides = {name: getattr(self, name) for name in KINDS}
        return {name: some for name, some in sides.items() if some}


@dataclass(frozen=True)
class Corpus:
    """What is fitted and what is held out.

    Attributes:
        facts: PARAREL's, and what the model knows of them.
        paragraphs: English text.
    """

    facts: Facts
    paragraphs: list[str]

    def left_out(self, relation: str) -> int:
        """The template that no engram is fitted to: the one with most known facts after the best."""
        known = self.facts.known[relation]
        return sorted(range(len(known)), key=lambda i: -len(known[i]))[1]

    def mine(self, relation: str) -> set[int]:
        """The places of the facts that engrams are fitted to: half of a relation's."""
        n = len(self.facts.facts[relation])
        return set(random.Random(relation).sample(range(n), n // 2))

    def in_template(self, relation: str, template: int, fitted: bool) -> list[Pair]:
        """Known facts of a relation in a template: those of the fitted half, or of the other."""
        asked, mine = self.facts.asked(relation, template), self.mine(relation)
        return [asked[place] for place in self.facts.known[relation][template] if (place in mine) == fitted]

    def fitted(self, relation: str) -> list[Pair]:
        """Half of the known facts of a relation, in all templates but one."""
        wordings = [i for i in range(len(self.facts.known[relation])) if i != self.left_out(relation)]
        return [pair for i in wordings for pair in self.in_template(relation, i, fitted=True)]

    def others(self, relations: Sequence[str]) -> tuple[list[Pair], list[Pair]]:
        """Facts of all other relations: half, in every template, to fit; the known ones of the rest, held out."""
        fitted, held = [], []
        for name, template in self.facts.best.items():
            if name in relations:
                continue
            mine = self.mine(name)
            for i in range(len(self.facts.templates[name])):
                asked = self.facts.asked(name, i)
                fitted += [asked[place] for place in sorted(mine)]
            held += self.in_template(name, template, fitted=False)
        return fitted, held

    def judged(self, relation: str) -> Judged:
        """What an edit of a relation is judged by. No fact by which others are judged was fitted to."""
        _, held = self.others([relation])
        held = random.Random(0).sample(held, len(held))
        half = min(len(held) // 2, N_HELD)
        texts = self.paragraphs[N_PARAGRAPHS : N_PARAGRAPHS + 2 * N_TEXTS]
        return Judged(
            target=some(self.fitted(relation)),
            template=some(self.in_template(relation, self.left_out(relation), fitted=True)),
            unseen=some(self.in_template(relation, self.facts.best[relation], fitted=False)),
            chosen_by=held[:half],
            reported=held[half : 2 * half],
            texts=(texts[:N_TEXTS], texts[N_TEXTS:]),
        )


def some(pairs: list[Pair]) -> list[Pair]:
    """At most so many of them, at random."""
    return random.Random(0).sample(pairs, min(len(pairs), N_SCORED))


def read(data: Path, tofu: Path) -> Corpus:
    """The facts, and answers of TOFU's as English that holds no fact of the world."""
    answers = [qa.answer for qa in ei.tofu(tofu).reference]
    return Corpus(pararel.read(data), random.Random(1).sample(answers, N_PARAGRAPHS + 2 * N_TEXTS))


def concepts(corpus: Corpus, relations: Sequence[str], singles: Mapping[str, list[Pair]]) -> dict[str, list[Any]]:
    """The parts of one decomposition: every relation, single facts of theirs, and all else."""
    apart = {pair for some in singles.values() for pair in some}
    groups = {name: [pair for pair in corpus.fitted(name) if pair not in apart] for name in relations}
    fitted, _ = corpus.others(relations)
    rest = random.Random(0).sample(fitted, min(len(fitted), N_FITTED))
    return {**singles, **groups, "rest": [*rest, *corpus.paragraphs[:N_PARAGRAPHS]]}


def single_facts(corpus: Corpus, relation: str) -> dict[str, list[Pair]]:
    """Some facts of a relation, each in the wordings in which it is known, but for the one left out."""
    mine, known = corpus.mine(relation), corpus.facts.known[relation]
    places = [place for place in known[corpus.facts.best[relation]] if place in mine]
    found = {}
    for place in random.Random(0).sample(places, N_SINGLE):
        wordings = [i for i, some in enumerate(known) if place in some and i != corpus.left_out(relation)]
        found[corpus.facts.facts[relation][place][0]] = [corpus.facts.asked(relation, i)[place] for i in wordings]
    return found


def measured(model: nn.Module, judged: Judged, engram: ei.Engram) -> tuple[dict[str, float], list[dict[str, float]]]:
    """What is left at the largest strength that keeps enough, and at all strengths tried."""

    def right(pairs: list[Pair]) -> torch.Tensor:
        return accuracies(model, pairs)

    def loss(texts: list[str]) -> float:
        return ei.score(model, {"": texts}, eos=False, progress=False)[""].loss

    before = {"kept": right(judged.chosen_by).sum(), "text": loss(judged.texts[0])}
    tried: dict[float, dict[str, float]] = {}

    def keeps(alpha: float) -> bool:
        if alpha not in tried:
            with engram.ablated(model, alpha):
                share = float(right(judged.chosen_by).sum() / before["kept"])
                left = float(right(judged.target).mean())
                # Where facts are lost already, text need not be read.
                text = loss(judged.texts[0]) / before["text"] if share >= KEEP else float("nan")
            tried[alpha] = {"alpha": alpha, "target": left, "kept": share, "text": text}
        return tried[alpha]["kept"] >= KEEP and tried[alpha]["text"] <= TEXT

    alpha = strongest(keeps)
    unedited = {name: right(pairs) for name, pairs in judged.pairs.items()}
    text = loss(judged.texts[1])
    with engram.ablated(model, alpha) if alpha else nullcontext():
        edited = {name: right(pairs) for name, pairs in judged.pairs.items()}
        row: dict[str, float] = {"alpha": alpha, "text": loss(judged.texts[1]) / text}
    for name in edited:
        found = kept_accuracy(edited[name], unedited[name])
        row |= {name: found.share, f"{name}_low": found.low, f"{name}_high": found.high}
    return row, [tried[one] for one in sorted(tried)]


def strongest(keeps: Callable[[float], bool], alpha: float = 0.25) -> float:
    """The largest strength that keeps enough: bracketed by doubling, then bisected; 0 if there is none."""
    low = 0.0
    while keeps(alpha):
        if alpha == LARGEST:
            return alpha
        low, alpha = alpha, min(2 * alpha, LARGEST)
    high = alpha
    while not low and high > 2**-8:
        low, high = (high / 2, high) if keeps(high / 2) else (0.0, high / 2)
    while low and high - low > REL_TOL * high:
        middle = (low * high) ** 0.5
        low, high = (middle, high) if keeps(middle) else (low, middle)
    return low


def of_relations(model: nn.Module, corpus: Corpus) -> Iterator[tuple[str, dict[str, Any], pd.DataFrame]]:
    """Tables' rows: the ways to make an engram on one relation, the chosen way on others, and single facts."""
    relations = [CHOSEN_ON, *REPORTED_ON]
    singles = single_facts(corpus, CHOSEN_ON)
    groups = concepts(corpus, relations, singles)
    passes: dict[str, ei.Decomposition] = {}
    for way in WAYS:
        if way.positions not in passes:
            passes = {way.positions: ei.decompose(model, groups, positions=way.positions, eos=False, progress=False)}
        parts = made(passes[way.positions], way)
        for relation in relations if way is CHOSEN else [CHOSEN_ON]:
            names = [relation, *(singles if relation == CHOSEN_ON else [])]
            judged = corpus.judged(relation)
            yield from _rows(model, way.name, relation, parts.engram(names), judged)
            if way is CHOSEN and relation == CHOSEN_ON:
                yield "map", {}, parts.localize(names).to_frame().drop(columns="expert").round(5)
        if way is CHOSEN:
            for subject, pairs in singles.items():
                siblings = [pair for pair in corpus.fitted(CHOSEN_ON) if pair not in pairs]
                judged = replace(corpus.judged(CHOSEN_ON), target=pairs, template=[], unseen=some(siblings))
                yield from _rows(model, "one fact", subject, parts[subject], judged)


def made(parts: ei.Decomposition, way: Way) -> ei.Decomposition:
    """The same statistics, of the matrices and with the options of a way."""
    return replace(parts.select(way.components, way.layers), solve=replace(parts.solve, **dict(way.options)))


def _rows(
    model: nn.Module, way: str, concept: str, engram: ei.Engram, judged: Judged
) -> Iterator[tuple[str, dict[str, Any], pd.DataFrame]]:
    row, tried = measured(model, judged, engram)
    about = {"way": way, "concept": concept, "n": len(judged.target)}
    click.echo({**about, **row})
    yield "rows", {**about, **row}, pd.DataFrame()
    yield "curves", about, pd.DataFrame(tried).assign(**about)
    if way == CHOSEN.name:
        asked = [(side, pair) for side, pairs in judged.pairs.items() for pair in pairs[:N_ANSWERS]]
        prompts = [prompt for _, (prompt, _) in asked]
        before = ei.greedy_answers(model, prompts, max_new_tokens=6, progress=False)
        with engram.ablated(model, row["alpha"]):
            after = ei.greedy_answers(model, prompts, max_new_tokens=6, progress=False)
        sides = [side for side, _ in asked]
        yield (
            "answers",
            about,
            pd.DataFrame({"side": sides, "prompt": prompts, "before": before, "after": after}).assign(concept=concept),
        )


def measure(facts: Path, tofu: Path, model: str) -> results.Tables:
    """All rows."""
    found: dict[str, list[pd.DataFrame]] = {}
    for name, row, frame in of_relations(ei.load_model(model), read(facts, tofu)):
        found.setdefault(name, []).append(pd.DataFrame([row]) if frame.empty else frame)
    tables = {name: pd.concat(frames, ignore_index=True).round(5) for name, frames in found.items()}
    return {name: one.astype(object).where(one.notna(), None) for name, one in tables.items()}


def of_ways(tables: results.Tables) -> str:
    """What is left of each relation or fact, at the strength that keeps enough."""
    rows = [
        [
            row["way"], row["concept"], f"{row['alpha']:.2f}", _percent(row, "target"), _percent(row, "template"),
            _percent(row, "unseen"), _percent(row, "reported"), f"{row['text'] - 1:+.1%}",
        ]
        for row in tables["rows"].to_dict("records")
    ]  # fmt: skip
    return table(
        [
            "engram",
            "of",
            "alpha",
            "target right, of before [90 %]",
            "other wording",
            "unseen facts",
            "others",
            "text loss",
        ],
        rows,
    )


def of_answers(tables: results.Tables) -> str:
    """What the model says before and after it forgets `CHOSEN_ON`: some facts of each kind."""
    answers = tables["answers"]
    mine = answers[answers["concept"] == CHOSEN_ON].groupby("side", sort=False).head(N_SHOWN)
    rows = [
        [KINDS[row["side"]], *(" ".join(row[name].split()) for name in ("prompt", "before", "after"))]
        for row in mine.to_dict("records")
    ]
    return table(["fact", "prompt", "before", "after"], rows)


def _percent(row: Mapping[Any, Any], name: str) -> str:
    if pd.isna(row[name]):
        return ""
    return f"{row[name]:.0%} [{row[f'{name}_low']:.0%}, {row[f'{name}_high']:.0%}]"


def figure(tables: results.Tables) -> go.Figure:
    """Target against others, strength by strength: the ways on one relation, and the chosen one on all."""
    curves = tables["curves"]
    titles = [f"ways to make the engram of {CHOSEN_ON}", f"{CHOSEN.name}, by relation"]
    figure = make_subplots(rows=1, cols=2, shared_yaxes=True, subplot_titles=titles, horizontal_spacing=0.03)
    for column, by in ((1, "way"), (2, "concept")):
        mine = curves[(curves["concept"] == CHOSEN_ON) if column == 1 else (curves["way"] == CHOSEN.name)]
        for name, one in mine.groupby(by, sort=False):
            line = go.Scatter(
                x=one["target"], y=one["kept"], name=str(name), mode="lines+markers", legendgroup=str(column),
                legendgrouptitle_text=titles[column - 1],
            )  # fmt: skip
            figure.add_trace(line, 1, column)
        figure.add_hline(y=KEEP, line_dash="dot", line_color=REFERENCE_COLOUR, row=1, col=column)  # pyright: ignore
        figure.add_vline(x=1 / 3, line_dash="dot", line_color=TARGET_COLOUR, row=1, col=column)  # pyright: ignore
        figure.update_xaxes(title_text="target right (share of its tokens)", range=[-0.03, 1.03], row=1, col=column)
    figure.update_yaxes(title_text="held-out facts of others right (share of before)", range=[0.75, 1.02], row=1, col=1)
    layout: dict[str, Any] = {"template": TEMPLATE, "width": 1250, "height": 640}
    return figure.update_layout(title="Forgetting a relation in SmolLM2, and what it costs", **layout)


def fitted_map(tables: results.Tables) -> go.Figure:
    """The map of `CHOSEN_ON`: W-Norm over what would be expected of a target that owns nothing (the paper's Fig. 9)."""
    matrices = tables["map"]
    n_layers = int(matrices["layer"].max()) + 1
    title = f"The engram of {CHOSEN_ON} in SmolLM2: W-Norm over its expectation"
    return matrix_map(matrices, "excess", COMPONENTS, n_layers, Scale("W-Norm over expected", ratio=True), title)


@click.command()
@click.option("--facts", type=click.Path(exists=True, file_okay=False, path_type=Path), help="PARAREL's folder.")
@click.option("--tofu", type=click.Path(exists=True, file_okay=False, path_type=Path), help="TOFU's folder, for text.")
@click.option("--model", default="smollm2-135m-instruct", show_default=True, help="A name on the hub or a folder.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS)
@click.option("--plot", type=click.Path(path_type=Path), help="Where to draw the results, as .html.")
@click.option("--only-plot", is_flag=True, help="Do not measure; draw the results that exist.")
def main(facts: Path | None, tofu: Path | None, model: str, out: Path, plot: Path | None, only_plot: bool) -> None:
    """Forget relations and single facts, and measure what it costs."""
    if not only_plot:
        if facts is None or tofu is None:
            raise click.UsageError("--facts and --tofu are needed to measure")
        results.record(out, partial(measure, facts, tofu, model))
    tables = results.read(out)
    click.echo(of_ways(tables))
    if plot is not None:
        results.draw(plot, figure(tables), fitted_map(tables))


if __name__ == "__main__":
    main()
