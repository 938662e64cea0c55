"""What does a model lose on what is scored: answers' tokens, or labels? With gradients, unlike `scoring`."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from engram_interp.answers.classifying import class_scores
from engram_interp.concepts.batches import AnyBatch
from engram_interp.concepts.data import DataBatch
from engram_interp.models import Adapter, LanguageAdapter


def answer_loss(adapter: Adapter, batch: AnyBatch, reduction: str) -> Tensor:
    """Cross-entropy of a batch's scored tokens or labels, in float32, with the model's graph.

    Args:
        adapter: the model.
        batch: its examples.
        reduction: `mean` or `sum`, over tokens or examples.

    Raises:
        ValueError: if a batch that is no text has no labels.
    """
    if isinstance(batch, DataBatch):
        if batch.labels is None:
            raise ValueError(f"a loss needs labels, and the batch {batch.examples[0]} has none: say labelled=True")
        logits = class_scores(adapter.outputs(batch)).float()
        return nn.functional.cross_entropy(logits, batch.labels.to(logits.device).long(), reduction=reduction)
    scored = batch.scored[:, 1:]
    logits = cast(LanguageAdapter, adapter).logits(batch)[:, :-1][scored].float()
    return nn.functional.cross_entropy(logits, batch.tokens[:, 1:][scored].to(logits.device), reduction=reduction)
