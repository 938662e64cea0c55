"""No public function moves global state: generators, precisions, gradients, logging, warnings, the environment."""

import contextlib
import importlib
import io
import logging
import os
import random
import subprocess
import sys
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers.utils import logging as transformers_logging

import engram_interp as ei
from tests import huggingface


def state() -> dict[str, object]:
    loggers = [
        logging.root,
        *(logging.getLogger(name) for name in ("transformers", "torch", "transformer_lens", "absl")),
    ]
    return {
        "torch": torch.get_rng_state().tolist(),
        "numpy": str(np.random.get_state()),
        # beartype draws from Python's generator to check a list by one of its items; a test below is without it.
        "default dtype": torch.get_default_dtype(),
        "matmul precision": torch.get_float32_matmul_precision(),
        "gradients": torch.is_grad_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "threads": torch.get_num_threads(),
        "levels": [one.level for one in loggers],
        "handlers": [list(one.handlers) for one in loggers],
        "verbosity": transformers_logging.get_verbosity(),
        "progress bars": transformers_logging.is_progress_bar_enabled(),
        "warnings": list(warnings.filters),
        "environment": dict(os.environ),
        "folder": os.getcwd(),
    }


@pytest.fixture(scope="module")
def calls(tmp_path_factory):
    """Every public function of the package, called once on little, by name."""
    folder = tmp_path_factory.mktemp("state")
    model, corpus = ei.testbed.load("full"), ei.testbed.authors()
    author, *others = corpus.forget10[:4]
    concept = ei.Concept(author.examples[:6], [example for other in others for example in other.examples], "x")
    stats = ei.collect(model, concept, layers=[0])
    engram, key = ei.extract(model, stats), "blocks.0.mlp.W_out"
    ei.localize(model, stats).plot()._repr_html_()  # plotly adds a filter for its own warnings when it is first used
    parts = ei.decompose(model, {one.name: one.examples for one in corpus.forget10[:3]}, layers=[0], components="gate")
    benchmark = ei.testbed.benchmark()
    few = replace(
        benchmark, forget=benchmark.forget[:4], retain=benchmark.retain[:4], holdout=benchmark.holdout[:4],
        general={name: questions[:4] for name, questions in benchmark.general.items()},
    )  # fmt: skip
    run = ei.measure(model, few)
    retain = ei.measure(ei.testbed.load("retain"), few)
    huggingface.save(huggingface.make("Llama"), folder / "llama")
    rows = torch.arange(40).view(4, 10) % 50
    tokens = ei.Concept.from_tokens(rows, rows + 3)
    classifier, seen = ei.testbed.load_classifier(), ei.testbed.pictures("test")
    loader = torch.utils.data.DataLoader(seen, 256, shuffle=True)
    shuffled = ei.Concept.from_batches(loader, loader, labelled=True)
    moved = [("Where was Petra Dorlund born?", "in west Salta")]
    like = [("Where was Kara Jenquist born?", "in west Salta")]

    def exported():
        loaded = ei.load_model(folder / "llama")
        edit = ei.extract(loaded, tokens, components="U", rtol=1e-2)
        return ei.export_hf(edit, folder / "llama", folder / "edited")

    def absent():
        with contextlib.suppress(FileNotFoundError):
            ei.tofu(folder)

    def rewritten():
        values = ei.values_like(model, moved, like, layer=3)
        return ei.rewrite(model, ei.Concept(moved, corpus.examples[:50]), values)

    return {
        "testbed.load": lambda: ei.testbed.load("base"),
        "testbed.authors": ei.testbed.authors,
        "testbed.benchmark": ei.testbed.benchmark,
        "Concept": lambda: ei.Concept(["a"], ["b"]),
        "collect": lambda: ei.collect(model, concept, layers=[0]),
        "collect into a store": lambda: ei.collect(model, concept, layers=[0], store=folder / "store", until=0.5),
        "plan": lambda: ei.plan(model, 1000),
        "extract": lambda: ei.extract(model, stats, filter=ei.filters.power(2)),
        "localize": lambda: ei.localize(model, stats),
        "localize resampled": lambda: ei.localize(
            model, concept, null="resampled", draws=19, layers=[0], components="O", progress=False
        ),
        "localize siblings": lambda: ei.localize(
            model, concept, null="siblings", gradient=True, draws=19, layers=[0], components="O", progress=False
        ),
        "benchmarks.plant": lambda: ei.benchmarks.plant(
            model, author.examples[:4], moved, [key], schedule=ei.benchmarks.Schedule(max_epochs=1), progress=False
        ),
        "plot": lambda: ei.localize(model, stats).plot()._repr_html_(),
        "decompose": lambda: parts.engram(author.name),
        "overlap": lambda: ei.overlap(parts).plot(),
        "interference": lambda: ei.interference(parts, {author.name: author.examples[:2]}),
        "complement": lambda: ei.complement(parts).plot(),
        "attribute": lambda: ei.attribute(model, engram, author.examples[:6], checked=1),
        "reads": lambda: ei.reads(model, engram, key, concept, n=1, draws=19),
        "writes": lambda: ei.writes(model, engram, key, concept, n=1, draws=19),
        "null_check": lambda: ei.null_check(model, author.examples[:3], layers=[0]),
        "diagnose": lambda: ei.diagnose(model, stats, components="gate").plot(),
        "criteria": lambda: ei.criteria(model, engram, concept, statistics=stats),
        "ablation_study": lambda: ei.ablation_study(model, concept, {"gate": ei.Only("gate")}, alpha=2.0),
        "choose_alpha": lambda: ei.choose_alpha(model, engram, concept, rel_tol=0.9),
        "ablate": lambda: engram.ablate(model, 1.0),
        "score": lambda: ei.score(model, concept.sides),
        "greedy_answers": lambda: ei.greedy_answers(model, ["Where was Petra Dorlund born?"]),
        "measure": lambda: ei.measure(model, few),
        "evaluate": lambda: ei.evaluate(model, few, {"full": run, "retain": retain}, n_resamples=3),
        "rewrite": rewritten,
        "task_vector": lambda: ei.task_vector(model, model, ei.testbed.load("base")),
        "names_filter": lambda: ei.names_filter(model),
        "export_hf": exported,
        "graft": lambda: ei.graft(
            model, ei.testbed.load("base"), concept, by="learned", share=0.1, steps=1, progress=False
        ),
        "protect": lambda: ei.protect(model, concept, components="gate", layers=[0]).remove(),
        "track": lambda: ei.track([model, model], concept, components="gate", null="analytic").animate(),
        "EngramCallback": lambda: ei.EngramCallback(concept, 1, components="gate", null="analytic").step(model, 1),
        "explore": lambda: ei.explore(model, concept, n_matrices=1, alphas=[1.0], layers=0, components="O").to_html(),
        "catalog": lambda: ei.catalog(folder),
        "save": lambda: engram.save(folder / "engram.safetensors"),
        "load": lambda: ei.Engram.load(folder / "engram.safetensors"),
        "tofu": absent,
        "testbed.pictures": ei.testbed.pictures,
        "testbed.load_classifier": ei.testbed.load_classifier,
        "Concept.from_dataset": lambda: ei.Concept.from_dataset(ei.testbed.pictures("test"), 1),
        "Concept.from_batches": lambda: ei.collect(classifier, shuffled),
        "a map of a classifier": lambda: ei.localize(classifier, shuffled).plot()._repr_html_(),
    }


