"""Which picture stands where? Figures by name, drawn by the build: from the package, or from a study's JSON."""

import json
from collections.abc import Callable, Sequence
from functools import cache, partial
from html import escape
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

import engram_interp as ei
from analyses import results
from analyses.paper import (
    figure_9_map,
    figure_18_combinations,
    figure_alpha,
    table_3_methods,
    table_4_closed_form,
    table_7_cost,
    table_8_layer_types,
    table_9_instantiation,
)
from analyses.paper.vision import attributes, autoencoder_classes, forgetting, superclasses, table_2
from analyses.real import forget_facts, induction
from analyses.studies import continual, formation, grafting, overlap

ANALYSES = Path(results.__file__).parent
Figures = Callable[[], Sequence[go.Figure]]


@cache
def _author() -> tuple:
    corpus = ei.testbed.authors()
    return ei.testbed.load("full"), corpus.concept("Petra Dorlund")


def _map() -> list[go.Figure]:
    model, concept = _author()
    return [ei.localize(model, concept, progress=False).plot()]


def _strength() -> list[go.Figure]:
    model, concept = _author()
    return [ei.choose_alpha(model, ei.extract(model, concept), concept, progress=False).plot()]


def _spectrum() -> list[go.Figure]:
    model, concept = _author()
    return [ei.diagnose(model, concept, progress=False).plot_matrix("blocks.0.mlp.W_gate")]


def _of(draw: Callable, name: str, *more: str) -> list[go.Figure]:
    """The figures that a study draws of its results."""
    drawn = draw(results.read(ANALYSES / f"{name}.json"), *more)
    return [drawn] if isinstance(drawn, go.Figure) else list(drawn)


PICTURES: dict[str, Figures] = {
    "map": _map,
    "strength": _strength,
    "spectrum": _spectrum,
    "table_3": partial(_of, table_3_methods.figure, "paper/table_3_methods"),
    "table_4": partial(_of, table_4_closed_form.figure, "paper/table_4_closed_form"),
    "table_7": partial(_of, table_7_cost.figure, "paper/table_7_cost"),
    "table_8": partial(_of, table_8_layer_types.figure, "paper/table_8_layer_types"),
    "table_9": partial(_of, table_9_instantiation.figure, "paper/table_9_instantiation"),
    "figure_9": partial(_of, figure_9_map.figure, "paper/figure_9_map"),
    "figure_18": partial(_of, figure_18_combinations.figure, "paper/figure_18_combinations"),
    "figure_alpha": partial(_of, figure_alpha.figure, "paper/figure_alpha"),
    "overlap": partial(_of, overlap.figures, "studies/overlap"),
    "formation": partial(_of, formation.figures, "studies/formation"),
    "grafting": partial(_of, grafting.figures, "studies/grafting"),
    "continual": partial(_of, continual.figures, "studies/continual"),
    "fitted_map": partial(_of, forget_facts.fitted_map, "real/forget_facts"),
    "facts": partial(_of, forget_facts.figure, "real/forget_facts"),
    "induction": partial(_of, induction.figure, "real/induction"),
    "vision_table_2": partial(_of, table_2.figures, "paper/vision/table_2"),
    "vision_mlp": partial(_of, forgetting.figures, "paper/vision/mlp_classes", "An MLP on Fashion-MNIST"),
    "vision_resnet": partial(_of, forgetting.figures, "paper/vision/resnet_classes", "A ResNet-18 on Fashion-MNIST"),
    "vision_vit": partial(_of, forgetting.figures, "paper/vision/vit_groups", "A vision transformer on Fashion-MNIST"),
    "vision_superclasses": partial(_of, superclasses.figures, "paper/vision/superclasses"),
    "vision_autoencoder": partial(_of, autoencoder_classes.figures, "paper/vision/autoencoder_classes"),
    "vision_attributes": partial(_of, attributes.figures, "paper/vision/attributes"),
}


def html(name: str) -> str:
    """The figures of a name, for `docs/assets/site.js` to draw.

    Raises:
        KeyError: if no picture has this name.
    """
    return "\n".join(_block(figure) for figure in PICTURES[name]())


def _block(figure: go.Figure) -> str:
    layout: Any = figure.layout
    title = str(layout.title.text or "").replace("<br>", " ")
    # What the content holds must not end the script that holds it.
    content = json.dumps(json.loads(str(figure.to_json()))).replace("<", "\\u003c")
    height = layout.height or 450
    return (
        f'<figure class="figure" tabindex="0" aria-label="{escape(title, quote=True)}" style="min-height: {height}px">'
        f'<script type="application/json">{content}</script></figure>\n'
    )
