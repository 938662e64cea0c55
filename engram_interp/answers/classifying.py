"""How much of labelled examples does a model get right? An example is right if its label has the largest output."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from engram_interp.concepts.data import DataBatch


def classified(outputs: Any, batch: DataBatch) -> Float[Tensor, "batch 3"]:
    """For every example: whether it is right (0 or 1), its cross-entropy in nats, and 1, as many as are scored.

    Examples without labels have NaN in the first two places.

    Args:
        outputs: what the model makes of the batch: class scores `[batch class]`, or something that has them as
            `logits`, or first in a tuple.
        batch: the examples.

    Raises:
        ValueError: if outputs are no class scores, or a label is none of their classes.

    Example:
        >>> labels, which = torch.tensor([1, 0]), torch.arange(2)
        >>> batch = DataBatch(torch.zeros(2, 3), labels, torch.ones(2, 1).bool(), 0 * which, which, ("a", "b"))
        >>> classified(torch.tensor([[0.0, 9.0], [0.0, 9.0]]), batch)[:, 0].tolist()
        [1.0, 0.0]
    """
    n = len(batch.numbers)
    if batch.labels is None:
        return torch.tensor([[torch.nan, torch.nan, 1.0]], dtype=torch.float64).expand(n, 3)
    logits, labels = class_scores(outputs), batch.labels.cpu().long()
    if logits.dim() != 2 or len(logits) != n or labels.shape != (n,):
        raise ValueError(
            f"a classifier must put out [batch class] for {n} examples with a label each; got {list(logits.shape)} and "
            f"labels {list(labels.shape)}"
        )
    if bool(((labels < 0) | (labels >= logits.shape[1])).any()):
        wrong = int(labels[(labels < 0) | (labels >= logits.shape[1])][0])
        raise ValueError(f"a label must be 0 to {logits.shape[1] - 1}, the model's classes; {batch.examples[0]} to "
                         f"{batch.examples[-1]} have {wrong}")  # fmt: skip
    scores = logits.detach().double().cpu()
    right = (scores.argmax(1) == labels).double()
    lost = nn.functional.cross_entropy(scores, labels, reduction="none")
    return torch.stack([right, lost, torch.ones_like(right)], dim=1)


def class_scores(outputs: Any) -> Tensor:
    """The tensor of class scores in a model's outputs.

    Raises:
        ValueError: if there is none.
    """
    if isinstance(outputs, (tuple, list)) and outputs:
        outputs = outputs[0]
    found = getattr(outputs, "logits", outputs)
    if not isinstance(found, Tensor):
        raise ValueError(f"a classifier must put out a tensor [batch class]; got a {type(outputs).__name__}")
    return found
