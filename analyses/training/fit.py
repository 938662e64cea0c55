"""How is a model trained here? AdamW with linear warm-up and decay, and the loss over answer tokens, as in TOFU."""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from typing import TypeVar

import torch
from torch import nn
from tqdm.auto import tqdm

from engram_interp.concepts.batches import Batch, batches
from engram_interp.concepts.concept import TokenExample

Step = TypeVar("Step")


@dataclass(frozen=True)
class Schedule:
    """How long, how fast and in which order.

    Attributes:
        epochs: passes over the examples.
        learning_rate: the highest learning rate.
        batch_size: examples in a step.
        seed: the seed of the order.
    """

    epochs: int
    learning_rate: float = 2e-3
    batch_size: int = 64
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.98)
    warm_up: float = 0.05
    max_grad_norm: float = 1.0
    seed: int = 0

    def n_steps(self, n_examples: int) -> int:
        return self.epochs * ceil(n_examples / self.batch_size)

    def rate_at(self, progress: float) -> float:
        """The share of the learning rate: linear warm-up, then linear decay to zero. `progress` runs from 0 to 1."""
        return min(progress / self.warm_up, 1.0) * (1.0 - progress)

    def shuffled(self, examples: Sequence[TokenExample]) -> Iterator[Batch]:
        """Every example once in each epoch, in random order."""
        rng = random.Random(self.seed)
        for _ in range(self.epochs):
            yield from shuffled_batches(examples, self.batch_size, rng)


def shuffled_batches(examples: Sequence[TokenExample], batch_size: int, rng: random.Random) -> Iterator[Batch]:
    """Every example once, in random order."""
    order = rng.sample(examples, len(examples))
    for start in range(0, len(order), batch_size):
        yield from batches({"train": order[start : start + batch_size]}, batch_size, progress=False, describe="")


def fit(
    parameters: Sequence[torch.Tensor],
    steps: Iterable[Step],
    n_steps: int,
    loss: Callable[[Step], torch.Tensor],
    schedule: Schedule,
    name: str,
) -> None:
    """Take one optimizer step for each of `steps`, on its loss."""
    optimizer = torch.optim.AdamW(
        parameters, lr=schedule.learning_rate, betas=schedule.betas, weight_decay=schedule.weight_decay
    )
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: schedule.rate_at(step / n_steps))
    for step in tqdm(steps, total=n_steps, desc=name, disable=None):
        optimizer.zero_grad()
        loss(step).backward()
        torch.nn.utils.clip_grad_norm_(parameters, schedule.max_grad_norm)
        optimizer.step()
        rate.step()


def answer_logits(logits_of: Callable[[torch.Tensor], torch.Tensor], batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """The logits that predict the tokens that count, `[n d_vocab]`, and these tokens."""
    counts = batch.scored[:, 1:]
    logits = logits_of(batch.tokens)[:, :-1][counts]
    return logits, batch.tokens[:, 1:][counts].to(logits.device)


def answer_loss(logits_of: Callable[[torch.Tensor], torch.Tensor], batch: Batch) -> torch.Tensor:
    """Mean cross-entropy of the tokens that count."""
    return nn.functional.cross_entropy(*answer_logits(logits_of, batch))


def fit_answers(
    parameters: Sequence[torch.Tensor],
    logits_of: Callable[[torch.Tensor], torch.Tensor],
    examples: Sequence[TokenExample],
    schedule: Schedule,
    name: str,
) -> None:
    """Train on the examples' answers."""
    n_steps = schedule.n_steps(len(examples))
    fit(parameters, schedule.shuffled(examples), n_steps, lambda batch: answer_loss(logits_of, batch), schedule, name)
