"""Are these the examples that were summed before? A running SHA-256 of every group, batch by batch, tells."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch

from engram_interp.common.storage import fingerprint
from engram_interp.concepts.batches import AnyBatch, Batch
from engram_interp.concepts.concept import TokenExample
from engram_interp.concepts.data import structure_of, tensors_in


def key_of(example: Any) -> Hashable:
    """What is equal for equal examples: their text, or a digest of their tokens and masks.

    Example:
        >>> key_of(("Who?", "She.")) == key_of(["Who?", "She."])
        True
    """
    if isinstance(example, TokenExample):
        return fingerprint([example.tokens, example.counts.to(torch.uint8)])
    return example if isinstance(example, str) else tuple(map(str, example))


class Digests:
    """A digest of each group's examples so far. It goes on from a digest that was stored.

    Args:
        groups: their names.
        so_far: what `values` were.
    """

    def __init__(self, groups: Sequence[str], so_far: Mapping[str, str] | None = None) -> None:
        self.values = dict.fromkeys(groups, "") | dict(so_far or {})

    def add(self, batch: AnyBatch) -> None:
        """Add a batch: what the model reads, and what counts of it."""
        for place, group in enumerate(self.values):
            mine = batch.groups == place
            if not mine.any():
                continue
            if isinstance(batch, Batch):
                read = [batch.tokens[mine], batch.attention_mask[mine]]
            else:
                read = list(tensors_in(batch.inputs))
            content = fingerprint([*read, batch.counts[mine].to(torch.uint8)])
            content += "" if isinstance(batch, Batch) else structure_of(batch.inputs)
            self.values[group] = hashlib.sha256((self.values[group] + content).encode()).hexdigest()


def require_same_examples(found: Mapping[str, str], expected: Mapping[str, str], where: str) -> None:
    """Check that examples are those that were summed before.

    Args:
        found: the digests of what is given now.
        expected: those of what was summed.
        where: what they were summed into, for the error.

    Raises:
        ValueError: if they differ; it names the groups.
    """
    if differ := [group for group in expected if found.get(group) != expected[group]]:
        raise ValueError(
            f"the examples of {' and '.join(differ)} are not those of {where}, or come in another order: give the same "
            f"again (a shuffling loader needs the same seed), or another folder"
        )
