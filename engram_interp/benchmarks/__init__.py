"""Which method finds a memory whose place is known? `localization` ranks methods, `planted` makes memories."""

from engram_interp.benchmarks.cases import Case, decoys, nothing_planted, planted
from engram_interp.benchmarks.localization import Leaderboard, Ranking, localization
from engram_interp.benchmarks.places import Place, heads_of, matrices_of, modules_of, weights_of
from engram_interp.benchmarks.planting import Schedule, plant
from engram_interp.benchmarks.standard import standard_cases

__all__ = [
    "Case",
    "Leaderboard",
    "Place",
    "Ranking",
    "Schedule",
    "decoys",
    "heads_of",
    "localization",
    "matrices_of",
    "modules_of",
    "nothing_planted",
    "plant",
    "planted",
    "standard_cases",
    "weights_of",
]
