"""Find, weigh, test and edit AI engrams in transformer language models: `engram_interp.localize(model, concept)`.

Names are imported when they are first asked for, so that `import engram_interp` and `engram-interp --help` are fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engram_interp import filters, metrics, testbed
    from engram_interp.ablation import PAPER, AblationStudy, AllBut, Only, ablation_study
    from engram_interp.collection import collect
    from engram_interp.concept import Concept
    from engram_interp.conditions import Criteria, criteria
    from engram_interp.datasets import QA, Benchmark, tofu
    from engram_interp.decomposition import Decomposition, decompose
    from engram_interp.diagnosis import Diagnosis, diagnose
    from engram_interp.engram import Engram
    from engram_interp.evaluation import Evaluation, Run, evaluate, measure
    from engram_interp.export import export_hf
    from engram_interp.extraction import extract
    from engram_interp.generation import greedy_answers
    from engram_interp.localization import LocalizationMap, localize
    from engram_interp.models.loading import load_model
    from engram_interp.nullspace import Complement, complement, null_check
    from engram_interp.overlaps import Interference, Overlap, interference, overlap
    from engram_interp.rewriting import rewrite, values_like
    from engram_interp.sae import (
        SaeConcept,
        choose_feature,
        concept_from_sae,
        concepts_from_sae,
        rank_features,
        reconstruction,
    )
    from engram_interp.scoring import Score, score
    from engram_interp.statistics import Statistics, names_filter
    from engram_interp.strength import AlphaChoice, choose_alpha
    from engram_interp.task_vectors import task_vector

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
    "ablation": "PAPER AblationStudy AllBut Only ablation_study",
    "collection": "collect",
    "nullspace": "Complement complement null_check",
    "concept": "Concept",
    "conditions": "Criteria criteria",
    "datasets": "QA Benchmark tofu",
    "decomposition": "Decomposition decompose",
    "diagnosis": "Diagnosis diagnose",
    "engram": "Engram",
    "evaluation": "Evaluation Run evaluate measure",
    "export": "export_hf",
    "extraction": "extract",
    "generation": "greedy_answers",
    "localization": "LocalizationMap localize",
    "models.loading": "load_model",
    "overlaps": "Interference Overlap interference overlap",
    "rewriting": "rewrite values_like",
    "sae": "SaeConcept choose_feature concept_from_sae concepts_from_sae rank_features reconstruction",
    "scoring": "Score score",
    "statistics": "Statistics names_filter",
    "strength": "AlphaChoice choose_alpha",
    "task_vectors": "task_vector",
}
_HOME = {name: module for module, names in _NAMES.items() for name in names.split()}
_SUBPACKAGES = ("filters", "metrics", "testbed")


def __getattr__(name: str) -> Any:
    """A public name, from the module that defines it."""
    if name in _SUBPACKAGES:
        return import_module(f"{__name__}.{name}")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    """The public names."""
    return sorted([*__all__, "__version__"])