def test_no_public_function_moves_global_state(calls):
    torch.manual_seed(7)
    for name, call in calls.items():
        torch.rand(1), np.random.rand()
        before = state()
        with contextlib.redirect_stderr(io.StringIO()):
            call()
        after = state()
        changed = [what for what in before if before[what] != after[what]]
        assert not changed, f"{name} changed {', '.join(changed)}"


def test_every_public_function_is_called(calls):
    """What is not in the list above is a class, a constant, or needs sae-lens."""
    functions = {name for name in ei.__all__ if callable(getattr(ei, name)) and not isinstance(getattr(ei, name), type)}
    needs_sae = {"choose_feature", "concept_from_sae", "concepts_from_sae", "rank_features", "reconstruction"}
    within = {"load_model", "values_like"}
    assert functions - needs_sae - within <= set(calls)


def test_saes_move_no_global_state():
    pytest.importorskip("sae_lens")
    model, sae, corpus = ei.testbed.load("full"), ei.testbed.load_sae(), ei.testbed.authors()
    before = state()
    examples = corpus.forget10[1].examples + corpus.world_examples[:30]
    ranked = ei.rank_features(model, sae, ["Where was Kara Jenquist born?"], examples)
    feature, _ = ei.choose_feature(ranked)
    ei.concept_from_sae(model, sae, feature, examples, per="example", max_tokens=20)
    ei.reconstruction(model, sae, examples)
    assert [what for what, value in state().items() if value != before[what]] == []


def test_pythons_generator_stays_too_without_the_type_checks_of_tests():
    program = """
import random
import engram_interp as ei
before = random.getstate()
model, corpus = ei.testbed.load("full"), ei.testbed.authors()
author, other = corpus.forget10[:2]
concept = ei.Concept(author.examples, other.examples)
ei.localize(model, concept, null="resampled", draws=19, layers=[0], components="O", progress=False)
ei.ablation_study(model, concept, {"gate": ei.Only("gate")}, alpha=2.0)
ei.greedy_answers(model, ["Where was Petra Dorlund born?"])
print(before == random.getstate())
"""
    found = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert found.stdout.split()[-1] == "True"


def test_libraries_that_draw_numbers_as_they_are_imported_do_not_move_the_generators(monkeypatch):
    drawn = []

    def imports(name):
        drawn.append((random.random(), float(np.random.rand()), float(torch.rand(()))))
        return importlib.import_module(name)

    monkeypatch.setattr(ei, "import_module", imports)
    monkeypatch.delitem(vars(ei), "localize", raising=False)
    before = random.getstate(), state()
    assert callable(vars(ei)["__getattr__"]("localize"))
    assert len(drawn) == 1
    assert (random.getstate(), state()) == before
