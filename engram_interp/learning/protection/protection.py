"""Training that leaves memories alone: every step of an optimizer loses what it does to the inputs that are kept.

Steps are seen by torch's hooks around `Optimizer.step`, so whatever an optimizer does with gradients (momentum,
scaling, weight decay) is projected too. Gradients and the optimizer's state stay as they are.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.optim.optimizer import (
    Optimizer,
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from engram_interp.learning.protection.kept import COUNTED, EVERY, Keepable, kept_of, token_shares
from engram_interp.learning.protection.projections import Projection, projections_of
from engram_interp.linalg import filters
from engram_interp.linalg.filters import Function, require_filter, values_of
from engram_interp.models import Adapter, LanguageAdapter, adapt
from engram_interp.models.exclusive import exclusive
from engram_interp.models.gradients import holders
from engram_interp.models.memory import share_memory
from engram_interp.models.sites import parameter_paths
from engram_interp.options import Cut, Run, Solve, Which, takes

logger = logging.getLogger("engram_interp")

LEAST_SHARE = 1e-6
"""A direction of which what is kept owns more than this is kept whole, by default."""
HALF = (torch.float16, torch.bfloat16)
LEAST_FREE = 0.5
"""An input with fewer free directions than this has none."""
EVERYTHING = filters.hard(LEAST_SHARE)


@exclusive
@takes(Which, Cut, Run)
def protect(
    model: nn.Module,
    engrams: Keepable | Iterable[Keepable],
    *,
    filter: Function = EVERYTHING,
    positions: str = EVERY,
    which: Which,
    cut: Cut,
    run: Run,
) -> Protection:
    """Keeps memories while the model learns something else: for the length of a `with` block, or until `remove`.

    Every step that an optimizer takes is projected: `W - W_before` becomes `(W - W_before)(I - g(P+))`, with `P+` of
    everything that is kept. Embeddings change by as much less as what is kept owns of a token. Everything else is
    frozen: norms, biases that are zero, matrices that are not asked for. So nothing moves what the model says of what
    is kept. Entries of a graft are frozen, and all others are free.

    Directions below the cut are free. For inputs narrower than 256, whose moments are in float64, the default `rtol` is
    1e-12, so that small parts of kept inputs are kept beside a massive activation; for wider ones a warning names the
    inputs of which one direction sets the cut. Weights in half precision are kept as well as their rounding allows.

    Args:
        model: the model that is trained. Its weights are those whose inputs are kept.
        engrams: what is kept: concepts, statistics, engrams that `extract` made, grafts, or several of them in a list.
            What references have in common with a target is kept with it.
        filter: how much is kept of a direction of which the kept concepts own a share. The default keeps every
            direction of theirs whole: their outputs do not move, and nothing can be learned in these directions. With
            more positions than an input has dimensions these are all directions; `filters.hard(0.5)` keeps what is
            mostly theirs, and `filters.soft` as much of each direction as they own. A hard filter keeps what it keeps
            by an orthogonal projector, so that steps in other directions are not made longer.

        positions: `"every"` keeps every position of the target's texts, also BOS: attention reads them all, so only
            then do answers stay exactly as they are. `"counted"` keeps the positions that the concept counts, which
            leaves more to learn in. Of statistics, and of batches with a mask, what they count is kept.

    Returns:
        A context manager, with `moved()`, how far outputs of kept inputs have moved.

    Raises:
        ValueError: if there is nothing to keep, or concepts come with grafts.
        TypeError: if something else is given, or an engram that does not know what it was made from.
        RuntimeError: if the model is protected already.

    Example:
        >>> import torch
        >>> from engram_interp import testbed
        >>> model, concept = testbed.load("full"), testbed.authors().concept("Petra Dorlund")
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> with protect(model, concept) as kept:
        ...     model(torch.arange(9)[None], return_type="loss").backward()
        ...     optimizer.step()
        >>> bool(kept.moved()["moved"].max() < 1e-5)
        True
    """
    if positions not in (EVERY, COUNTED):
        raise ValueError(f"positions must be {EVERY!r} or {COUNTED!r}; got {positions!r}")
    require_filter(filter)
    adapter = adapt(model)
    kept = kept_of(adapter, engrams, positions, which, run)
    if kept.grafts and kept.statistics is not None:
        raise ValueError(
            "concepts and grafts cannot be kept together, since freezing entries undoes the projection of steps: keep "
            "the graft's concept in its place"
        )
    projections: dict[str, Projection] = {}
    frozen: dict[str, Tensor] = {}
    if kept.statistics is not None:
        adapter.learn(kept.statistics.reads)
        solve = Solve(**vars(cut), filter=filter)
        sites = [site for site in adapter.sites(which.components, which.layers) if site.key in kept.statistics.keys]
        projections = projections_of(adapter, kept.statistics, sites, solve)
        frozen = _others(adapter, token_shares(adapter, kept.concept), filter)
        frozen |= {key: torch.ones([1] * adapter.parameter(key).dim()) for key in _untouched(adapter, projections)}
        _warn_if_nothing_is_left(projections)
        _warn_of_moving_statistics(adapter)
    for graft in kept.grafts:
        for key, mask in graft.masks.items():
            frozen[key] = torch.maximum(frozen.get(key, torch.zeros(mask.shape)), mask.float())
    return Protection(adapter, projections, frozen)


def _warn_if_nothing_is_left(projections: Mapping[str, Projection]) -> None:
    """Warn of inputs all of whose directions are kept, so that their matrices cannot learn."""
    full = [name for name, one in projections.items() if len(one.P) - float(one.P.trace()) < LEAST_FREE]
    more = f" and {len(full) - 3} more" if len(full) > 3 else ""
    if full:
        logger.warning(
            "nothing can be learned in the matrices of %s%s: all directions of what they read are kept. A softer "
            "filter leaves some, as filters.soft", ", ".join(full[:3]), more,
        )  # fmt: skip


def _warn_of_moving_statistics(adapter: Adapter) -> None:
    """Warn of batch norms, whose statistics move in every pass in train mode."""
    moving = [
        name
        for name, one in adapter.named_modules().items()
        if one.training and getattr(one, "running_mean", None) is not None
    ]
    if moving:
        logger.warning(
            "the running statistics of %s move in train mode, and what is kept moves with them: call eval() on it",
            ", ".join(moving[:3]),
        )  # fmt: skip


def _untouched(adapter: Adapter, projections: Mapping[str, Projection]) -> list[str]:
    """The matrices that are not protected, and the biases that no projection holds: they stay as they are."""
    held = {site.path for one in projections.values() for site in one.readers}
    held |= {site.bias for one in projections.values() if one.absorbed for site in one.readers}
    return [path for path in parameter_paths(adapter.all_sites()) if path not in held]


def _others(adapter: Adapter, tokens: Tensor | None, filter: Function) -> dict[str, Tensor]:
    """How much is kept of the entries of parameters without a matrix: all, or by token in an embedding."""
    found = {key: torch.ones([1] * one.dim()) for key, one in adapter.other_parameters().items()}
    if tokens is None or not isinstance(adapter, LanguageAdapter):
        return found
    rows = values_of(filter, tokens.double()).float()[:, None]
    embeddings = [key for key, one in adapter.other_parameters().items() if share_memory(one, adapter.W_E)]
    if embeddings:
        return found | dict.fromkeys(embeddings, rows)
    # The embedding is the unembedding, whose bias goes with its rows.
    return found | {"unembed.W_U": rows.T, "unembed.b_U": rows[:, 0]}


class Protection:
    """Memories that are kept while a model learns; see `protect`.

    Args:
        adapter: the model.
        projections: what is kept of each input.
        frozen: how much of a step of each entry is undone, in [0, 1], by parameter: shapes expand to the parameter's.
    """

    def __init__(self, adapter: Adapter, projections: Mapping[str, Projection], frozen: Mapping[str, Tensor]) -> None:
        self._adapter, self._projections = adapter, dict(projections)
        self.n_steps = 0
        paths = parameter_paths(site for one in projections.values() for site in one.readers)
        held = holders(adapter, dict.fromkeys([*paths, *frozen]))
        self._keys = [key for key, some in held.items() if some]
        self._holders = {id(one) for some in held.values() for one in some}
        self._frozen = {key: share for key, share in frozen.items() if key in self._keys}
        if any(self._holders & other._holders for other in _active):
            raise RuntimeError(
                f"{adapter.info.name!r} is protected already, and two protections undo each other: give one of them "
                f"all that is kept, as protect(model, [a, b])"
            )
        self._start = {key: one.to("cpu", copy=True) for key, one in self._now().items()}
        self._before: dict[int, dict[str, Tensor]] = {}
        # Steps that are smaller than the grid of half precision add up here.
        self._exact = {key: one.to(torch.float32) for key, one in self._now().items() if one.dtype in HALF}
        self._versions = self._seen()
        self._handles = [
            register_optimizer_step_pre_hook(self._remember),
            register_optimizer_step_post_hook(self._project),
        ]
        _active.append(self)

    def __repr__(self) -> str:
        state = "on" if self._handles else "removed"
        return (
            f"Protection({len(self._projections)} inputs of {self._adapter.info.name!r}, {len(self._frozen)} frozen "
            f"parameters, {self.n_steps} steps, {state})"
        )

    def __enter__(self) -> Protection:
        if not self._handles:
            raise RuntimeError("this protection was removed: call protect again")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def remove(self) -> None:
        """End the protection. The model keeps what it has learned, and nothing is left on it."""
        if not self._handles:
            return
        self._warn_if_written()
        for handle in self._handles:
            handle.remove()
        self._handles = []
        _active.remove(self)

    def moved(self) -> pd.DataFrame:
        """How far every protected matrix has moved since the protection began.

        Returns:
            A row for each matrix that trains: `key`; `moved`, `|(W - W_start) X+| / |W_start X+|`, over the kept inputs
            as they were then; `worst`, the same of the input that moved most, missing where there are so many that only
            their moments are known; and `changed`, `|W - W_start| / |W_start|`.
        """
        now = {key: one.cpu() for key, one in self._now().items()}
        rows = []
        for one in self._projections.values():
            for site in one.readers:
                start, end = (one.matrix(site, tensors) for tensors in (self._start, now))
                changed = ((end - start).norm() / start.norm()).item()
                over_all, worst = one.moved(site, self._start, now)
                rows.append({"key": site.key, "moved": over_all, "worst": worst, "changed": changed})
        return pd.DataFrame(rows, columns=["key", "moved", "worst", "changed"])

    def _is_mine(self, optimizer: Optimizer) -> bool:
        """Whether an optimizer may write into what is protected."""
        return any(id(one) in self._holders for group in optimizer.param_groups for one in group["params"])

    def _remember(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """Before a step: the weights as they are."""
        del args, kwargs
        if self._is_mine(optimizer):
            self._warn_if_written()
            self._before[id(optimizer)] = {key: self._adapter.parameter(key).detach().clone() for key in self._keys}

    @torch.no_grad()
    def _project(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """After a step: the weights without what the step did to kept inputs and frozen entries."""
        del args, kwargs
        before = self._before.pop(id(optimizer), None)
        if before is None:
            return
        now = self._now()
        for one in self._projections.values():
            for site in one.readers:
                one.step(site, before, now, self._exact)
        for key, kept in self._frozen.items():
            share = kept.to(now[key])
            now[key].copy_(torch.where(share == 1, before[key], now[key] + (before[key] - now[key]) * share))
            if key in self._exact:
                self._exact[key].copy_(now[key])
        self.n_steps += 1
        self._versions = self._seen()

    def _now(self) -> dict[str, Tensor]:
        """The weights, which can be written into."""
        return {key: self._adapter.parameter(key).detach() for key in self._keys}

    def _seen(self) -> dict[str, int]:
        return {key: self._adapter.parameter(key)._version for key in self._keys}

    def _warn_if_written(self) -> None:
        """Warn if protected weights changed elsewhere than in an optimizer's step, where nothing is projected."""
        seen = self._seen()
        if written := [key for key, version in seen.items() if version != self._versions[key]]:
            logger.warning(
                "%s%s changed outside of an optimizer's step, where protect cannot keep them: step with a "
                "torch.optim.Optimizer", ", ".join(written[:3]),
                f" and {len(written) - 3} more" if len(written) > 3 else "",
            )  # fmt: skip
        self._versions = seen


_active: list[Protection] = []
"""The protections that are on."""
