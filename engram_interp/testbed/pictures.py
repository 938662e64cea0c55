"""`pictures("train" | "test")`: drawn objects of twenty kinds, which the testbed's classifier tells apart.

Kinds come in five families. Those of a family share their outline and differ in what is inside, as the classes of a
superclass look alike.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import TensorDataset

FAMILIES = ("round", "square", "star", "cross", "bars")
INSIDES = ("full", "hollow", "dotted", "split")
KINDS = tuple(f"{family} {inside}" for family in FAMILIES for inside in INSIDES)
SPLITS = {"train": (2000, 0), "test": (1000, 1)}
"""How many pictures there are, and the seed that they are drawn with."""


class Pictures(TensorDataset):
    """Pictures `[n 1 24 24]` in [0, 1], and their labels.

    Attributes:
        classes: the names of the labels.
    """

    classes = KINDS


def pictures(split: str = "train") -> Pictures:
    """The testbed's pictures: as many of each kind as chance makes.

    Args:
        split: `train`, which the classifier was trained on, or `test`.

    Raises:
        ValueError: if `split` is another one.

    Example:
        >>> found = pictures("test")
        >>> len(found), tuple(found[0][0].shape), found.classes[3]
        (1000, (1, 24, 24), 'round split')
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}; got {split!r}")
    n, seed = SPLITS[split]
    return Pictures(*objects(n, seed=seed))


def objects(n: int, size: int = 24, seed: int = 0) -> tuple[Float[Tensor, "n 1 h w"], Int[Tensor, "n"]]:
    """Drawn objects and their kinds. Kind `k` is of family `k // 4`.

    Args:
        n: how many.
        size: pixels along an edge.
        seed: of kinds, places, sizes, turns and noise.
    """
    rng = np.random.default_rng(seed)
    kinds = rng.integers(0, len(KINDS), n)
    drawn = np.stack([_object(rng, int(kind), size) for kind in kinds])
    return torch.tensor(drawn, dtype=torch.float32)[:, None], torch.tensor(kinds)


def _object(rng: np.random.Generator, kind: int, size: int) -> Float[np.ndarray, "h w"]:
    family, inside = FAMILIES[kind // len(INSIDES)], INSIDES[kind % len(INSIDES)]
    y, x = (2 * (grid + 0.5) / size - 1 for grid in np.mgrid[:size, :size].astype(float))
    x, y = x - rng.uniform(-0.15, 0.15), y - rng.uniform(-0.15, 0.15)
    turn, scale = rng.uniform(-0.35, 0.35), rng.uniform(0.6, 0.8)
    x, y = (x * np.cos(turn) + y * np.sin(turn)) / scale, (y * np.cos(turn) - x * np.sin(turn)) / scale
    bright = rng.uniform(0.6, 1.0)
    far = _OUTLINES[family](x, y)
    shape = sharp(1 - far) * _INSIDE[inside](x, y, far)
    return np.clip(bright * shape + rng.normal(0, 0.06, shape.shape), 0, 1)


def sharp(distance: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
    """1 inside, 0 outside, and smooth over a pixel or so."""
    return np.clip(0.5 + distance * 14, 0, 1)


def _star(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.hypot(x, y) / (0.7 + 0.3 * np.cos(5 * np.arctan2(x, y)))


_OUTLINES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "round": np.hypot,
    "square": lambda x, y: np.maximum(np.abs(x), np.abs(y)) / 0.85,
    "star": _star,
    "cross": lambda x, y: np.minimum(np.maximum(np.abs(x) / 0.38, np.abs(y)), np.maximum(np.abs(y) / 0.38, np.abs(x))),
    "bars": lambda x, y: np.maximum(np.abs(x), np.abs(np.abs(y) - 0.55) / 0.33),
}
"""How far out a point is: the outline is at 1."""
_INSIDE: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]] = {
    "full": lambda _x, _y, far: np.ones_like(far),
    "hollow": lambda _x, _y, far: sharp(far - 0.62),
    "dotted": lambda x, y, _far: 1 - sharp(0.3 - np.hypot(x, y)),
    "split": lambda x, _y, _far: sharp(np.abs(x) - 0.14),
}
"""What of the inside is filled."""
