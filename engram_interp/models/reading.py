"""What does a model carry at one of TransformerLens's hook points?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from engram_interp.concepts.batches import Batch
from engram_interp.models.hooks import HOOK, Stopped, hooked


def read(
    model: nn.Module, name: str, run: Callable[[Batch], None], batch: Batch, point: str
) -> Float[Tensor, "batch pos ..."]:
    """The activation at a hook point.

    Args:
        model: a model of TransformerLens's.
        name: what errors call it.
        run: runs the model over a batch.
        batch: what it reads.
        point: the hook point.

    Raises:
        ValueError: if the model has no such hook point, or the activation does not have one row a token.
        RuntimeError: if the hook point did not run.
    """
    module = _hook_point(model, name, point)
    seen: list[Tensor] = []

    def take(_module: nn.Module, _args: object, activation: Tensor) -> None:
        seen.append(activation.detach())
        raise Stopped

    with _switched_on(model, point), hooked([(module, take, HOOK)]), suppress(Stopped):
        run(batch)
    if not seen:
        raise RuntimeError(f"{point} of {name!r} did not run: its settings or its processed weights leave it out")
    if seen[0].shape[:2] != batch.tokens.shape:
        raise ValueError(f"{point} must carry rows by [batch pos]; got the shape {list(seen[0].shape)}")
    return seen[0]


def _hook_point(model: nn.Module, name: str, point: str) -> nn.Module:
    points: dict[str, nn.Module] = getattr(model, "hook_dict", {})
    if point in points:
        return points[point]
    if any(other.startswith(f"{point}.") for other in points):
        raise ValueError(f"something is spliced into {name!r} at {point}: take it out, as reset_saes() does")
    near = get_close_matches(point, points, n=3, cutoff=0.0)
    raise ValueError(f"{name!r} has no hook point {point!r}; the nearest are {', '.join(near)}")


@contextmanager
def _switched_on(model: Any, point: str) -> Iterator[None]:
    """Switch on the hook point of what an MLP reads: it runs only under a setting."""
    before = getattr(model.cfg, "use_hook_mlp_in", False)
    if before or not point.endswith("hook_mlp_in") or getattr(model.cfg, "attn_only", False):
        yield
        return
    model.set_use_hook_mlp_in(True)
    try:
        yield
    finally:
        model.set_use_hook_mlp_in(before)
