"""Find, weigh, test and edit AI engrams in transformer language models: `engram_interp.localize(model, concept)`.

Names are imported when they are first asked for, so that `import engram_interp` and `engram-interp --help` are fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engram_interp import testbed
    from engram_interp.answers.generation import greedy_answers
    from engram_interp.answers.scoring import Score, score
    from engram_interp.concepts.concept import Concept
    from engram_interp.effects.ablation import PAPER, AblationStudy, AllBut, Only, ablation_study
    from engram_interp.effects.criteria import Criteria, criteria
    from engram_interp.effects.strength import AlphaChoice, choose_alpha
    from engram_interp.engrams.decomposition import Decomposition, decompose
    from engram_interp.engrams.engram import Engram
    from engram_interp.engrams.export import export_hf
    from engram_interp.engrams.extract import extract
    from engram_interp.engrams.rewriting import rewrite, values_like
    from engram_interp.engrams.task_vector import task_vector
    from engram_interp.linalg import filters
    from engram_interp.maps.complement import Complement, complement, null_check
    from engram_interp.maps.diagnosis import Diagnosis, diagnose
    from engram_interp.maps.localization import LocalizationMap, localize
    from engram_interp.maps.overlap import Interference, Overlap, interference, overlap
    from engram_interp.models.loading import load_model
    from engram_interp.sae.concepts import (
        SaeConcept,
        choose_feature,
        concept_from_sae,
        concepts_from_sae,
        rank_features,
        reconstruction,
    )
    from engram_interp.statistics.collect import collect
    from engram_interp.statistics.statistics import Statistics, names_filter
    from engram_interp.unlearning import metrics
    from engram_interp.unlearning.benchmarks import QA, Benchmark, tofu
    from engram_interp.unlearning.evaluation import Evaluation, Run, evaluate, measure

__version__ = "0.1.0"

__all__ = [
    "PAPER",
    "QA",
    "AblationStudy",
    "AllBut",
    "AlphaChoice",
    "Benchmark",
    "Complement",
    "Concept",
    "Criteria",
    "Decomposition",
    "Diagnosis",
    "Engram",
    "Evaluation",
    "Interference",
    "LocalizationMap",
    "Only",
    "Overlap",
    "Run",
    "SaeConcept",
    "Score",
    "Statistics",
    "ablation_study",
    "choose_alpha",
    "choose_feature",
    "collect",
    "complement",
    "concept_from_sae",
    "concepts_from_sae",
    "criteria",
    "decompose",
    "diagnose",
    "evaluate",
    "export_hf",
    "extract",
    "filters",
    "greedy_answers",
    "interference",
    "load_model",
    "localize",
    "measure",
    "metrics",
    "names_filter",
    "null_check",
    "overlap",
    "rank_features",
    "reconstruction",
    "rewrite",
    "score",
    "task_vector",
    "testbed",
    "tofu",
    "values_like",
]

_NAMES = {
    "effects.ablation": "PAPER AblationStudy AllBut Only ablation_study",
    "statistics.collect": "collect",
    "maps.complement": "Complement complement null_check",
    "concepts.concept": "Concept",
    "effects.criteria": "Criteria criteria",
    "unlearning.benchmarks": "QA Benchmark tofu",
    "engrams.decomposition": "Decomposition decompose",
    "maps.diagnosis": "Diagnosis diagnose",
    "engrams.engram": "Engram",
    "unlearning.evaluation": "Evaluation Run evaluate measure",
    "engrams.export": "export_hf",
    "engrams.extract": "extract",
    "answers.generation": "greedy_answers",
    "maps.localization": "LocalizationMap localize",
    "models.loading": "load_model",
    "maps.overlap": "Interference Overlap interference overlap",
    "engrams.rewriting": "rewrite values_like",
    "sae.concepts": "SaeConcept choose_feature concept_from_sae concepts_from_sae rank_features reconstruction",
    "answers.scoring": "Score score",
    "statistics.statistics": "Statistics names_filter",
    "effects.strength": "AlphaChoice choose_alpha",
    "engrams.task_vector": "task_vector",
}
_HOME = {name: module for module, names in _NAMES.items() for name in names.split()}
_MODULES = {"filters": "linalg.filters", "metrics": "unlearning.metrics", "testbed": "testbed"}


def __getattr__(name: str) -> Any:
    """A public name, from the module that defines it."""
    if name in _MODULES:
        return import_module(f"{__name__}.{_MODULES[name]}")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    """The public names."""
    return sorted([*__all__, "__version__"])
