"""How much of the answers a model gets right: teacher-forced accuracy and loss over the tokens that count.

A counted token is right when it is the argmax of the logits one position before it. The first token of an example has
nothing before it and is never scored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from engram_interp.concept import BATCH_SIZE, Batch, Example, TokenExample, batches, encode_groups
from engram_interp.models import Adapter, adapt

ROWS = 512
"""Logits are made for this many positions at a time: a vocabulary is wide, and a batch may hold many answers."""


@dataclass(frozen=True)
class Score:
    """How well a model says what a group of examples says.

    Attributes:
        accuracy: share of counted tokens that are the argmax, in [0, 1].
        loss: mean cross-entropy of the counted tokens, in nats.
        n_tokens: how many tokens that is.
    """

    accuracy: float
    loss: float
    n_tokens: int


def score(
    model: nn.Module,
    groups: Mapping[str, Sequence[Example]],
    *,
    batch_size: int = BATCH_SIZE,
    progress: bool | None = None,
) -> dict[str, Score]:
    """Accuracy and loss of every group of examples, in one pass over all of them.

    Args:
        model: the model to score.
        groups: examples by name, each as `Concept` takes them.
        batch_size: examples in a batch.
        progress: True or False shows or hides the bar; None shows it in a terminal only.

    Raises:
        ValueError: a group without a counted token that has another before it.

    Example:
        >>> from engram_interp import testbed
        >>> facts = testbed.authors().world_examples
        >>> score(testbed.load("full"), {"world": facts})["world"].accuracy > 0.97
        True
    """
    adapter = adapt(model)
    return score_encoded(adapter, encode_groups(groups, adapter.encoder), batch_size=batch_size, progress=progress)


def score_encoded(
    adapter: Adapter, encoded: dict[str, list[TokenExample]], *, batch_size: int, progress: bool | None
) -> dict[str, Score]:
    """`score` on examples that are tokens already."""
    totals = _totals(adapter, encoded, batch_size, progress)
    return {group: _score(group, *total.sum(0).tolist()) for group, total in totals.items()}


@dataclass(frozen=True)
class ExampleScores:
    """The same of every example that has a counted token with another before it.

    Attributes:
        accuracy: `[example]`, share of counted tokens that are the argmax.
        loss: `[example]`, mean cross-entropy of the counted tokens, in nats.
    """

    accuracy: Float[Tensor, "example"]
    loss: Float[Tensor, "example"]


def example_scores(
    model: nn.Module,
    groups: Mapping[str, Sequence[Example]],
    *,
    batch_size: int = BATCH_SIZE,
    progress: bool | None = None,
) -> dict[str, ExampleScores]:
    """Accuracy and loss example by example; otherwise as `score`."""
    adapter = adapt(model)
    totals = _totals(adapter, encode_groups(groups, adapter.encoder), batch_size, progress)
    scores = {}
    for group, total in totals.items():
        right, loss, n = total[total[:, 2] > 0].T
        if not len(n):
            raise ValueError(_nothing(group))
        scores[group] = ExampleScores(right / n, loss / n)
    return scores


def side_by_side(scores: Mapping[str, Score]) -> dict[str, float]:
    """Accuracy and loss of every group as one row: `target_accuracy`, `target_loss`, and so on.

    Example:
        >>> side_by_side({"target": Score(accuracy=1.0, loss=0.5, n_tokens=2)})
        {'target_accuracy': 1.0, 'target_loss': 0.5}
    """
    return {
        f"{group}_{measure}": getattr(found, measure)
        for group, found in scores.items()
        for measure in ("accuracy", "loss")
    }


def _totals(
    adapter: Adapter, encoded: dict[str, list[TokenExample]], batch_size: int, progress: bool | None
) -> dict[str, Float[Tensor, "example 3"]]:
    """Of every example: how many tokens are right, the sum of their losses, and how many are scored."""
    totals = {group: torch.zeros(len(examples), 3, dtype=torch.float64) for group, examples in encoded.items()}
    for batch in batches(encoded, batch_size, progress, "scoring"):
        scores, groups, numbers = _token_scores(adapter, batch)
        for index, total in enumerate(totals.values()):
            mine = groups == index
            total.index_add_(0, numbers[mine], scores[mine])
    return totals


def _score(group: str, right: float, loss: float, n_tokens: float) -> Score:
    if not n_tokens:
        raise ValueError(_nothing(group))
    return Score(right / n_tokens, loss / n_tokens, int(n_tokens))


def _nothing(group: str) -> str:
    return f"nothing to score in {group}: no counted token has another token before it"


@torch.no_grad()
def _token_scores(adapter: Adapter, batch: Batch) -> tuple[Float[Tensor, "n 3"], Int[Tensor, "n"], Int[Tensor, "n"]]:
    """Of every scored token: whether it is the argmax, its loss, and a one; its group, and its example in the group."""
    scored = batch.counts.clone()
    scored[:, 0] = False
    final, truth = adapter.final(batch, at=scored.roll(-1, dims=1)), batch.tokens[scored]
    right, losses = [], []
    for rows, tokens in zip(final.split(ROWS), truth.split(ROWS), strict=True):
        logits = adapter.unembed(rows).float()
        if (tokens >= logits.shape[1]).any():
            raise ValueError(f"the model cannot say token {int(tokens.max())}: its output has {logits.shape[1]} tokens")
        tokens = tokens.to(logits.device)
        right.append((logits.argmax(-1) == tokens).cpu())
        losses.append(nn.functional.cross_entropy(logits, tokens, reduction="none").cpu())
    hits, nats = torch.cat(right).double(), torch.cat(losses).double()
    groups, numbers = (of[:, None].expand_as(scored)[scored] for of in (batch.groups, batch.numbers))
    return torch.stack([hits, nats, torch.ones_like(nats)], dim=1), groups, numbers
