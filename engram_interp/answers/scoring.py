"""How much of the answers a model gets right: teacher-forced accuracy and loss over the answers' tokens.

A token is right if it is the argmax of the logits one position before it. The first token of an example has
nothing before it, so it is never scored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float, Int, Integer
from torch import Tensor, nn

from engram_interp.answers.classifying import classified
from engram_interp.concepts.batches import Batch, Examples, any_batches, batches, encode_groups
from engram_interp.concepts.concept import Example
from engram_interp.concepts.data import DataBatch
from engram_interp.concepts.positions import after, before
from engram_interp.models import Adapter, LanguageAdapter, adapt, adapt_language
from engram_interp.models.exclusive import exclusive
from engram_interp.options import ANSWER, Read, Run, takes

ROWS = 512
"""Logits are computed for this many positions at a time: a vocabulary is wide, and a batch may hold many answers."""


@dataclass(frozen=True)
class Score:
    """How well a model says what a group of examples says.

    Attributes:
        accuracy: share of the answers' tokens that are the argmax, in [0, 1].
        loss: mean cross-entropy of these tokens, in nats.
        n_tokens: how many tokens that is.
    """

    accuracy: float
    loss: float
    n_tokens: int


@exclusive
@takes(Run)
def score(
    model: nn.Module,
    groups: Mapping[str, Sequence[Any]],
    *,
    eos: bool = True,
    run: Run,
) -> dict[str, Score]:
    """Accuracy and loss of every group of examples, in one pass over all of them.

    Args:
        model: the model to score.
        groups: examples by name, each as `Concept` takes them. The answer of a pair is scored, and every token of a
            string. Of a plain module, labelled batches, as the sides of `Concept.from_dataset`: an example counts as
            one token, right if its label has the largest output.
        eos: whether the end-of-sequence token follows every answer and is scored.

    Raises:
        ValueError: if no counted token of a group has another token before it.

    Example:
        >>> from engram_interp import testbed
        >>> facts = testbed.authors().world_examples
        >>> score(testbed.load("full"), {"world": facts})["world"].accuracy > 0.97
        True
    """
    adapter = adapt(model)
    return score_encoded(adapter, adapter.encode(groups, spoken(eos)), run)


def spoken(eos: bool) -> Read:
    """How examples are read to be scored: which positions count plays no part."""
    return Read(positions=ANSWER, eos=eos)


def score_encoded(adapter: Adapter, encoded: Mapping[str, Examples], run: Run) -> dict[str, Score]:
    """`score` on token examples."""
    return {group: pooled(group, total) for group, total in totals(adapter, encoded, run).items()}


@dataclass(frozen=True)
class ExampleScores:
    """How well a model says each example that has a counted token with another before it.

    Attributes:
        accuracy: `[example]`, share of counted tokens that are the argmax.
        loss: `[example]`, mean cross-entropy of the counted tokens, in nats.
    """

    accuracy: Float[Tensor, "example"]
    loss: Float[Tensor, "example"]


@exclusive
@takes(Run)
def example_scores(
    model: nn.Module,
    groups: Mapping[str, Sequence[Any]],
    *,
    eos: bool = True,
    run: Run,
) -> dict[str, ExampleScores]:
    """Accuracy and loss example by example; otherwise as `score`."""
    adapter = adapt(model)
    scores = {}
    for group, total in totals(adapter, adapter.encode(groups, spoken(eos)), run).items():
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


def totals(adapter: Adapter, encoded: Mapping[str, Examples], run: Run) -> dict[str, Float[Tensor, "example 3"]]:
    """For every example: how many tokens are right, the sum of their losses, and how many are scored."""
    found = {group: torch.zeros(len(examples), 3, dtype=torch.float64) for group, examples in encoded.items()}
    for batch in any_batches(encoded, run.batch_size, run.progress, "scoring"):
        if isinstance(batch, DataBatch):
            with torch.no_grad():
                scores = classified(adapter.outputs(batch), batch)
            groups, numbers = batch.groups, batch.numbers
        else:
            scores, groups, numbers = _measured(cast(LanguageAdapter, adapter), batch, _right_and_loss)
        for index, total in enumerate(found.values()):
            mine = groups == index
            total.index_add_(0, numbers[mine], scores[mine])
    return found


@dataclass(frozen=True)
class TokenScores:
    """What a model predicts at the counted tokens of one example, in their order.

    Attributes:
        log_probs: `[token]`, their log-probabilities in nats.
        ranks: `[token]`, how many tokens are more likely; 0 is the model's first choice.
        mean: `[token]`, the expected log-probability, `sum_v p_v log p_v`.
        variance: `[token]`, `sum_v p_v (log p_v)^2 - mean^2`.
    """

    log_probs: Float[np.ndarray, "token"]
    ranks: Integer[np.ndarray, "token"]
    mean: Float[np.ndarray, "token"]
    variance: Float[np.ndarray, "token"]


@exclusive
@takes(Run)
def token_scores(
    model: nn.Module,
    groups: Mapping[str, Sequence[Example]],
    *,
    eos: bool = True,
    run: Run,
) -> dict[str, list[TokenScores]]:
    """Every counted token of every example, in one pass over all of them; otherwise as `score`.

    Raises:
        ValueError: if no counted token of an example has another token before it, or logits are not numbers.

    Example:
        >>> from engram_interp import testbed
        >>> facts = {"facts": [("What is the capital of Norway?", "Oslo")]}
        >>> token_scores(testbed.load("full"), facts)["facts"][0].ranks.tolist()
        [0, 0]
    """
    adapter = adapt_language(model)
    encoded = encode_groups(groups, adapter.encoder, spoken(eos))
    found: dict[str, dict[int, TokenScores]] = {group: {} for group in encoded}
    names = list(encoded)
    for batch in batches(encoded, run.batch_size, run.progress, "scoring"):
        scores, which, numbers = _measured(adapter, batch, _distribution)
        # An example's tokens lie side by side.
        examples, sizes = torch.stack([which, numbers], dim=1).unique_consecutive(dim=0, return_counts=True)
        for (group, number), tokens in zip(examples.tolist(), scores.split(sizes.tolist()), strict=True):
            mine = tokens.numpy()
            if np.isnan(mine).any():
                raise ValueError(f"the logits of {adapter.info.name!r} are not numbers in {names[group]}[{number}]")
            found[names[group]][number] = TokenScores(mine[:, 0], mine[:, 1].astype(int), mine[:, 2], mine[:, 3])
    for group, examples in encoded.items():
        if missing := [i for i in range(len(examples)) if i not in found[group]]:
            raise ValueError(_nothing(f"{group}[{missing[0]}]"))
    return {group: [scores[i] for i in sorted(scores)] for group, scores in found.items()}


def pooled(group: str, totals: Float[Tensor, "example 3"]) -> Score:
    """The score of a group, over the tokens of all its examples.

    Raises:
        ValueError: if no token is scored; the message names the group.
    """
    right, loss, n_tokens = totals.sum(0).tolist()
    if not n_tokens:
        raise ValueError(_nothing(group))
    return Score(right / n_tokens, loss / n_tokens, int(n_tokens))


def _nothing(group: str) -> str:
    return f"nothing to score in {group}: no counted token has another token before it"


@torch.no_grad()
def _measured(
    adapter: LanguageAdapter, batch: Batch, measure: Measure
) -> tuple[Float[Tensor, "n measured"], Int[Tensor, "n"], Int[Tensor, "n"]]:
    """For every scored token: what `measure` gives, in float64; its group; and its example's number in the group."""
    producing = before(batch.scored)
    scored = after(producing)
    final, truth = adapter.final(batch, at=producing), batch.tokens[scored]
    found = []
    for rows, tokens in zip(final.split(ROWS), truth.split(ROWS), strict=True):
        logits = adapter.unembed(rows).float()
        if (tokens >= logits.shape[1]).any():
            raise ValueError(f"the model cannot say token {int(tokens.max())}: its output has {logits.shape[1]} tokens")
        found.append(measure(logits, tokens.to(logits.device)).double().cpu())
    groups, numbers = (of[:, None].expand_as(scored)[scored] for of in (batch.groups, batch.numbers))
    return torch.cat(found), groups, numbers


