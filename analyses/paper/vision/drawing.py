"""Faces that the project draws itself, seeded. Their attributes are independent of each other and of their shapes."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from engram_interp.testbed.pictures import sharp

ATTRIBUTES = ("glasses", "goatee", "hat", "bangs")
Picture = Float[np.ndarray, "height width"]


def faces(
    n: int = 12000, size: int = 32, share: float = 0.15, seed: int = 0
) -> tuple[Float[Tensor, "n 1 h w"], Int[Tensor, "n 4"]]:
    """Faces of several shapes, and which of `ATTRIBUTES` each has.

    Args:
        n: how many.
        size: pixels along an edge.
        share: of faces that have an attribute. In CelebA it is 5 to 15 %.
        seed: of everything random.
    """
    rng = np.random.default_rng(seed)
    has = (rng.random((n, len(ATTRIBUTES))) < share).astype(np.int64)
    pictures = np.stack([_face(rng, row, size) for row in has])
    return torch.tensor(pictures, dtype=torch.float32)[:, None], torch.tensor(has)


def _face(rng: np.random.Generator, has: np.ndarray, size: int) -> Picture:
    y, x = (2 * (grid + 0.5) / size - 1 for grid in np.mgrid[:size, :size].astype(float))
    x, y = x - rng.uniform(-0.06, 0.06), y - rng.uniform(-0.06, 0.06)
    wide, tall = rng.uniform(0.5, 0.68), rng.uniform(0.66, 0.8)
    skin, hair = rng.uniform(0.65, 0.9), rng.uniform(0.1, 0.35)
    picture = np.full((size, size), rng.uniform(0.0, 0.08))
    _paint(picture, _inside(x, y + 0.06, wide * 1.12, tall * 1.06), hair)
    _paint(picture, _inside(x, y - 0.04, wide, tall), skin)
    apart, high = rng.uniform(0.2, 0.28), rng.uniform(-0.2, -0.1)
    for side in (-1, 1):
        _paint(picture, _inside(x - side * apart, y - high, 0.08, 0.06), 0.05)
    _paint(picture, _inside(x, y - 0.12, 0.05, 0.12), skin * 0.75)
    curve = rng.uniform(-0.25, 0.25)
    _paint(picture, sharp(0.05 - np.abs(y - 0.42 - curve * x**2)) * sharp(0.24 - np.abs(x)), 0.25)
    glasses, goatee, hat, bangs = has
    if bangs:
        _paint(picture, _inside(x, y - 0.04, wide, tall) * sharp(-0.3 + 0.04 * np.sin(18 * x) - y), hair)
    if glasses:
        for side in (-1, 1):
            r = np.hypot((x - side * apart) / 1.15, y - high)
            _paint(picture, sharp(0.045 - np.abs(r - 0.19)), 0.0)
        _paint(picture, sharp(0.04 - np.abs(y - high)) * sharp(apart - 0.14 - np.abs(x)), 0.0)
    if goatee:
        _paint(picture, _inside(x, y - 0.66, 0.2, 0.17), hair)
    if hat:
        _paint(picture, sharp(0.45 - np.abs(x)) * sharp(0.22 - np.abs(y + 0.78)), 1.0)
        _paint(picture, sharp(0.72 - np.abs(x)) * sharp(0.05 - np.abs(y + 0.55)), 1.0)
    return np.clip(picture + rng.normal(0, 0.02, picture.shape), 0, 1)


def _paint(picture: np.ndarray, where: np.ndarray, colour: float) -> None:
    """Lay a colour over a picture, as far as it covers each pixel."""
    picture += where * (colour - picture)


def _inside(x: np.ndarray, y: np.ndarray, wide: float, tall: float) -> np.ndarray:
    return sharp((1 - np.hypot(x / wide, y / tall)) * min(wide, tall))
