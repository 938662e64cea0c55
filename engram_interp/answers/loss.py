"""What does a model lose on the tokens that are scored? With gradients, unlike `scoring`."""

from __future__ import annotations

from torch import Tensor, nn

from engram_interp.concepts.batches import Batch
from engram_interp.models import Adapter


def answer_loss(adapter: Adapter, batch: Batch, reduction: str) -> Tensor:
    """Cross-entropy of a batch's scored tokens, in float32, with the model's graph.

    Args:
        adapter: the model.
        batch: its examples.
        reduction: `mean` or `sum`, over tokens.
    """
    scored = batch.scored[:, 1:]
    logits = adapter.logits(batch)[:, :-1][scored].float()
    return nn.functional.cross_entropy(logits, batch.tokens[:, 1:][scored].to(logits.device), reduction=reduction)
