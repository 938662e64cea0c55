"""How are classes unlearned by training? The paper's baselines for classifiers, with Table 5's search spaces.

Fine-tune (Warnecke et al. 2023), NegGrad (Thudi et al. 2022), NegGrad+ (Kurmanji et al. 2023), l1-sparse (Jia et al.
2023), Random Label (Golatkar et al. 2020) and SalUn (Fan et al. 2024), as App. B.4.1 states their losses.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from analyses.paper.vision.training import BATCH, copied, shuffled

RATES = (0.1, 0.01, 0.001, 5e-4, 3e-4, 1e-4, 5e-5)


@dataclass(frozen=True)
class Job:
    """What is unlearned.

    Attributes:
        model: the trained classifier. It stays as it is.
        forget: the examples to forget.
        retain: the examples to keep.
        n_classes: how many classes there are.
        seed: of the order and of random labels.
    """

    model: nn.Module
    forget: TensorDataset
    retain: TensorDataset
    n_classes: int
    seed: int


Loss = Callable[[nn.Module, tuple[Tensor, Tensor] | None, tuple[Tensor, Tensor] | None], Tensor]


@dataclass(frozen=True)
class Baseline:
    """A method, and the grid of its hyperparameters.

    Attributes:
        loss: makes the loss of a batch to forget and a batch to keep, from the job and the hyperparameters.
        uses_forget: whether it is trained on what is forgotten.
        uses_retain: whether it is trained on what is kept.
        grid: the values of its own hyperparameters, by name.
        epochs: numbers of epochs to try.
        masks: whether only salient parameters move.
    """

    loss: Callable[..., Loss]
    uses_forget: bool
    uses_retain: bool
    grid: dict[str, tuple[float, ...]] = field(default_factory=dict)
    epochs: tuple[int, ...] = (10,)
    masks: bool = False

    @property
    def candidates(self) -> list[dict[str, Any]]:
        """Every combination of hyperparameters."""
        values = itertools.product(RATES, self.epochs, *self.grid.values())
        return [dict(zip(("rate", "epochs", *self.grid), one, strict=True)) for one in values]


def _cross_entropy(model: nn.Module, batch: tuple[Tensor, Tensor] | None) -> Tensor:
    assert batch is not None
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def _fine_tune(_job: Job) -> Loss:
    return lambda model, _forget, retain: _cross_entropy(model, retain)


def _neg_grad(_job: Job) -> Loss:
    return lambda model, forget, _retain: -_cross_entropy(model, forget)


def _neg_grad_plus(_job: Job, beta: float) -> Loss:
    return lambda model, forget, retain: (
        beta * _cross_entropy(model, retain) - (1 - beta) * _cross_entropy(model, forget)
    )


def _l1_sparse(_job: Job, gamma: float) -> Loss:
    def loss(model: nn.Module, _forget: Any, retain: tuple[Tensor, Tensor] | None) -> Tensor:
        size = sum((one.abs().sum() for one in model.parameters()), torch.zeros(()))
        return _cross_entropy(model, retain) + gamma * size

    return loss


def _random_label(job: Job, **_options: float) -> Loss:
    generator = torch.Generator().manual_seed(job.seed)

    def loss(model: nn.Module, forget: tuple[Tensor, Tensor] | None, retain: tuple[Tensor, Tensor] | None) -> Tensor:
        assert forget is not None
        x, y = forget
        shift = torch.randint(1, job.n_classes, y.shape, generator=generator).to(y.device)
        return _cross_entropy(model, retain) + _cross_entropy(model, (x, (y + shift) % job.n_classes))

    return loss


BASELINES = {
    "Fine-tune": Baseline(_fine_tune, False, True),
    "l1-sparse": Baseline(_l1_sparse, False, True, {"gamma": (1e-6, 1e-5, 1e-4)}),
    "NegGrad": Baseline(_neg_grad, True, False),
    "NegGrad+": Baseline(_neg_grad_plus, True, True, {"beta": (0.99,)}, (5, 10)),
    "Random Label": Baseline(_random_label, True, True),
    "SalUn": Baseline(_random_label, True, True, {"sparsity": (0.5,)}, masks=True),
}


def unlearned(job: Job, method: Baseline, rate: float, epochs: int, **options: float) -> nn.Module:
    """A copy of the model that is trained to forget."""
    model = copied(job.model).train()
    loss = method.loss(job, **options)
    mask = _salient(job, options["sparsity"]) if method.masks else None
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9, weight_decay=5e-4)
    before = [one.detach().clone() for one in model.parameters()]
    for forget, retain in _steps(job, method, epochs):
        optimizer.zero_grad()
        loss(model, forget, retain).backward()
        optimizer.step()
        if mask is not None:
            _put_back(model, before, mask)
    return model.eval()


def _salient(job: Job, sparsity: float) -> list[Tensor]:
    """Which entries may move: the share `1 - sparsity` with the largest gradient on what is forgotten."""
    model = copied(job.model).eval()
    x, y = job.forget.tensors
    device = next(model.parameters()).device
    nn.functional.cross_entropy(model(x.to(device)), y.to(device)).backward()
    sizes = [torch.zeros_like(one) if one.grad is None else one.grad.abs() for one in model.parameters()]
    every = torch.cat([one.flatten() for one in sizes])
    cut = every.sort().values[min(int(sparsity * len(every)), len(every) - 1)]
    return [one >= cut for one in sizes]


@torch.no_grad()
def _put_back(model: nn.Module, before: list[Tensor], mask: list[Tensor]) -> None:
    for one, old, moves in zip(model.parameters(), before, mask, strict=True):
        one.copy_(torch.where(moves, one, old))


def _steps(job: Job, method: Baseline, epochs: int) -> Iterator[tuple[Any, Any]]:
    """Batches to forget and to keep; an epoch is a pass over the larger of what is used."""
    generator = torch.Generator().manual_seed(job.seed)
    device = next(job.model.parameters()).device
    for _ in range(epochs):
        retain = list(shuffled(len(job.retain), generator)) if method.uses_retain else None
        forget = list(shuffled(len(job.forget), generator, BATCH)) if method.uses_forget else None
        n = len(retain if retain is not None else forget or [])
        for i in range(n):
            yield _batch(job.forget, forget, i, device), _batch(job.retain, retain, i, device)


def _batch(
    data: TensorDataset, order: list[Tensor] | None, i: int, device: torch.device
) -> tuple[Tensor, Tensor] | None:
    if order is None:
        return None
    some = order[i % len(order)]
    some = some if len(some) > 1 else some.repeat(2)  # a batch norm needs two examples
    return data.tensors[0][some].to(device), data.tensors[1][some].to(device)
