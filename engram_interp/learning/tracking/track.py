"""Checkpoints + concepts -> how memories form while a model trains."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from engram_interp.common.arguments import whole
from engram_interp.common.progress import bar
from engram_interp.concepts.concept import Concept
from engram_interp.learning.tracking.checkpoints import Checkpoint, Source, sources
from engram_interp.learning.tracking.tracker import How, Tracker, UnlikeError, named
from engram_interp.learning.tracking.trajectory import Trajectory, assembled
from engram_interp.models.loading import as_language_model
from engram_interp.options import Compare, Run, Solve, Which, takes

logger = logging.getLogger("engram_interp")


@takes(Which, Solve, Run, Compare)
def track(
    checkpoints: Iterable[Checkpoint] | str | os.PathLike[str],
    concepts: Concept | Mapping[str, Concept] | Iterable[Concept],
    *,
    model: nn.Module | None = None,
    load: Callable[[Any], nn.Module] | None = None,
    tokenizer: Any = None,
    reuse_reference: int = 1,
    folder: str | os.PathLike[str] | None = None,
    which: Which,
    solve: Solve,
    run: Run,
    compare: Compare,
) -> Trajectory:
    """How memories form: maps, answers, overlaps and changes of engrams at each checkpoint of a training run.

    Checkpoints are loaded one at a time. One that cannot be read or measured is named in a warning and in `failed`, and
    the rest goes on.

    Args:
        checkpoints: models, folders, names, `.safetensors` files of weights, state dicts, functions that return a
            model, or `(step, one of these)`; or a folder that holds a folder or a file for each, as `checkpoint-500`.
            Without a step of its own, a checkpoint has the last number in its name, or its place.
        concepts: what to look for: a `Concept`, several, or concepts by name.
        model: the architecture of state dicts. They are loaded into copies.
        load: makes a model of a folder or a name. None is `load_model`.
        tokenizer: of Hugging Face models that are given as modules, which then read text as in their own class.
        reuse_reference: how many checkpoints the reference's statistics serve. Above 1, maps are compared with the
            analytic null, and where the statistics are taken anew, the error of the old ones is logged and written into
            `steps`. The last checkpoint's are its own, but for an iterator's, whose end nobody knows.
        folder: where results are kept as they are made. A track that was interrupted goes on there, and measures only
            what is missing. None keeps nothing.

    Raises:
        ValueError: if checkpoints differ in shapes or in how they read the examples, a step comes twice, none can be
            measured, `reuse_reference` meets a null of sets, or the folder holds another track.
        TypeError: if something is no checkpoint, or no concept.

    Example:
        >>> from engram_interp import testbed
        >>> concept = testbed.authors().concept("Petra Dorlund")
        >>> steps = [(step, lambda name=name: testbed.load(name)) for step, name in enumerate(["base", "full"])]
        >>> found = track(steps, concept, null="analytic", components="gate")
        >>> found.formation()["learned"].tolist()
        [1]
    """
    reuse = whole(reuse_reference, "reuse_reference", at_least=1)
    if reuse > 1 and (compare.null not in (None, "analytic") or compare.groups is not None or compare.gradient):
        raise ValueError(
            f"a reference that is kept holds no single examples: with reuse_reference={reuse} null must be 'analytic'; "
            f"got {compare.null or 'siblings'!r}"
        )
    tracker = Tracker(named(concepts), How(which, solve, run, compare, reuse), None if folder is None else Path(folder))
    given = sources(checkpoints, model, load)
    # Only who keeps a reference must know which checkpoint is the last, before the next is made.
    ends = reuse > 1 and (isinstance(checkpoints, (str, os.PathLike)) or hasattr(checkpoints, "__len__"))
    walked = _with_last(given) if ends else ((one, False) for one in given)
    for source, is_last in bar(walked, run.progress, "tracking", "checkpoint", _known_length(checkpoints)):
        mark = None if folder is None else source.mark()
        if not tracker.has(source.step, mark):
            _measure(tracker, source, mark, tokenizer, is_last)
        source.drop()
    return assembled(tracker.files, tracker.failed)


def _measure(tracker: Tracker, source: Source, mark: str | None, tokenizer: Any, is_last: bool) -> None:
    """Load a checkpoint and measure it; what cannot be is left out, whatever a library raises."""
    try:
        model = as_language_model(source.taken(), tokenizer)
        tracker.measure(model, source.step, source.name, mark, is_last)
    except UnlikeError:
        raise
    except Exception as error:
        tracker.fail(source.name, error)


def _with_last(given: Iterator[Source]) -> Iterator[tuple[Source, bool]]:
    """Every source, and whether it is the last."""
    waiting = next(given, None)
    while waiting is not None:
        one, waiting = waiting, next(given, None)
        yield one, waiting is None


def _known_length(checkpoints: Any) -> int | None:
    return len(checkpoints) if hasattr(checkpoints, "__len__") and not isinstance(checkpoints, str) else None
