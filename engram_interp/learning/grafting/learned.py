"""`gamma = sigmoid(s)`: the mask that a gradient finds, as the reference for masks in closed form.

Panigrahi et al. (2023, arXiv 2302.06600): a real number for each entry, and the loss of the grafted model
`W_0 + sigmoid(s) * Delta` on the memory's answers. Here the masks' mean is held at the share of entries that may be
grafted, by a shift of all `s` after each step, and the `k` largest are grafted.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack

import torch
from jaxtyping import Float
from torch import Tensor

from engram_interp.answers.loss import answer_loss
from engram_interp.common.progress import bar
from engram_interp.concepts.batches import AnyBatch, Examples, any_batches
from engram_interp.learning.grafting.difference import Difference
from engram_interp.models import Adapter
from engram_interp.models.evaluation import evaluation_mode
from engram_interp.models.gradients import backward, holders
from engram_interp.options import Run

RATE = 0.1
"""The learning rate of Adam on `s`."""
SURE = 4.0
"""`s` begins at this much for the entries that change most, and at this much below 0 for the others."""


def learned_scores(
    base: Adapter, change: Difference, target: Examples, share: float, steps: int, run: Run
) -> dict[str, Float[Tensor, "..."]]:
    """`s` of every entry of the matrices, after training for a graft of this share.

    Args:
        base: a copy of the model before, which is written into.
        change: `W - W_0`.
        target: the memory's examples.
        share: of all entries that may be grafted.
        steps: how many steps are taken.
        run: how examples go through the model.
    """
    n_mask = sum(one.numel() for one in change.matrices.values())
    mean = min(1.0, share * change.n_entries / n_mask)
    s = _begun(change.matrices, mean)
    if mean in (0.0, 1.0):
        return s
    originals = {key: base.parameter(key).detach().clone() for key in s}
    trained = [key for key, some in holders(base, s).items() if some]
    optimizer = torch.optim.Adam(list(s.values()), lr=RATE)
    batches = itertools.cycle(list(any_batches({"target": target}, run.batch_size, False, "")))
    with ExitStack() as stack:
        stack.enter_context(evaluation_mode(base.named_modules().values()))
        for batch in bar(itertools.islice(batches, steps), run.progress, "learning a mask", "step", steps):
            _write(base, originals, change, s)
            for one in s.values():
                one.grad = torch.zeros_like(one)
            backward(base, trained, _loss(base, batch), _adding(s, change))
            optimizer.step()
            _shift(s.values(), mean)
    with torch.no_grad():
        for key, original in originals.items():
            base.parameter(key).copy_(original)
    return s


def _begun(changes: Mapping[str, Tensor], mean: float) -> dict[str, Float[Tensor, "..."]]:
    """`s` at first: sure of the entries that change most."""
    flat = torch.cat([one.flatten().abs() for one in changes.values()])
    k = int(mean * len(flat) + 0.5)
    least = flat.kthvalue(len(flat) - k + 1).values if k else flat.new_tensor(torch.inf)
    return {key: torch.where(one.abs() >= least, SURE, -SURE).float() for key, one in changes.items()}


@torch.no_grad()
def _write(base: Adapter, originals: Mapping[str, Tensor], change: Difference, s: Mapping[str, Tensor]) -> None:
    for key, original in originals.items():
        base.parameter(key).copy_(original + (s[key].sigmoid() * change.matrices[key]).to(original))


def _loss(base: Adapter, batch: AnyBatch) -> Callable[[], Tensor]:
    return lambda: answer_loss(base, batch, "mean")


def _adding(s: Mapping[str, Tensor], change: Difference) -> Callable[[str, Tensor], None]:
    """`dL/ds = dL/dW * Delta * gamma (1 - gamma)`, added to what there is."""

    def add(key: str, gradient: Tensor) -> None:
        gamma, grad = s[key].sigmoid(), s[key].grad
        assert grad is not None
        grad.add_((gradient * change.matrices[key].to(gradient)).to(gamma) * gamma * (1 - gamma))

    return add


def _shift(every: Iterable[Tensor], mean: float, rounds: int = 30) -> None:
    """Add the number to all `s` that makes the mean of `sigmoid(s)` what it should be, found by bisection."""
    flat = torch.cat([one.flatten() for one in every])
    low, high = -30.0, 30.0
    for _ in range(rounds):
        middle = (low + high) / 2
        low, high = (low, middle) if float((flat + middle).sigmoid().mean()) > mean else (middle, high)
    for one in every:
        one.add_((low + high) / 2)
