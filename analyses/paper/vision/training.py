"""How are classifiers trained and scored here? SGD with momentum 0.9, weight decay 5e-4, batches of 128 (App. B.4)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from engram_interp.unlearning.metrics import class_accuracies

BATCH = 128


def shuffled(n: int, generator: torch.Generator, batch: int = BATCH) -> Iterator[Tensor]:
    """The numbers of examples, batch by batch, in random order."""
    yield from torch.randperm(n, generator=generator).split(batch)


def fit(
    model: nn.Module,
    data: TensorDataset,
    epochs: int,
    rate: float,
    seed: int,
    loss: Callable[..., Tensor] | None = None,
) -> nn.Module:
    """Train a classifier in place, with a rate that falls to zero along a cosine.

    Args:
        model: the classifier.
        data: pictures and labels.
        epochs: passes over them.
        rate: the highest learning rate.
        seed: of the order.
        loss: takes the model, pictures and labels. None is cross-entropy.
    """
    x, y = data.tensors
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rate, total_steps=epochs * -(-len(x) // BATCH) + 1, pct_start=0.15
    )
    loss = loss or (lambda model, x, y: nn.functional.cross_entropy(model(x), y))
    device = next(model.parameters()).device
    model.train()
    for _ in range(epochs):
        for some in shuffled(len(x), generator):
            if len(some) < 2:  # a batch norm needs two examples
                continue
            optimizer.zero_grad()
            loss(model, x[some].to(device), y[some].to(device)).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            schedule.step()
    return model.eval()


@torch.no_grad()
def outputs(model: Callable[[Tensor], Tensor], x: Tensor, device: torch.device | str = "cpu") -> Tensor:
    """What a model, or a part of one, makes of pictures."""
    return torch.cat([model(some.to(device)).cpu() for some in x.split(1024)])


def accuracy(model: nn.Module, data: TensorDataset) -> float:
    """The share of examples that are right."""
    x, y = data.tensors
    return float((outputs(model, x, _device(model)).argmax(1) == y).double().mean())


def by_class(model: nn.Module, data: TensorDataset, n_classes: int) -> np.ndarray:
    """Accuracy by class."""
    x, y = data.tensors
    return class_accuracies(outputs(model, x, _device(model)).argmax(1).numpy(), y.numpy(), n_classes)


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def only(data: TensorDataset, classes: Sequence[int], keep: bool = True) -> TensorDataset:
    """The examples of these classes, or all others."""
    x, y = data.tensors
    mine = torch.isin(y, torch.tensor(list(classes)))
    mine = mine if keep else ~mine
    return TensorDataset(x[mine], y[mine])


def copied(model: nn.Module) -> nn.Module:
    """A copy that shares nothing with the model."""
    return copy.deepcopy(model)