Measure = Callable[[Float[Tensor, "n d_vocab"], Int[Tensor, "n"]], Float[Tensor, "n measured"]]
"""From logits and the tokens that come next to some numbers for each token."""


def _right_and_loss(logits: Float[Tensor, "n d_vocab"], tokens: Int[Tensor, "n"]) -> Float[Tensor, "n 3"]:
    """Whether each token is the argmax, its loss, and a one."""
    loss = nn.functional.cross_entropy(logits, tokens, reduction="none")
    return torch.stack([(logits.argmax(-1) == tokens).to(loss), loss, torch.ones_like(loss)], dim=1)


def _distribution(logits: Float[Tensor, "n d_vocab"], tokens: Int[Tensor, "n"]) -> Float[Tensor, "n 4"]:
    """What `TokenScores` holds of each token."""
    log_probs = logits.log_softmax(-1)
    probs = log_probs.exp()
    said = log_probs.gather(-1, tokens[:, None])
    # Among equally likely tokens the first is the argmax, and comes before the others.
    earlier = torch.arange(logits.shape[1], device=logits.device) < tokens[:, None]
    ranks = ((log_probs > said) | ((log_probs == said) & earlier)).sum(-1)
    mean = -torch.special.entr(probs).sum(-1)
    # An impossible token has a log-probability of -inf and contributes nothing.
    deviations = torch.where(probs > 0, log_probs - mean[:, None], 0.0)
    variance = (probs * deviations**2).sum(-1)
    return torch.stack([said[:, 0], ranks.to(said), mean, variance], dim=1)
