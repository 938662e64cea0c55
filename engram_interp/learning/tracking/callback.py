"""Memories while a model trains: a callback for Hugging Face's `Trainer` and for a bare loop, off the training path.

Gradients, optimizer, random state and the order of data stay as they are, so a run ends with the same bits as without
it. What it costs is counted, and held below a share of the training time by leaving measurements out.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import nn
from transformers import TrainerCallback

from engram_interp.common.arguments import number, whole
from engram_interp.common.randomness import unchanged_randomness
from engram_interp.concepts.concept import Concept
from engram_interp.learning.tracking.running import Belongs, RunningMoments
from engram_interp.learning.tracking.tracker import How, Tracker, named
from engram_interp.learning.tracking.trajectory import Trajectory, assembled
from engram_interp.models.evaluation import evaluation_mode
from engram_interp.models.loading import as_language_model
from engram_interp.options import Compare, Run, Solve, Which, takes
from engram_interp.statistics.sharing.ranks import Ranks

logger = logging.getLogger("engram_interp")

FIRST = 3
"""So many batches are read in any case: the first shows what matrices read, and the next ones what reading takes."""


class EngramCallback(TrainerCallback):
    """Tracks concepts while a model trains; `trajectory` has what was found.

    With `Trainer` give it as one of `callbacks`. In a bare loop call `step(model, step)` after every step, and
    `finish(model, step)` at the end.

    Args:
        concepts: a `Concept`, several, or concepts by name. They go through the model apart, in evaluation mode.
        every: a measurement is due every so many steps.
        max_share: how much of the training time measurements may take. One that would exceed it is left out, going by
            what the last one took. The first due one is always taken, since nobody knows yet what it takes, and so is
            the one at the end, which is after training.
        tokenizer: how a Hugging Face model reads text. None takes the trainer's. A model without one is read as a plain
            module, whose concepts are batches.
        folder: where results are kept as they are made. None keeps them until the callback goes.

    Attributes:
        skipped: the steps whose measurement was left out.

    Raises:
        ValueError: if `every` is below 1, or `max_share` is not above 0.

    Example:
        >>> import torch
        >>> from engram_interp import testbed
        >>> model, concept = testbed.load("base"), testbed.authors().concept("Petra Dorlund")
        >>> tracker = EngramCallback(concept, every=2, components="gate", null="analytic")
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> for step in range(1, 3):
        ...     model(torch.arange(9)[None], return_type="loss").backward()
        ...     optimizer.step()
        ...     tracker.step(model, step)
        >>> tracker.trajectory.steps["step"].tolist()
        [2]
    """

    @takes(Which, Solve, Run, Compare)
    def __init__(
        self,
        concepts: Concept | Mapping[str, Concept] | Iterable[Concept],
        every: int = 100,
        *,
        max_share: float | int = 0.05,
        tokenizer: Any = None,
        folder: str | os.PathLike[str] | None = None,
        which: Which,
        solve: Solve,
        run: Run,
        compare: Compare,
    ) -> None:
        self._every, self._max_share = whole(every, "every", at_least=1), number(max_share, "max_share")
        if self._max_share <= 0:
            raise ValueError(f"max_share must be above 0, a share of the training time; got {max_share}")
        self._tokenizer = tokenizer
        self._tracker = Tracker(
            named(concepts), How(which, solve, run, compare), None if folder is None else Path(folder)
        )
        self.skipped: list[int] = []
        self._begin(None)

    def _begin(self, at: int | None) -> None:
        """A training begins, after so many steps; None if nobody knows yet.

        Raises:
            ValueError: if the folder holds later steps, of another training.
        """
        self._began: float | None = None if at is None else time.perf_counter()
        self._ended: float | None = None
        self._measuring, self._last_cost, self._last_step = 0.0, 0.0, -1
        later = [] if at is None else [step for step in self._tracker.steps if step > at]
        if later:
            raise ValueError(
                f"{self._tracker.folder} holds steps of another training, up to {later[-1]}: give another folder"
            )

    @property
    def _spent(self) -> float:
        """How many seconds went into measurements while the model trained."""
        return self._measuring

    @property
    def trajectory(self) -> Trajectory:
        """What was found so far."""
        return assembled(self._tracker.files, self._tracker.failed)

    @property
    def share(self) -> float:
        """How much time measurements have taken while the model trained, as a share of the time of training alone."""
        training = self._training
        return self._spent / training if training > 0 else 0.0

    @property
    def _training(self) -> float:
        """How many seconds training has taken alone, until it ended."""
        if self._began is None:
            return 0.0
        return (time.perf_counter() if self._ended is None else self._ended) - self._began - self._spent

    def step(self, model: nn.Module, step: int, tokenizer: Any = None) -> None:
        """Say that a step of training was taken. A measurement that is due, and may be taken, is taken.

        Args:
            model: the model that trains.
            step: how many steps were taken.
            tokenizer: see `EngramCallback`.
        """
        if self._began is None or self._ended is not None:
            self._begin(step - 1)
        if step % self._every or step == self._last_step:
            return
        if Ranks.here().from_first(not self._may_measure()):
            self.skipped.append(step)
            return
        self._measure(model, step, tokenizer)
        self._measuring += self._last_cost

    def finish(self, model: nn.Module, step: int, tokenizer: Any = None) -> None:
        """Measure the model at the end of training, unless its last step was measured, and say what all took."""
        self._ended = time.perf_counter()
        logger.info(
            "tracking took %.1f %% of the training time, and left %d measurements out",
            100 * self.share, len(self.skipped),
        )  # fmt: skip
        if step != self._last_step:
            self._measure(model, step, tokenizer)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called by `Trainer`."""
        del args, control, kwargs
        self._begin(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called by `Trainer`."""
        del args, control
        self.step(kwargs["model"], state.global_step, kwargs.get("processing_class"))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called by `Trainer`."""
        del args, control
        self.finish(kwargs["model"], state.global_step, kwargs.get("processing_class"))

    def _may_measure(self) -> bool:
        """Whether one more measurement stays within the share of the training time."""
        return not self._last_cost or self._spent + self._last_cost <= self._max_share * self._training

    def _measure(self, model: nn.Module, step: int, tokenizer: Any) -> None:
        began = time.perf_counter()
        _require_whole(model)
        with unchanged_randomness(), evaluation_mode(model.modules()):
            try:
                self._measure_now(model, step, self._tokenizer if self._tokenizer is not None else tokenizer)
            except Exception as error:  # whatever goes wrong here, training goes on
                self._tracker.fail(f"step {step}", error)
        self._last_step, self._last_cost = step, time.perf_counter() - began

    def _measure_now(self, model: nn.Module, step: int, tokenizer: Any) -> None:
        self._tracker.measure(as_language_model(model, tokenizer), step, f"step {step}")


class StreamingEngramCallback(EngramCallback):
    """Tracks concepts by the training batches themselves, of which nothing is passed through twice.

    The moments of every input fade: a batch counts for half after `half_life` batches that are read. Batches are left
    out too, so that reading and measuring take at most `max_share` of the training time. Maps are compared with the
    analytic null, and there are no answers.

    Args:
        model: the model that trains, a plain module, as a Hugging Face model is.
        belongs: by concept, a function of what the model is called with that returns booleans, `[batch pos]` or
            `[batch]`: what belongs to it. Everything else that counts is its reference.
        every, max_share, folder: see `EngramCallback`.
        counts: a function of what the model is called with: what counts at all. None counts `attention_mask`.
        half_life: in batches.

    Example:
        >>> import torch
        >>> from engram_interp import testbed
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> tracker = StreamingEngramCallback(net, {"positive": lambda x: x[:, 0] > 0}, every=8, half_life=4)
        >>> for step in range(1, 9):
        ...     _ = net.train()(torch.randn(16, 4))
        ...     tracker.step(net, step)
        >>> tracker.trajectory.steps["step"].tolist()
        [8]
    """

    @takes(Which, Solve, Run)
    def __init__(
        self,
        model: nn.Module,
        belongs: Mapping[str, Belongs],
        every: int = 100,
        *,
        counts: Belongs | None = None,
        half_life: float | int = 50,
        max_share: float | int = 0.05,
        folder: str | os.PathLike[str] | None = None,
        which: Which,
        solve: Solve,
        run: Run,
    ) -> None:
        if not belongs:
            raise ValueError("belongs must hold one concept or more; got none")
        options = {**vars(which), **vars(solve), **vars(run), "null": "analytic"}
        nothing = Concept(["nothing is passed through"], ["twice"])
        super().__init__(dict.fromkeys(belongs, nothing), every, max_share=max_share, folder=folder, **options)
        self._moments = RunningMoments(model, belongs, counts, half_life, which, self._may_read)

    @property
    def _spent(self) -> float:
        return self._measuring + self._moments.seconds

    def _may_read(self) -> bool:
        """Whether reading one more batch stays within the share of the training time; the first ones are read."""
        n = self._moments.n_batches
        cost = self._moments.seconds / n if n else 0.0
        return n < FIRST or self._spent + cost <= self._max_share * self._training

    def _measure_now(self, model: nn.Module, step: int, tokenizer: Any) -> None:
        del tokenizer
        found = {name: self._moments.statistics(name) for name in self._tracker.concepts}
        self._tracker.measure_statistics(model, step, f"step {step}", found)

    def finish(self, model: nn.Module, step: int, tokenizer: Any = None) -> None:
        """Measure the model at the end of training, and read no more."""
        super().finish(model, step, tokenizer)
        self._moments.remove()


def _require_whole(model: nn.Module) -> None:
    """Check that this process has all of the model's parameters.

    Raises:
        RuntimeError: if they are sharded over processes.
    """
    for name, parameter in model.named_parameters():
        if not parameter.numel() or type(parameter.data).__name__ == "DTensor":
            raise RuntimeError(
                f"{name} is sharded over processes, so its engram cannot be taken while the model trains: track the "
                f"checkpoints that it writes"
            )
