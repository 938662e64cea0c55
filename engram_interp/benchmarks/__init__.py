"""Which method finds a memory whose place is known? `localization` ranks methods, `planted` makes memories."""

from engram_interp.benchmarks.cases import Case, Place, decoys, modules_of, nothing_planted, planted
from engram_interp.benchmarks.localization import Leaderboard, Ranking, localization
from engram_interp.benchmarks.planting import Schedule, plant
from engram_interp.benchmarks.standard import standard_cases

__all__ = [
    "Case",
    "Leaderboard",
    "Place",
    "Ranking",
    "Schedule",
    "decoys",
    "localization",
    "modules_of",
    "nothing_planted",
    "plant",
    "planted",
    "standard_cases",
]
