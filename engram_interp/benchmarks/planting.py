"""Train a memory into chosen matrices of a model, so that nothing but the memory tells where it is.

All other weights are frozen. Old examples are rehearsed beside the new ones, so that the place is not where old things
broke. What is trained of a matrix keeps its Frobenius norm, step by step, so that the place is not where weights grew.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from engram_interp.answers.loss import answer_loss
from engram_interp.answers.scoring import score_encoded
from engram_interp.concepts.batches import Batch, batches, encode_groups
from engram_interp.concepts.concept import Example, TokenExample
from engram_interp.models import LanguageAdapter, adapt_language
from engram_interp.models.exclusive import exclusive
from engram_interp.models.gradients import masks
from engram_interp.options import Read, Run, takes

logger = logging.getLogger("engram_interp")


@dataclass(frozen=True)
class Schedule:
    """How long and how fast a memory is trained.

    Attributes:
        learning_rate: of AdamW.
        batch_size: examples in a step, half of them old.
        max_epochs: passes over the new examples, at most.
        learnt: the share of the new answers' tokens that are right when training ends.
    """

    learning_rate: float = 2e-3
    batch_size: int = 64
    max_epochs: int = 60
    learnt: float = 0.97


@exclusive
@takes(Run)
def plant(
    model: nn.Module,
    new: Sequence[Example],
    old: Sequence[Example],
    where: Collection[str] | Mapping[str, Bool[Tensor, "..."]],
    *,
    seed: int = 0,
    schedule: Schedule | None = None,
    run: Run,
) -> nn.Module:
    """A copy of the model that has learnt new examples in chosen matrices, or parts of them, alone.

    A warning is logged if they are not learnt in time.

    Args:
        model: what learns. It is left as it was.
        new: the memory.
        old: what the model knows already; as many of it as there are new examples are rehearsed in each epoch.
        where: matrices, such as `blocks.1.mlp.W_in`; or masks by matrix, of its heads, `[head]`, or of its weights, in
            the weight's own shape.
        seed: of the order.
        schedule: how long and how fast. None takes the default.

    Raises:
        ValueError: if a key is none of the model's weights, a mask does not fit its weight, or nothing is chosen.

    Example:
        >>> import engram_interp as ei
        >>> model, corpus = ei.testbed.load("full"), ei.testbed.authors()
        >>> schedule = ei.benchmarks.planting.Schedule(max_epochs=1)
        >>> new, old = corpus.holdout[0].examples, corpus.full[0].examples
        >>> planted = plant(model, new, old, ["blocks.1.mlp.W_in"], schedule=schedule)
    """
    schedule = schedule or Schedule()
    twin = adapt_language(model).copy()
    adapter = adapt_language(twin)
    parts = _parts(adapter, where)
    trained = masks(adapter, parts)
    encoded = encode_groups({"new": new, "old": old}, adapter.encoder, Read())
    rng = random.Random(seed)
    twin.requires_grad_(False)
    norms = {key: adapter.parameter(key).detach()[part].norm() for key, part in parts.items()}
    optimizer = torch.optim.AdamW(
        [one.requires_grad_(True) for one in trained], lr=schedule.learning_rate, betas=(0.9, 0.98), weight_decay=0.0
    )
    accuracy = 0.0
    for _ in range(schedule.max_epochs):
        for batch in _epoch(encoded["new"], encoded["old"], schedule.batch_size, rng):
            with torch.enable_grad():
                answer_loss(adapter, batch, "mean").backward()
            _leave_alone_what_is_not(trained)
            optimizer.step()
            optimizer.zero_grad()
            _keep_norms(adapter, parts, norms)
        accuracy = score_encoded(adapter, {"new": encoded["new"]}, run)["new"].accuracy
        if accuracy >= schedule.learnt:
            break
    else:
        logger.warning(
            "after %d epochs %.1f %% of the new answers' tokens are right, less than the %.1f %% that count as learnt",
            schedule.max_epochs, 100 * accuracy, 100 * schedule.learnt,
        )  # fmt: skip
    return twin.requires_grad_(False)


def _parts(adapter: LanguageAdapter, where: Collection[str] | Mapping[str, Tensor]) -> dict[str, Bool[Tensor, "..."]]:
    """Which entries of each weight are trained. Weights of which none is are left out.

    Raises:
        ValueError: if a mask does not fit its weight, or nothing is chosen.
    """
    found = {}
    for key in where:
        weight = adapter.parameter(key)
        mask = where[key] if isinstance(where, Mapping) else torch.tensor(True)
        if mask.shape not in (torch.Size(), weight.shape[:1], weight.shape):
            raise ValueError(
                f"the mask of {key} must have the shape {list(weight.shape[:1])} or {list(weight.shape)}; "
                f"got {list(mask.shape)}"
            )
        if mask.any():
            found[key] = mask.reshape(mask.shape + (1,) * (weight.ndim - mask.ndim)).expand(weight.shape)
    if not found:
        raise ValueError("where must choose one matrix or more to plant a memory in; got none")
    return found


def _epoch(
    new: Sequence[TokenExample], old: Sequence[TokenExample], batch_size: int, rng: random.Random
) -> Iterator[Batch]:
    """Every new example once, with as many old ones, in random order."""
    examples = [*new, *rng.sample(old, min(len(old), len(new)))]
    rng.shuffle(examples)
    for start in range(0, len(examples), batch_size):
        yield from batches({"train": examples[start : start + batch_size]}, batch_size, progress=False, describe="")


def _leave_alone_what_is_not(trained: dict[nn.Parameter, Tensor]) -> None:
    for parameter, mask in trained.items():
        if parameter.grad is not None:
            parameter.grad *= mask


@torch.no_grad()
def _keep_norms(adapter: LanguageAdapter, parts: dict[str, Tensor], norms: dict[str, Tensor]) -> None:
    for key, part in parts.items():
        weight = adapter.parameter(key)
        weight.copy_(torch.where(part, weight * (norms[key] / weight[part].norm()), weight))
