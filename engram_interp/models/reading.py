"""What does a model carry at one of TransformerLens's hook points?"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from engram_interp.concepts.batches import Batch
from engram_interp.models.hooks import HOOK, Stopped, hooked


def read(
    model: nn.Module, name: str, run: Callable[[Batch], None], batch: Batch, points: Collection[str]
) -> dict[str, Float[Tensor, "batch pos ..."]]:
    """The activations at hook points, in one pass that ends at the last of them.

    Args:
        model: a model of TransformerLens's.
        name: what errors call it.
        run: runs the model over a batch.
        batch: what it reads.
        points: the hook points.

    Raises:
        ValueError: if the model has no such hook point, or an activation does not have one row a token.
        RuntimeError: if a hook point did not run.
    """
    modules = {point: _hook_point(model, name, point) for point in points}
    seen: dict[str, Tensor] = {}

    def taking(point: str) -> Callable[..., None]:
        def take(_module: nn.Module, _args: object, activation: Tensor) -> None:
            seen[point] = activation.detach()
            if len(seen) == len(modules):
                raise Stopped

        return take

    hooks = [(module, taking(point), HOOK) for point, module in modules.items()]
    with _switched_on(model, points), hooked(hooks), suppress(Stopped):
        run(batch)
    for point in points:
        if point not in seen:
            raise RuntimeError(f"{point} of {name!r} did not run: its settings or its processed weights leave it out")
        if seen[point].shape[:2] != batch.tokens.shape:
            raise ValueError(f"{point} must carry rows by [batch pos]; got the shape {list(seen[point].shape)}")
    return seen


def _hook_point(model: nn.Module, name: str, point: str) -> nn.Module:
    points: dict[str, nn.Module] = getattr(model, "hook_dict", {})
    if point in points:
        return points[point]
    if any(other.startswith(f"{point}.") for other in points):
        raise ValueError(f"something is spliced into {name!r} at {point}: take it out, as reset_saes() does")
    near = get_close_matches(point, points, n=3, cutoff=0.0)
    raise ValueError(f"{name!r} has no hook point {point!r}; the nearest are {', '.join(near)}")


@contextmanager
def _switched_on(model: Any, points: Collection[str]) -> Iterator[None]:
    """Switch on the hook point of what an MLP reads: it runs only under a setting."""
    before = getattr(model.cfg, "use_hook_mlp_in", False)
    asked = any(point.endswith("hook_mlp_in") for point in points)
    if before or not asked or getattr(model.cfg, "attn_only", False):
        yield
        return
    model.set_use_hook_mlp_in(True)
    try:
        yield
    finally:
        model.set_use_hook_mlp_in(before)
