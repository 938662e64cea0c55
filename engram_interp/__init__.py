"""Find, weigh, test and edit AI engrams in language models and other networks, as by `engram_interp.localize`.

Names are imported when they are first used, so `import engram_interp` and `engram-interp --help` are fast.
"""

from importlib import import_module
from typing import Any

__version__ = "0.2.0"

_NAMES = {
    # find
    "statistics.collect": "collect",
    "statistics.statistics": "Statistics names_filter",
    "statistics.planning.plan": "plan Plan",
    "engrams.extract": "extract",
    "engrams.engram": "Engram",
    "maps.localization": "localize",
    "maps.localization_map": "LocalizationMap",
    # weigh
    "maps.diagnosis": "diagnose Diagnosis",
    "maps.decomposition": "decompose Decomposition",
    "maps.overlap": "overlap Overlap Interference",
    "maps.complement": "complement Complement",
    "maps.reading": "reads writes",
    "learning.tracking.track": "track",
    "learning.tracking.trajectory": "Trajectory",
    "learning.tracking.callback": "EngramCallback StreamingEngramCallback",
    # test
    "effects.criteria": "criteria Criteria",
    "effects.attribution": "attribute Attribution",
    "effects.ablation": "ablation_study AblationStudy Only AllBut PAPER",
    "effects.interference": "interference",
    "effects.null_check": "null_check",
    "answers.scoring": "score Score",
    "answers.generation": "greedy_answers",
    "unlearning.evaluation": "measure evaluate",
    "unlearning.run": "Run",
    "unlearning.scores": "Evaluation",
    # edit
    "effects.strength": "choose_alpha AlphaChoice",
    "engrams.rewriting": "rewrite values_like",
    "engrams.task_vector": "task_vector",
    "engrams.export": "export_hf",
    "learning.grafting.grafting": "graft",
    "learning.grafting.graft": "Graft",
    "learning.protection.protection": "protect Protection",
    # show
    "report.explorer.explore": "explore",
    "report.explorer.exploration": "Exploration",
    "sharing.catalog": "catalog",
    # data
    "concepts.concept": "Concept Pair",
    "models.loading": "load_model",
    "sae.concepts": "concept_from_sae concepts_from_sae SaeConcept",
    "sae.ranking": "rank_features choose_feature",
    "sae.reconstruction": "reconstruction",
    "unlearning.benchmarks": "Benchmark QA tofu",
}
"""Where each public name is defined, in blocks: find, weigh, test, edit, show, data."""

_MODULES = {
    "benchmarks": "benchmarks",
    "filters": "linalg.filters",
    "metrics": "unlearning.metrics",
    "testbed": "testbed",
}
"""Public modules."""

_HOME = {name: module for module, names in _NAMES.items() for name in names.split()}

__all__ = sorted([*_HOME, *_MODULES])  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    """A public name, from the module that defines it.

    Libraries that draw random numbers when they are first imported do not move the user's generators.
    """
    if name not in _MODULES and name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from engram_interp.common.randomness import unchanged_randomness

    with unchanged_randomness():
        module = import_module(f"{__name__}.{_MODULES.get(name) or _HOME[name]}")
    found = module if name in _MODULES else getattr(module, name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    """The public names."""
    return sorted([*__all__, "__version__"])
