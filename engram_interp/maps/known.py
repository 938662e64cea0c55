"""Does the model know the target, as it knows what the target is compared with? Text that is new to it stands out too.

A map against sibling memories presumes that the target is one of them. A model that does not have the memory reads its
text unlike any other, and where that shows is no place of a memory.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from engram_interp.answers.scoring import totals
from engram_interp.concepts.batches import Examples
from engram_interp.concepts.concept import REFERENCE, TARGET
from engram_interp.linalg.intervals import newcombe
from engram_interp.models import Adapter
from engram_interp.options import Run

logger = logging.getLogger("engram_interp")

LESS = 0.1
"""A target is unknown if surely so much less of it is right, as a share of answer tokens."""
Z = 1.959964


def warn_if_unknown(adapter: Adapter, target: Examples, siblings: Examples, run: Run) -> None:
    """Warn if clearly fewer of the target's answer tokens are right than of its siblings', of as many examples.

    Args:
        adapter: the model.
        target: its examples.
        siblings: examples of what it is compared with.
        run: how examples go through the model.
    """
    step = max(1, len(siblings) // len(target))
    some = {TARGET: [*target], REFERENCE: [*siblings[::step]][: len(target)]}
    found = {side: table.sum(0) for side, table in totals(adapter, some, replace(run, progress=False)).items()}
    (hits, _, n), (other_hits, _, other_n) = (found[side] for side in (TARGET, REFERENCE))
    if not n or not other_n:
        return
    low, _ = newcombe(other_hits[None], int(other_n), hits[None], int(n), Z)
    if float(low) > LESS:
        logger.warning(
            "the model gets %.0f %% of the target's answer tokens right, and %.0f %% of its siblings': it does not "
            "know the target as it knows them, and the map shows where new text is unlike known text",
            100 * float(hits / n), 100 * float(other_hits / other_n),
        )  # fmt: skip
